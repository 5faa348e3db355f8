// The types that programs with a client use: those of what both sides call, and of the objects that calls give them.

// ------------------------------------------------------------ what both sides call, as `wsrpc types` writes it

type Functions = { [event: string]: (...args: any[]) => any }

/**
 * What can be called on one channel, and in `channels` on those with a name. `wsrpc types` writes such a type, `Api`. A
 * group that is left out is empty. Only without `handlers`, any event can be handled.
 */
export interface Shape {
  /** Requests and events that the server handles. */
  requests?: Functions
  /** Streams that the server sends. The result is one item. */
  streams?: Functions
  /** Uploads that the server reads. The first parameter is one item. */
  uploads?: Functions
  /** Channels that the server opens. The result is the `Shape` of the channel, or `void` if that is not known. */
  conversations?: Functions
  /** Requests and events that the server sends. */
  handlers?: Functions
  channels?: { [name: string]: Shape }
}

/** The members of a group, by their names. */
export type Group<A extends Shape, G extends keyof Shape> = G extends keyof A
  ? NonNullable<A[G]>
  : G extends "handlers"
    ? Functions
    : {}

// Names are written as `K extends keyof Group<...> & string`. Errors would show a type with a name of its own, and not
// the names in the group. What is `any` takes both branches of each type below.

/** What has a name in a group. */
export type Of<A extends Shape, G extends keyof Shape, K> = K extends keyof Group<A, G> ? Group<A, G>[K] : any

export type Args<F> = F extends (...args: infer P extends any[]) => any ? P : any[]
export type Result<F> = F extends (...args: any[]) => infer R ? R : any
/** The source of an upload, and the arguments after it. */
export type Sent<F> =
  Args<F> extends [infer T, ...infer P] ? [source: Source<T>, ...args: P] : [source: Source<any>, ...args: any[]]
/** The shape of a channel, if it is known. */
export type Shaped<T> = T extends Shape ? T : any
/** What handles `F`. It may be async. The result of a handler of which none is wanted is dropped. */
export type Handles<F> = (
  this: Call,
  ...args: Args<F>
) => [Result<F>] extends [void] ? unknown : Result<F> | Promise<Result<F>>

// ------------------------------------------------------------ what calls take and give

export interface CallOptions {
  /** Aborts the call. */
  readonly signal?: AbortSignal | undefined
  /** Milliseconds until the call fails. 0 or `Infinity`: it waits as long as it has to. */
  readonly timeout?: number | undefined
}

/** What can be sent as a stream. */
export type Source<T> = AsyncIterable<T> | Iterable<T>

/** How much of an upload was sent. */
export interface Progress {
  readonly items: number
  /** The bytes in the items: those of a `Uint8Array` or an `ArrayBuffer`, and otherwise those of the message. */
  readonly bytes: number
}

/** The items of a stream, for one reader. Leaving the loop ends the stream. */
export interface Items<T> extends AsyncIterableIterator<T, undefined> {
  return(): Promise<IteratorResult<T, undefined>>
}

/** A call of the server: `this` in a handler. */
export interface Call {
  /** Undefined for an event. */
  readonly id: number | undefined
  /** Aborted when the server cancels the call, or its channel or the session ends. Never for an event. */
  readonly signal: AbortSignal
  /** Answers the request with a channel, for a conversation. The channel ends when the handler has returned. */
  channel(): Channel
  /** Returns the items that the server uploads. What the handler returns is the result of the upload. */
  items<T>(): Items<T>
}

/** An anonymous channel, for a conversation. It ends with its session. */
export interface Channel<A extends Shape = any> {
  readonly id: number
  readonly isOpen: boolean
  /** Resolves when the channel has ended: with the error, or with undefined if it ended in good order. */
  readonly closed: Promise<Error | undefined>
  /**
   * Handles events and requests of this name. What came before the first handler is delivered when the present code has
   * run, so that all handlers can be registered before.
   *
   * @returns a function that removes the handler
   */
  on<K extends keyof Group<A, "handlers"> & string>(event: K, handler: Handles<Of<A, "handlers", K>>): () => void
  /** @throws ChannelClosed if the channel has ended */
  emit<K extends keyof Group<A, "requests"> & string>(event: K, ...args: Args<Of<A, "requests", K>>): void
  /** @throws ChannelClosed if the channel has ended, or ends before the answer has come */
  request<K extends keyof Group<A, "requests"> & string>(
    event: K,
    ...args: Args<Of<A, "requests", K>>
  ): Promise<Result<Of<A, "requests", K>>>
  /** Returns what makes requests with a signal or a timeout. Without one, they wait as long as the channel is open. */
  with(options: CallOptions): Pick<Channel<A>, "request">
  /** Ends the channel in good order. */
  close(): void
  /** Ends the channel. The other side gets the reason. */
  abort(reason?: unknown): void
}
