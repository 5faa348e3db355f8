// `Client`: a client that connects again by itself.

import type {
  Args,
  Call,
  CallOptions,
  Channel,
  Group,
  Handles,
  Items,
  Of,
  Progress,
  Result,
  Sent,
  Shape,
  Shaped,
  Source,
} from "./api.js"
import { FINISHED, type ChannelCore } from "./channel.js"
import type { Codec } from "./codec.js"
import { ClientCore, type ClientOptions, type State, type Subscriber } from "./core.js"
import { ConnectionLost, RemoteError, WsrpcError } from "./errors.js"
import type { Handler } from "./handlers.js"
import { Producer } from "./producer.js"
import { Request, type ChannelRef } from "./request.js"
import { Stream } from "./stream.js"
import type { Address, Target } from "./target.js"

/** The state of a client, with the functions that `useSyncExternalStore` of React takes. */
export interface Status {
  get(): State
  /**
   * Calls a function when the state has changed, and when an attempt to connect has failed: `error` and `retryAt` of
   * the client are new then.
   *
   * @returns a function that ends the subscription
   */
  subscribe(subscriber: Subscriber): () => void
}

/** Options of calls, for `with`. */
export interface WithOptions extends CallOptions {
  /**
   * Repeats a request: with true, if its handler did not run; with "idempotent", also if that is unknown. The timeout
   * is that of each attempt.
   */
  readonly retry?: boolean | "idempotent"
  /** Called after each item of an upload that was sent. */
  readonly progress?: (progress: Progress) => void
}

const MOST_ATTEMPTS = 8

/** Waits, but not longer than until one of the signals is aborted. */
function pause(ms: number, signals: (AbortSignal | undefined)[]): Promise<void> {
  return new Promise((resolve) => {
    const go = () => {
      clearTimeout(timer)
      for (const signal of signals) signal?.removeEventListener("abort", go)
      resolve()
    }
    const timer = setTimeout(go, ms)
    for (const signal of signals) signal?.addEventListener("abort", go)
    if (signals.some((signal) => signal?.aborted)) go()
  })
}

/** Makes calls: on the main channel or a named one, with certain options. */
export class Caller<A extends Shape = any> {
  protected readonly core: ClientCore
  readonly #channel: ChannelRef
  readonly #options: WithOptions

  constructor(core: ClientCore, channel: ChannelRef, options: WithOptions) {
    this.core = core
    this.#channel = channel
    this.#options = { timeout: core.options.requestTimeout ?? 60_000, ...options }
  }

