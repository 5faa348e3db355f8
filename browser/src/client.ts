// `Client`: a client that connects again by itself.

import type { Args, Group, Handles, Of, Result, Sent, Shape, Shaped } from "./api.js"
import { Backoff, mayDialAgain, onWake } from "./backoff.js"
import { FINISHED, type Channel } from "./channel.js"
import { now } from "./clock.js"
import { json, type Codec, type Message } from "./codec.js"
import { ConnectionLost, Refused, RemoteError, WsrpcError } from "./errors.js"
import { Handlers, report, type Handler } from "./handlers.js"
import { Peer, type PeerOwner } from "./peer.js"
import { Request, type CallOptions, type Holder, type Place } from "./request.js"
import { Items, Producer, type Progress, type Source } from "./streams.js"
import type { Address, SocketOptions, Target } from "./target.js"

/**
 * The state of a client: `draining` while it is connected to a server that is about to close, and `detached` while its
 * session waits for another connection.
 */
export type State = "connecting" | "open" | "draining" | "detached" | "closed"

/** @param resumed whether the client is `open` again with the session that it had */
export type Subscriber = (state: State, resumed: boolean) => void

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

export interface ClientOptions extends SocketOptions {
  /** How messages are encoded. Default: JSON. The entry point `msgpack` has another codec, for bytes. */
  readonly codec?: Codec
  /** Milliseconds after which a call fails, if it does not say otherwise. Default: 60,000. */
  readonly timeout?: number
  /** How many calls and events may wait while there is no connection. Default: 256. */
  readonly offline?: number
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
/** Milliseconds after which a full connection is looked at again. */
const ROOM = 20

/** A token is sent in the name of a subprotocol. Names may have these characters. */
const TOKEN = /^[\w!#$%&'*+.^`|~-]*$/

function checked<A extends string | URL | Address>(address: A): A {
  const { url = address, token = "" } = Object(address) as Address // programs without types pass anything
  if (typeof ((url as URL | null)?.href ?? url) !== "string") {
    throw new TypeError("a client takes one URL, { url, token } or a function that returns one")
  }
  if (TOKEN.test(token)) return address
  throw new TypeError("the token can only have letters, digits and !#$%&'*+-.^_`|~")
}

/** What waits for a session: a request or an event. */
interface Waiting {
  start(peer: Peer): void
  reject(error: Error): void
}

/** Makes one session after another, and keeps what waits for one. */
class Sessions implements PeerOwner, Holder {
  readonly options: ClientOptions
  readonly #target: Target
  readonly #handlers = new Map<string | undefined, Handlers>()
  readonly #subscribers = new Set<Subscriber>()
  readonly #listening = new AbortController()
  readonly #backoff = new Backoff()
  readonly #waiting = new Set<Waiting>()
  readonly counts: Record<string, number> = {}
  state: State = "connecting"
  /** Why there is no connection. */
  error: ConnectionLost | undefined
  #peer: Peer | undefined
  /** When the session has begun. 0 if there is none. */
  #openedAt = 0
  #roomTimer: ReturnType<typeof setTimeout> | undefined
  #dialTimer: ReturnType<typeof setTimeout> | undefined
  #retryAt: number | undefined

  constructor(target: Target, options: ClientOptions) {
    if (!(options.WebSocket ?? globalThis.WebSocket)) {
      throw new TypeError("there is no WebSocket: pass the class of the package ws, new Client(url, { WebSocket })")
    }
    this.#target = typeof target === "function" ? async () => checked(await target()) : checked(target)
    this.options = options
    this.#dial()
    onWake(() => this.connect(), this.#listening.signal)
  }

  connect(): void {
    if (this.#peer) this.#peer.retry()
    else if (this.state === "connecting") this.#dial()
  }

  get retryAt(): number | undefined {
    return this.#peer ? this.#peer.retryAt : this.#retryAt
  }

  get closesAt(): number | undefined {
    return this.#peer?.closesAt
  }

  #dial(): void {
    clearTimeout(this.#dialTimer)
    this.#retryAt = undefined
    this.#peer = new Peer(this.#target, this.options, this.options.codec ?? json, this)
  }

  subscribe(subscriber: Subscriber): () => void {
    this.#subscribers.add(subscriber)
    return () => void this.#subscribers.delete(subscriber)
  }

  /** Tells the subscribers of a state, which may be the one before: an attempt has failed. */
  #move(state: State, resumed = false): void {
    this.state = state
    for (const subscriber of [...this.#subscribers]) {
      if (this.state !== state) break // a subscriber has closed the client, of which all know already
      guarded(() => subscriber(state, resumed))
    }
  }

  // ------------------------------------------------------------ sending

  request(request: Request): Promise<any> {
    request.holder = this
    try {
      if (!request.isDone) this.#start(request, { a: [request.event, ...request.args], ...request.place })
    } catch (error) {
      request.reject(error)
    }
    return request.answer
  }

  withdraw(request: Request): boolean {
    return !this.#waiting.delete(request)
  }

  emit(place: Place, event: string, args: unknown[]): void {
    // Nobody learns what becomes of an event that waits, as of one that was sent.
    const message = { a: [event, ...args], ...place }
    this.#start({ start: (peer) => void peer.send(message), reject() {} }, message)
  }

  #start(waiting: Waiting, message: Message): void {
    if (this.#canStart(waiting)) waiting.start(this.#peer!)
    else if (this.state === "closed") throw this.error
    else if (this.#waiting.size >= (this.options.offline ?? 256) && !(this.#isConnected && waiting instanceof Request)) {
      throw new Refused(`${this.#waiting.size} messages wait to be sent already`)
    } else {
      // What cannot be sent is found now: nobody could catch it later. What a session can send, the next one can, too.
      if (this.#peer) this.#peer.check(message)
      else (this.options.codec ?? json).encode(message, false)
      this.#waiting.add(waiting)
      this.#watchRoom()
    }
  }

  /** If the session is lost, what is sent while it is detached goes to the next one. */
  get #isConnected(): boolean {
    return this.state === "open" || this.state === "draining"
  }

  #canStart(waiting: Waiting): boolean {
    return this.#isConnected && this.#peer!.hasRoom && this.#peer!.takes(waiting instanceof Request && waiting.opens)
  }

  // ------------------------------------------------------------ the course of a session

  handlers(channel: string | undefined): Handlers | undefined {
    return this.#handlers.get(channel)
  }

  handle(channel: string | undefined, event: string, handler: Handler): () => void {
    const handlers = this.#handlers.get(channel) ?? new Handlers()
    this.#handlers.set(channel, handlers)
    return handlers.add(event, handler)
  }

  /** Aborted when the client is closed. */
  get ended(): AbortSignal {
    return this.#listening.signal
  }

  opened(): void {
    this.#openedAt = now()
    this.error = undefined
    this.#move("open") // what subscribers send goes before what has waited
    this.#startWaiting()
  }

  detached(error: ConnectionLost): void {
    this.error = error
    this.#move("detached")
  }

  resumed(): void {
    this.state = this.#peer!.drains ? "draining" : "open"
    this.#startWaiting()
    this.error = undefined
    this.#move(this.state, true)
  }

  draining(): void {
    this.#move("draining")
  }

  waits(waiting: Iterable<Request>): void {
    for (const request of waiting) {
      request.holder = this
      this.#waiting.add(request)
    }
  }

  #startWaiting(): void {
    for (const waiting of [...this.#waiting]) {
      if (!this.#canStart(waiting)) continue
      this.#waiting.delete(waiting)
      guarded(() => waiting.start(this.#peer!))
    }
    this.#watchRoom()
  }

  /** A WebSocket does not tell when it has written what it was given, so this asks, as long as something waits. */
  #watchRoom(): void {
    if (!this.#waiting.size || !this.#isConnected || this.#peer!.hasRoom) return
    this.#roomTimer ??= setTimeout(() => {
      this.#roomTimer = undefined
      this.#startWaiting()
    }, ROOM)
  }

  closed(error: ConnectionLost): void {
    const code = error.code as number
    const lasted = this.#openedAt && now() - this.#openedAt
    this.#openedAt = 0
    this.#peer = undefined
    if (this.state === "closed") return
    if (mayDialAgain(code)) {
      this.error = error
      const delay = this.#backoff.delay(code, lasted)
      this.#retryAt = Date.now() + delay
      this.#dialTimer = setTimeout(() => this.#dial(), delay)
      this.#move("connecting")
    } else this.#end(error)
  }

  close(code: number, reason: string): void {
    if (this.state === "closed") return
    const peer = this.#peer
    peer?.close(code, reason)
    this.#end(new ConnectionLost("the client is closed", "not_sent", code))
    peer?.end(code, reason) // at once: a server that is silent does not answer the Close frame
  }

  #end(error: ConnectionLost): void {
    this.error = error
    this.#retryAt = undefined
    this.#listening.abort()
    clearTimeout(this.#dialTimer)
    this.#move("closed")
    for (const waiting of this.#waiting) guarded(() => waiting.reject(error))
    this.#waiting.clear()
  }

  ignored(kind: string): void {
    this.counts[kind] = (this.counts[kind] ?? 0) + 1
  }
}

function guarded(run: () => void): void {
  try {
    run()
  } catch (error) {
    report(error)
  }
}

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
  protected readonly sessions: Sessions
  readonly #place: Place
  readonly #options: WithOptions

  constructor(sessions: Sessions, place: Place, options: WithOptions) {
    this.sessions = sessions
    this.#place = place
    this.#options = { timeout: sessions.options.timeout ?? 60_000, ...options }
  }

  /** Returns the same caller with other options. */
  with(options: WithOptions): Caller<A> {
    // An AbortController is accepted, too. Its signal belongs to its class, so that it is not copied with the others.
    const signal = options.signal ?? this.#options.signal
    return new Caller<A>(this.sessions, this.#place, { ...this.#options, ...options, signal })
  }

  /** Returns the caller of a named channel. */
  of<K extends keyof Group<A, "channels"> & string>(channel: K): Caller<Shaped<Of<A, "channels", K>>> {
    return new Caller(this.sessions, { c: channel }, this.#options)
  }

  /**
   * Handles events and requests of the server. The result, or what an iterable yields, is sent to it.
   *
   * @returns a function that removes the handler
   */
  on<K extends keyof Group<A, "handlers"> & string>(event: K, handler: Handles<Of<A, "handlers", K>>): () => void {
    return this.sessions.handle(this.#place.c, event, handler as Handler)
  }

  /**
   * Sends an event. Without a connection it waits.
   *
   * @throws ConnectionLost if the client is closed
   * @throws Refused if too much waits for a connection, or the event is larger than the server accepts
   * @throws TypeError if an argument cannot be encoded
   */
  emit<K extends keyof Group<A, "requests"> & string>(event: K, ...args: Args<Of<A, "requests", K>>): void {
    this.sessions.emit(this.#place, event, args)
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
        await pause(Math.random() * 250 * 2 ** attempt, [this.#options.signal, this.sessions.ended])
      }
    }
  }

  #request(event: string, args: unknown[], opens: boolean): Promise<any> {
    return this.sessions.request(new Request(this.#place, event, args, this.#options, opens))
  }

  #isRepeated(error: unknown): boolean {
    if (this.sessions.state === "closed" || !(error instanceof WsrpcError)) return false
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
    return new Items<any>(() => this.#request(event, args, true))
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
    const channel: Channel = await this.#request(event, args, true)
    try {
      await new Producer(channel, progress).run(source)
      const answer = channel.ask("next", [{ done: true }], { timeout })
      // A wsrpc server has ended the channel with either answer.
      const end = (error: unknown) => void (error instanceof RemoteError && channel.givesCredit && channel.over(error))
      await answer.then(() => channel.over(FINISHED), end)
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
    super(new Sessions(target, options), {}, {})
    this.status = {
      get: () => this.sessions.state,
      subscribe: (subscriber) => this.sessions.subscribe(subscriber),
    }
  }

  /**
   * Why there is no connection: how the last attempt to connect has failed, or the last connection has ended. Its
   * `code` is the close code. Undefined while the client is `open`.
   */
  get error(): ConnectionLost | undefined {
    return this.sessions.error
  }

  /** When the next attempt to connect begins, as `Date.now()` will be then. Undefined if none waits. */
  get retryAt(): number | undefined {
    return this.sessions.retryAt
  }

  /**
   * When the server closes the connection, because it drains, as `Date.now()` will be then. Undefined if it does not
   * drain, or does not say when.
   */
  get closesAt(): number | undefined {
    return this.sessions.closesAt
  }

  /** Connects now, if the next attempt waits. Otherwise it has no effect. */
  connect(): void {
    this.sessions.connect()
  }

  /** Counts the messages that were ignored, by kind. */
  get ignored(): Readonly<Record<string, number>> {
    return this.sessions.counts
  }

  /** Ends the session, and connects no more. The server is told. */
  close(code = 1000, reason = ""): void {
    this.sessions.close(code, reason)
  }
}

export type { Address, Channel, Codec, Items, Progress, Shape, Source, Target }
export type { Call } from "./peer.js"
export { Aborted, ChannelClosed, ConnectionLost, Refused, RemoteError, RequestTimeout, WsrpcError } from "./errors.js"
export type { Outcome } from "./errors.js"
