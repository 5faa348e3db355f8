// `ClientCore`: the sessions of a client.

import { Backoff, mayDialAgain } from "./backoff.js"
import { now } from "./clock.js"
import { json, type Codec, type Message } from "./codec.js"
import { ConnectionLost, Refused } from "./errors.js"
import { Handlers, report, type Handler } from "./handlers.js"
import { onWake } from "./page.js"
import { PeerCore, type PeerOwner } from "./peer.js"
import { Request, type ChannelRef, type Holder, type Requester } from "./request.js"
import type { Address, SocketOptions, Target } from "./target.js"

/**
 * The state of a client: `draining` while it is connected to a server that is about to close, and `detached` while its
 * session waits for another connection.
 */
export type State = "connecting" | "open" | "draining" | "detached" | "closed"

/** @param resumed whether the client is `open` again with the session that it had */
export type Subscriber = (state: State, resumed: boolean) => void

export interface ClientOptions extends SocketOptions {
  /** How messages are encoded. Default: JSON. The entry point `msgpack` has another codec, for bytes. */
  readonly codec?: Codec
  /** Milliseconds after which a request fails, if it has no `timeout` of its own. Default: 60,000. */
  readonly requestTimeout?: number
  /** How many calls and events may wait while there is no connection. Default: 256. */
  readonly offline?: number
}

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
interface Queued {
  start(peer: PeerCore): void
  reject(error: Error): void
}

/** Makes one session after another, and keeps what waits for one. */
export class ClientCore implements Holder, PeerOwner, Requester {
  readonly options: ClientOptions
  readonly #target: Target
  readonly #handlers = new Map<string | undefined, Handlers>()
  readonly #subscribers = new Set<Subscriber>()
  readonly #listening = new AbortController()
  readonly #backoff = new Backoff()
  readonly #queue = new Set<Queued>()
  readonly ignored: Record<string, number> = {}
  state: State = "connecting"
  /** Why there is no connection. */
  error: ConnectionLost | undefined
  #peer: PeerCore | undefined
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
    this.#peer = new PeerCore(this.#target, this.options, this.options.codec ?? json, this)
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
      if (!request.isDone) this.#start(request, { a: [request.event, ...request.args], ...request.channel })
    } catch (error) {
      request.reject(error)
    }
    return request.answer
  }

  withdraw(request: Request): boolean {
    return !this.#queue.delete(request)
  }

  emit(channel: ChannelRef, event: string, args: unknown[]): void {
    // Nobody learns what becomes of an event that waits, as of one that was sent.
    const message = { a: [event, ...args], ...channel }
    this.#start({ start: (peer) => void peer.send(message), reject() {} }, message)
  }

  #start(queued: Queued, message: Message): void {
    if (this.#canStart(queued)) queued.start(this.#peer!)
    else if (this.state === "closed") throw this.error
    else if (this.#queue.size >= (this.options.offline ?? 256) && !(this.#isConnected && queued instanceof Request)) {
      throw new Refused(`${this.#queue.size} messages wait to be sent already`)
    } else {
      // What cannot be sent is found now: nobody could catch it later. What a session can send, the next one can, too.
      if (this.#peer) this.#peer.check(message)
      else (this.options.codec ?? json).encode(message, false)
      this.#queue.add(queued)
      this.#watchRoom()
    }
  }

  /** If the session is lost, what is sent while it is detached goes to the next one. */
  get #isConnected(): boolean {
    return this.state === "open" || this.state === "draining"
  }

  #canStart(queued: Queued): boolean {
    return this.#isConnected && this.#peer!.hasRoom && this.#peer!.takes(queued instanceof Request && queued.opens)
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
    this.#startQueue()
  }

  sessionDetached(error: ConnectionLost): void {
    this.error = error
    this.#move("detached")
  }

  resumed(): void {
    this.state = this.#peer!.drains ? "draining" : "open"
    this.#startQueue()
    this.error = undefined
    this.#move(this.state, true)
  }

  draining(): void {
    this.#move("draining")
  }

  requeue(requests: Iterable<Request>): void {
    for (const request of requests) {
      request.holder = this
      this.#queue.add(request)
    }
  }

  #startQueue(): void {
    for (const queued of [...this.#queue]) {
      if (!this.#canStart(queued)) continue
      this.#queue.delete(queued)
      guarded(() => queued.start(this.#peer!))
    }
    this.#watchRoom()
  }

  /** A WebSocket does not tell when it has written what it was given, so this asks, as long as something waits. */
  #watchRoom(): void {
    if (!this.#queue.size || !this.#isConnected || this.#peer!.hasRoom) return
    this.#roomTimer ??= setTimeout(() => {
      this.#roomTimer = undefined
      this.#startQueue()
    }, ROOM)
  }

  sessionOver(error: ConnectionLost): void {
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
    for (const queued of this.#queue) guarded(() => queued.reject(error))
    this.#queue.clear()
  }

  ignore(kind: string): void {
    this.ignored[kind] = (this.ignored[kind] ?? 0) + 1
  }
}

function guarded(run: () => void): void {
  try {
    run()
  } catch (error) {
    report(error)
  }
}