  /** Returns the same caller with other options. */
  with(options: WithOptions): Caller<A> {
    // An AbortController is accepted, too. Its signal belongs to its class, so that it is not copied with the others.
    const signal = options.signal ?? this.#options.signal
    return new Caller<A>(this.core, this.#channel, { ...this.#options, ...options, signal })
  }

  /** Returns the caller of a named channel. */
  of<K extends keyof Group<A, "channels"> & string>(channel: K): Caller<Shaped<Of<A, "channels", K>>> {
    return new Caller(this.core, { c: channel }, this.#options)
  }

  /**
   * Handles events and requests of the server. The result, or what an iterable yields, is sent to it.
   *
   * @returns a function that removes the handler
   */
  on<K extends keyof Group<A, "handlers"> & string>(event: K, handler: Handles<Of<A, "handlers", K>>): () => void {
    return this.core.handle(this.#channel.c, event, handler as Handler)
  }

  /**
   * Sends an event. Without a connection it waits.
   *
   * @throws ConnectionLost if the client is closed
   * @throws Refused if too much waits for a connection, or the event is larger than the server accepts
   * @throws TypeError if an argument cannot be encoded
   */
  emit<K extends keyof Group<A, "requests"> & string>(event: K, ...args: Args<Of<A, "requests", K>>): void {
    this.core.emit(this.#channel, event, args)
  }

  request<K extends keyof Group<A, "requests"> & string>(
    event: K,
    ...args: Args<Of<A, "requests", K>>
  ): Promise<Result<Of<A, "requests", K>>> {
    return this.#options.retry ? this.#repeat(event, args) : this.#request(event, args, false)
  }

  async #repeat(event: string, args: unknown[]): Promise<any> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#request(event, args, false)
      } catch (error) {
        if (attempt === MOST_ATTEMPTS || !this.#isRepeated(error)) throw error
        await pause(Math.random() * 250 * 2 ** attempt, [this.#options.signal, this.core.ended])
      }
    }
  }

  #request(event: string, args: unknown[], opens: boolean): Promise<any> {
    return this.core.request(new Request(this.#channel, event, args, this.#options, opens))
  }

  #isRepeated(error: unknown): boolean {
    if (this.core.state === "closed" || !(error instanceof WsrpcError)) return false
    if (error instanceof ConnectionLost) return error.outcome === "not_sent" || this.#options.retry === "idempotent"
    return error.code === "wsrpc.overloaded" || error.code === "wsrpc.draining"
  }

  /** Opens a channel for a conversation with the handler. The signal aborts the channel, too. */
  open<K extends keyof Group<A, "conversations"> & string>(
    event: K,
    ...args: Args<Of<A, "conversations", K>>
  ): Promise<Channel<Shaped<Result<Of<A, "conversations", K>>>>> {
    return this.#request(event, args, true)
  }

  /** Returns the items that the handler yields. The request is sent when reading begins. */
  stream<K extends keyof Group<A, "streams"> & string>(
    event: K,
    ...args: Args<Of<A, "streams", K>>
  ): Items<Result<Of<A, "streams", K>>> {
    return new Stream<any>(() => this.#request(event, args, true))
  }

  /**
   * Sends the items of an iterable to the handler, as fast as it reads them, and returns its result. The timeout is for
   * the begin, until the handler can read, and for the end, from the last item to the result.
   */
  async upload<K extends keyof Group<A, "uploads"> & string>(
    event: K,
    ...[source, ...args]: Sent<Of<A, "uploads", K>>
  ): Promise<Result<Of<A, "uploads", K>>> {
    const { progress, timeout } = this.#options
    const channel: ChannelCore = await this.#request(event, args, true)
    try {
      await new Producer(channel, progress).run(source)
      const answer = channel.ask("next", [{ done: true }], { timeout })
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
 * A client of a server, which connects at once, and again whenever that is necessary. Calls and streams survive a
 * dropped connection if the server uses wsrpc.
 */
export class Client<A extends Shape = any> extends Caller<A> {
  /** The state now, and its changes: `useSyncExternalStore(client.status.subscribe, client.status.get)`. */
  readonly status: Status

  /**
   * @throws TypeError if there is no WebSocket class, or the address or the token is not valid. Those of a function are
   *   checked at each attempt
   * @throws SyntaxError if the address is not one of `http`, `https`, `ws` or `wss`
   */
  constructor(target: Target, options: ClientOptions = {}) {
    super(new ClientCore(target, options), {}, {})
    this.status = {
      get: () => this.core.state,
      subscribe: (subscriber) => this.core.subscribe(subscriber),
    }
  }

  /**
   * Why there is no connection: how the last attempt to connect has failed, or the last connection has ended. Its
   * `code` is the close code. Undefined while the client is `open`.
   */
  get error(): ConnectionLost | undefined {
    return this.core.error
  }

  /** When the next attempt to connect begins, as `Date.now()` will be then. Undefined if none waits. */
  get retryAt(): number | undefined {
    return this.core.retryAt
  }

  /**
   * When the server closes the connection, because it drains, as `Date.now()` will be then. Undefined if it does not
   * drain, or does not say when.
   */
  get closesAt(): number | undefined {
    return this.core.closesAt
  }

  /** Connects now, if the next attempt waits. Otherwise it has no effect. */
  connect(): void {
    this.core.connect()
  }

  /** Counts the messages that were ignored, by kind. */
  get ignored(): Readonly<Record<string, number>> {
    return this.core.ignored
  }

  /** Ends the session, and connects no more. The server is told. */
  close(code = 1000, reason = ""): void {
    this.core.close(code, reason)
  }
}

export type { Address, Call, Channel, ClientOptions, Codec, Items, Progress, Shape, Source, State, Subscriber, Target }
export { Aborted, ChannelClosed, ConnectionLost, Refused, RemoteError, RequestTimeout, WsrpcError } from "./errors.js"
export type { Outcome } from "./errors.js"
