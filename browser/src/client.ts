// `Client`: a client that reconnects.

import type {
  Args,
  Call,
  Channel,
  Group,
  Handles,
  Items,
  ItemsOf,
  KeyOptions,
  MessageOptions,
  Of,
  OutgoingCall,
  OutgoingMiddleware,
  Progress,
  Result,
  Sent,
  Shape,
  Shaped,
  Source,
} from "./api.js"
import { FINISHED, type ChannelCore } from "./channel_core.js"
import type { Codec } from "./codec.js"
import { ClientCore, type ClientOptions, type State, type Subscriber } from "./client_core.js"
import { contextOf, type Metadata } from "./call_context.js"
import { ConnectionLost, RemoteError, WsrpcError } from "./errors.js"
import { Following } from "./following.js"
import { report, type Handler } from "./handlers.js"
import { Producer } from "./producer.js"
import { Request, type ChannelRef, type RequestOptions } from "./request.js"
import { Room, type Present, type RoomOptions } from "./room.js"
import { randomText } from "./session.js"
import { Stream } from "./stream.js"
import type { Address, Target } from "./target.js"

/** The state of a client, as the two functions that `useSyncExternalStore` of React needs. */
export interface Status {
  get(): State
  /**
   * Calls a function when the state has changed, and when an attempt to connect has failed. After a failed attempt,
   * `error` and `retryAt` of the client have new values.
   *
   * @returns a function that ends the subscription
   */
  subscribe(subscriber: Subscriber): () => void
}

/** Options of calls, for `with`. */
export interface WithOptions extends KeyOptions {
  /**
   * Repeats a request that has failed: with true, if its handler did not run; with "idempotent", also if its handler
   * may have run. The timeout is for each attempt. A `key` makes "idempotent" safe, unless it is private to a session.
   */
  readonly retry?: boolean | "idempotent"
  /** Called after each item of an upload was sent. */
  readonly progress?: (progress: Progress) => void
}

/** The options of a caller: those of `with`, and the time limit of the client. */
type Options = WithOptions & RequestOptions
/** A call with its options, which the middleware gets. */
type Leaving = OutgoingCall & Options

/** The most attempts of a request with `retry`. */
const MAX_ATTEMPTS = 8

/** Waits until the time is over, or one of the signals is aborted. */
function pause(ms: number, signals: (AbortSignal | undefined)[]): Promise<void> {
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer)
      for (const signal of signals) signal?.removeEventListener("abort", finish)
      resolve()
    }
    const timer = setTimeout(finish, ms)
    for (const signal of signals) signal?.addEventListener("abort", finish)
    if (signals.some((signal) => signal?.aborted)) finish()
  })
}

/** Makes calls on the main channel or a named channel, with certain options. */
class Caller<A extends Shape = any> {
  declare protected readonly core: ClientCore
  readonly #channel: ChannelRef
  readonly #options: Options

  constructor(core: ClientCore, channel: ChannelRef, options: Options) {
    this.core = core
    this.#channel = channel
    this.#options = options
  }

