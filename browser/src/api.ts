// The types for programs with a client: of the handlers on both sides, and of the objects that calls return.

import type { Metadata } from "./call_context.js"

// ------------------------------------------------------------ handlers on both sides, as `wsrpc types` writes them

/** Functions by their names. */
export type Functions = { [event: string]: (...args: any[]) => any }

/**
 * The events of one channel, and in `channels` those of each named channel. `wsrpc types` writes such a type, `Api`. A
 * group that is missing is empty; but without `handlers`, the page may handle any event.
 */
export interface Shape {
  /** Requests and events that the server handles. */
  requests?: Functions
  /** Streams that the server sends. The result is one item. */
  streams?: Functions
  /** Uploads that the server reads. The first parameter is one item. */
  uploads?: Functions
  /** Conversations. The result is the `Shape` of the channel, or `void` if the shape is not known. */
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

// Signatures contain `K extends keyof Group<...> & string`, because error texts would show the name of a named type and
// not the names in the group. For `any`, each type below has both of its branches.

/** The function with a name in a group. */
export type Of<A extends Shape, G extends keyof Shape, K> = K extends keyof Group<A, G> ? Group<A, G>[K] : any

/** The arguments of a function. */
export type Args<F> = F extends (...args: infer P extends any[]) => any ? P : any[]
/** The result of a function. */
export type Result<F> = F extends (...args: any[]) => infer R ? R : any
/** The source of an upload, and the arguments after it. */
export type Sent<F> =
  Args<F> extends [infer T, ...infer P] ? [source: Source<T>, ...args: P] : [source: Source<any>, ...args: any[]]
/** The shape of a channel, or `any` if the shape is not known. */
export type Shaped<T> = T extends Shape ? T : any
/** The handler of `F`, which may be async. If `F` returns nothing, the handler may return anything. */
export type Handles<F> = (
  this: Call,
  ...args: Args<F>
) => [Result<F>] extends [void] ? unknown : Result<F> | Promise<Result<F>>

// ------------------------------------------------------------ options and objects of calls

/** Options of requests on a channel. */
export interface CallOptions {
  /** Aborts the call. */
  readonly signal?: AbortSignal | undefined
  /**
   * Milliseconds until the call fails. With 0 or `Infinity`, it has no time limit. The handler learns how much time is
   * left: `ctx.remaining` in Python.
   */
  readonly timeout?: number | undefined
  /**
   * Texts that travel with the call, by their names: `ctx.metadata` in Python. At most 32, with 4,096 bytes together. A
   * name has 1 to 64 ASCII characters, and no spaces. A server without wsrpc does not get them.
   */
  readonly metadata?: Metadata | undefined
}

/** Options of requests and streams on the main channel and on named channels. */
export interface KeyOptions extends CallOptions {
  /**
   * Makes the call run once, however often it is made with this key: later calls get the result or the items of the
   * first one. The handler needs `keep=` in Python. Uploads, conversations and events have no keys.
   */
  readonly key?: string | null | undefined
  /** Where a stream with a key continues: the `position` of its earlier reader, or a number of items to skip. */
  readonly after?: string | number | null | undefined
}

/** A call or an event that the page makes, for outgoing middleware. */
export interface OutgoingCall extends KeyOptions {
  readonly kind: "event" | "request" | "stream" | "upload" | "conversation"
  /** Undefined for the main channel. */
  readonly channel: string | undefined
  readonly event: string
  readonly args: readonly unknown[]
  /** What travels with the call. The middleware may change it before it calls `next`. */
  readonly metadata: Record<string, string>
}

/**
 * Runs around a call or an event. `next` sends it, and returns nothing for an event, a promise of the result for a
 * request, and a promise of the open channel for a stream, an upload or a conversation. What the middleware returns
 * takes the place of this result.
 */
export type OutgoingMiddleware = (call: OutgoingCall, next: () => any) => unknown

/** The items of an upload. A `File` or another `Blob` is sent in pieces of 64 KiB, each a `Uint8Array`. */
export type Source<T> = AsyncIterable<T> | Iterable<T> | (Uint8Array extends T ? Blob : never)

/** The progress of an upload: the items and bytes that were sent. */
export interface Progress {
  readonly items: number
  /** The bytes of each `Uint8Array` or `ArrayBuffer`. For other items, the bytes of their messages. */
  readonly bytes: number
}

/** In the shape of a server, the items of a stream whose handler gets messages. */
export interface WithMessages<T, M> {
  readonly $items: T
  readonly $messages: M
}

/** The items of a stream, and the messages that it takes, as the shape of a server declares them. */
export type ItemsOf<R> = R extends WithMessages<infer T, infer M> ? Items<T, M> : Items<R>

/** The items of a stream, for one reader. The stream ends when the reader's loop exits. */
export interface Items<T, M = any> extends AsyncIterableIterator<T, undefined> {
  /**
   * The position of the last item that was read, for the option `after`. Until the stream has opened, it is the
   * position that was passed as `after`. Undefined without a key.
   */
  readonly position: string | undefined
  /**
   * Stops the handler of a stream with a key, for all its readers. Leaving the loop only ends the reading.
   *
   * @throws TypeError if the stream has no key
   * @throws ChannelClosed if the stream has ended
   */
  stop(): Promise<void>
  /**
   * Sends a message to the handler of a stream with a key: `ctx.inbox()` in Python. It waits, also over lost sessions,
   * until the handler has read the message. The stream need not be read. Of this user, the same `id` is the same message.
   *
   * @throws RemoteError with the code "wsrpc.not_read" if the handler has ended before, or takes no more
   * @throws TypeError if the stream has no key
   */
  send(message: M, options?: MessageOptions): Promise<void>
  return(): Promise<IteratorResult<T, undefined>>
}

/** Options of a message for the handler of a stream. */
export interface MessageOptions extends CallOptions {
  readonly id?: string
}

/** A call of the server: `this` in a handler. */
export interface Call {
  /** The id of the request. Undefined for an event. */
  readonly id: number | undefined
  /** Aborted when the server cancels the call, or its channel or the session ends. Never for an event. */
  readonly signal: AbortSignal
  /** The metadata that the server has sent with the call. */
  readonly metadata: Metadata
  /** Milliseconds for which the server still waits. Undefined if it has not set a timeout, and for an event. */
  readonly remaining: number | undefined
  /** The room with a log in which the server has emitted the event. */
  readonly room: string | undefined
  /** The position of the event in this log. */
  readonly position: string | undefined
  /** Answers the request with a channel, for a conversation. The channel ends when the handler has returned. */
  channel(): Channel
  /** Returns the items that the server uploads. The handler's result is the result of the upload. */
  items<T>(): Items<T>
}

/** An anonymous channel, for a conversation. It ends with its session. */
export interface Channel<A extends Shape = any> {
  readonly id: number
  readonly isOpen: boolean
  /** Resolves when the channel has ended: with the error, or with undefined if the channel ended in good order. */
  readonly closed: Promise<Error | undefined>
  /**
   * Handles events and requests of this name. Messages that arrived before the first handler are delivered after the
   * present code has run, so that it can register all its handlers first.
   *
   * @returns a function that removes the handler
   */
  on<K extends keyof Group<A, "handlers"> & string>(event: K, handler: Handles<Of<A, "handlers", K>>): () => void
  /**
   * Sends an event.
   *
   * @throws ChannelClosed if the channel has ended
   */
  emit<K extends keyof Group<A, "requests"> & string>(event: K, ...args: Args<Of<A, "requests", K>>): void
  /**
   * Sends a request.
   *
   * @throws ChannelClosed if the channel has ended, or ends before the answer has arrived
   */
  request<K extends keyof Group<A, "requests"> & string>(
    event: K,
    ...args: Args<Of<A, "requests", K>>
  ): Promise<Result<Of<A, "requests", K>>>
  /** Makes requests with a signal or a timeout. Without a timeout, a request waits as long as the channel is open. */
  with(options: CallOptions): Pick<Channel<A>, "request">
  /** Ends the channel in good order. */
  close(): void
  /** Ends the channel immediately. The server gets the reason. */
  abort(reason?: unknown): void
}