  /** Returns the same caller with other options. */
  with(options: WithOptions): Caller<A> {
    // An AbortController works as `options`, too. The spread does not copy its `signal`, a getter of its class.
    const signal = options.signal ?? this.#options.signal
    return new Caller<A>(this.core, this.#channel, { ...this.#options, ...options, signal })
  }

  /** Returns the caller of a named channel. */
  of<K extends keyof Group<A, "channels"> & string>(channel: K): Caller<Shaped<Of<A, "channels", K>>> {
    return new Caller(this.core, { c: channel }, this.#options)
  }

  /**
   * Handles events and requests of the server, which gets the result. If the result is a generator or another async
   * iterable, the server gets its items as a stream.
   *
   * @returns a function that removes the handler
   */
  on<K extends keyof Group<A, "handlers"> & string>(event: K, handler: Handles<Of<A, "handlers", K>>): () => void {
    return this.core.handle(this.#channel.c, event, handler as Handler)
  }

  /**
   * Sends an event. Without a connection, the event waits.
   *
   * @throws ConnectionLost if the client is closed
   * @throws Refused if too many messages wait for a connection, or the event is larger than the server accepts
   * @throws TypeError if an argument cannot be encoded
   */
  emit<K extends keyof Group<A, "requests"> & string>(event: K, ...args: Args<Of<A, "requests", K>>): void {
    this.#leave("event", event, args)?.catch?.(report) // the middleware may be async
  }

  /** Sends a request, and returns the answer. */
  async request<K extends keyof Group<A, "requests"> & string>(
    event: K,
    ...args: Args<Of<A, "requests", K>>
  ): Promise<Result<Of<A, "requests", K>>> {
    return this.#leave("request", event, args)
  }

  /** Sends a call or an event, with the middleware around it. */
  #leave(kind: OutgoingCall["kind"], event: string, args: unknown[]): any {
    const call = {
      ...this.#options,
      kind,
      channel: this.#channel.c,
      event,
      args,
      metadata: { ...this.#options.metadata },
    }
    if (kind === "event" && this.#options.key != null) throw new TypeError("an event has no key: use request()")
    const send = () =>
      kind === "event"
        ? this.core.add({ message: { a: [event, ...args], ctx: contextOf(call), ...this.#channel } })
        : this.#request(call)
    const wrap = (next: () => any, middleware: OutgoingMiddleware) => () => middleware(call, next)
    return [...this.core.outgoing].reduceRight(wrap, send)()
  }

  /** Sends a request, again and again if it has failed and has the option `retry`. */
  async #request(call: Leaving): Promise<any> {
    const { kind, event, retry } = call
    const opens = kind !== "request"
    const args = retry ? this.core.copied(call.args) : call.args
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.core.request(new Request(this.#channel, event, args, call, opens))
      } catch (error) {
        if (opens || !retry || attempt === MAX_ATTEMPTS || !this.#mayRepeat(error)) throw error
        await pause(Math.random() * 250 * 2 ** attempt, [this.#options.signal, this.core.ended])
      }
    }
  }

  #mayRepeat(error: unknown): boolean {
    if (this.core.state === "closed" || !(error instanceof WsrpcError)) return false
    if (error instanceof ConnectionLost) return error.outcome === "not_sent" || this.#options.retry === "idempotent"
    return error.code === "wsrpc.overloaded" || error.code === "wsrpc.draining"
  }

  /** Opens a channel for a conversation with the handler. The signal aborts the channel, too. */
  async open<K extends keyof Group<A, "conversations"> & string>(
    event: K,
    ...args: Args<Of<A, "conversations", K>>
  ): Promise<Channel<Shaped<Result<Of<A, "conversations", K>>>>> {
    return this.#leave("conversation", event, args)
  }

  /** Returns the items that the handler yields. The request is sent when the first item is read. */
  stream<K extends keyof Group<A, "streams"> & string>(
    event: K,
    ...args: Args<Of<A, "streams", K>>
  ): ItemsOf<Result<Of<A, "streams", K>>> {
    const sendMessage = (message: unknown, { id = randomText() ?? `${Math.random()}`, ...options }: MessageOptions = {}) => {
      const own = { timeout: 0, ...options, message: id, after: 0, retry: "idempotent" } as const
      return this.with(own).#leave("request", event, [...args, message])
    }
    return new Stream<any>(async () => this.#leave("stream", event, args), undefined, this.#options, sendMessage) as any
  }

  /**
   * Returns the items of a stream with a key, which continues in each new session, until the client is closed:
   * `client.with({ key }).follow("generate", prompt)`.
   */
  follow<K extends keyof Group<A, "streams"> & string>(
    event: K,
    ...args: Args<Of<A, "streams", K>>
  ): ItemsOf<Result<Of<A, "streams", K>>> {
    return new Following<any>((after) => this.with({ after }).stream(event, ...args), this.#options) as any
  }

  /**
   * Sends the items of an iterable to the handler, as fast as the handler reads them, and returns its result. The
   * timeout limits two waits: until the handler has started, and from the last item to the result.
   */
  async upload<K extends keyof Group<A, "uploads"> & string>(
    event: K,
    ...[source, ...args]: Sent<Of<A, "uploads", K>>
  ): Promise<Result<Of<A, "uploads", K>>> {
    const { progress, timeout, requestTimeout } = this.#options
    const channel: ChannelCore = await this.#leave("upload", event, args)
    try {
      await new Producer(channel, progress).run(source)
      const answer = channel.with({ requestTimeout: timeout ?? requestTimeout }).request("next", { done: true })
      // A wsrpc server has ended the channel with either answer.
      const end = (error: unknown) => void (error instanceof RemoteError && channel.hasCredit && channel.end(error))
      await answer.then(() => channel.end(FINISHED), end)
      return await answer
    } catch (error) {
      if (!channel.isOpen) throw (await channel.closed) ?? error
      channel.abort(error)
      throw error
    }
  }
}

/**
 * A client of a server. It connects at once, and reconnects after each drop. If the server uses wsrpc, calls and
 * streams survive a dropped connection.
 */
export class Client<A extends Shape = any> extends Caller<A> {
  /** The state now, and its changes: `useSyncExternalStore(client.status.subscribe, client.status.get)`. */
  readonly status: Status = {
    get: () => this.core.state,
    subscribe: (subscriber) => this.core.subscribe(subscriber),
  }

  /**
   * @throws TypeError if there is no WebSocket class, or the address or the token is not valid. If `target` is a
   *   function, its results are checked at each attempt to connect
   * @throws SyntaxError if the scheme of the address is not `http`, `https`, `ws` or `wss`
   */
  constructor(target: Target, options: ClientOptions = {}) {
    super(new ClientCore(target, options), {}, { requestTimeout: options.requestTimeout ?? 60_000 })
  }

  /**
   * Runs a function around each event, request, stream, upload and conversation of the page, once for all attempts of a
   * request, and not for what is sent on an anonymous channel. The function that was added first is the outermost one.
   *
   * @returns a function that removes it
   */
  useOutgoing(middleware: OutgoingMiddleware): () => void {
    this.core.outgoing.add(middleware)
    return () => this.core.outgoing.delete(middleware)
  }

  /**
   * Joins a room of the server, now and in each new session. If the room has a log, the page then gets the events that
   * it has missed. Until the page leaves the room, each call with this name returns the same object.
   */
  room(name: string, options: RoomOptions = {}): Room {
    const channel = new Caller(this.core, { c: "rooms" }, { retry: true })
    const room = this.core.rooms.get(name) as Room | undefined
    return room && !room.isLeft ? room : new Room(this.core, channel, name, options)
  }

  /**
   * Why there is no connection: the error of the last attempt to connect, or of the end of the last connection. Its
   * `code` is the close code. Undefined while the client is `open`.
   */
  get error(): ConnectionLost | undefined {
    return this.core.error
  }

  /** What carries the present connection. Undefined if there is none. */
  get transport(): "websocket" | "http" | undefined {
    const connection = this.core.peer?.session.connection
    return connection && ("onreplace" in connection ? "http" : "websocket")
  }

  /**
   * What the server handles and emits, to compare with the `CONTRACT` of generated types. Known when the first
   * answer of a session has arrived, and not checked. Undefined if the server does not say its `program`.
   */
  get contract(): unknown {
    return this.core.contract
  }

  /** When the next attempt to connect starts, as a time like `Date.now()`. Undefined if the client does not wait. */
  get retryAt(): number | undefined {
    return this.core.retryAt
  }

  /**
   * When the server closes the connection, because it drains, as a time like `Date.now()`. Undefined if the server does
   * not drain, or does not announce the time.
   */
  get closesAt(): number | undefined {
    return this.core.peer?.draining?.closesAt
  }

  /** Connects now, if the client waits for its next attempt, or is `closed`. Otherwise it has no effect. */
  connect(): void {
    this.core.connect()
  }

  /**
   * Looks whether the connection is alive, and dials another one at once. Call it when the program goes on after a
   * suspend, and has no page that says so: in React Native, Electron or a worker. It has no effect on a closed client.
   */
  wake(): void {
    this.core.wake()
  }

  /** The numbers of ignored messages, by kind. */
  get ignored(): Readonly<Record<string, number>> {
    return this.core.ignored
  }

  /** Ends the session, which the server learns at once. The client does not connect again, except by `connect`. */
  close(code = 1000, reason = ""): void {
    this.core.close(code, reason)
  }
}

export type { Address, Call, Caller, Channel, ClientOptions, Codec, Items, ItemsOf, MessageOptions, Metadata }
export type { OutgoingCall, WithMessages } from "./api.js"
export type { OutgoingMiddleware, Present, Progress, Room, RoomOptions, Shape, Source, State, Subscriber, Target }
export { Aborted, ChannelClosed, ConnectionLost, Refused, RemoteError, RequestTimeout, WsrpcError } from "./errors.js"
export type { Outcome } from "./errors.js"
