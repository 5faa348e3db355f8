// `ClientCore`: the inside of a client.

import { Backoff, mayDialAgain } from "./backoff.js"
import type { OutgoingMiddleware } from "./api.js"
import { now } from "./clock.js"
import { json, type Codec, type Message } from "./codec.js"
import { ConnectionLost, Refused } from "./errors.js"
import { guarded, Handlers, type Handler } from "./handlers.js"
import { listenToPage, type PageOwner } from "./page_events.js"
import { PeerCore, type PeerOwner, type Rooms } from "./peer_core.js"
import { Request, type Holder } from "./request.js"
import type { Address, SocketOptions, Target } from "./target.js"

/**
 * The state of a client: `draining` while it is connected to a server that is about to close, and `detached` while its
 * session waits for another connection.
 */
export type State = "connecting" | "open" | "draining" | "detached" | "closed"

/** Function that is called with each state. `resumed` is true if the client is `open` again with the same session. */
export type Subscriber = (state: State, resumed: boolean) => void

/** Options of a `Client`. */
export interface ClientOptions extends SocketOptions {
  /** How messages are encoded. Default: JSON. The entry point `msgpack` has another codec, for bytes. */
  readonly codec?: Codec
  /** Milliseconds after which a request fails, if it has no `timeout` of its own. Default: 60,000. */
  readonly requestTimeout?: number
  /** How many calls and events may wait while there is no connection. Default: 256. */
  readonly offline?: number
}

/** Milliseconds until this side checks again whether a full connection has room. */
const ROOM_CHECK = 20

/** The characters of a token, which is sent in the name of a subprotocol. */
const TOKEN = /^[\w!#$%&'*+.^`|~-]*$/

function checked<A extends string | URL | Address>(address: A): A {
  const { url = address, token = "" } = Object(address) as Address // a program without types may pass anything
  if (typeof ((url as URL | null)?.href ?? url) !== "string") {
    throw new TypeError("a client takes one URL, { url, token } or a function")
  }
  if (TOKEN.test(token)) return address
  throw new TypeError("a token has letters, digits and _!#$%&'*+.^`|~-")
}

/** A request, or the message of an event. */
type Queued = Request | { readonly message: Message; readonly opens?: false }

/** The inside of a client: makes one session after another, and keeps the messages that wait for a session. */
export class ClientCore implements Holder, PageOwner, PeerOwner {
  readonly #options: ClientOptions
  readonly #codec: Codec
  readonly #target: Target
  readonly #handlers = new Map<string | undefined, Handlers>()
  readonly #subscribers = new Set<Subscriber>()
  #listening = new AbortController()
  readonly #backoff = new Backoff(() => this.#dial())
  readonly #queue = new Set<Queued>()
  readonly outgoing = new Set<OutgoingMiddleware>()
  readonly rooms: Rooms = new Map()
  readonly ignored: Record<string, number> = {}
  state: State = "connecting"
  /** Why there is no connection. */
  declare error: ConnectionLost | undefined
  /** What the server of the present or last session says of its contract. */
  declare contract: unknown
  /** The present session. Undefined while the client is closed, or waits until it dials again. */
  declare peer: PeerCore | undefined
  #roomTimer: ReturnType<typeof setTimeout> | undefined

  constructor(target: Target, options: ClientOptions) {
    if (!(options.WebSocket ?? globalThis.WebSocket)) {
      throw new TypeError("no WebSocket: pass { WebSocket } of the package ws")
    }
    this.#target = typeof target === "function" ? async () => checked(await target()) : checked(target)
    this.#options = options
    this.#codec = options.codec ?? json
    this.#start()
  }

  #start(): void {
    this.#dial()
    listenToPage(this, this.ended)
  }

  connect(): void {
    if (this.peer) this.peer.session.retry()
    else if (this.state === "connecting") this.#dial()
    else {
      this.#listening = new AbortController()
      this.#start()
      this.#enter("connecting")
    }
  }

  wake(probablyLost = true): void {
    this.peer?.session.wake(probablyLost)
    if (this.state !== "closed") this.connect()
  }

  park(mayWake: boolean): void {
    this.peer?.session.park(mayWake)
  }

  /** Aborted when the client is closed. */
  get ended(): AbortSignal {
    return this.#listening.signal
  }

  get retryAt(): number | undefined {
    return (this.peer?.session.dialing.backoff ?? this.#backoff).retryAt
  }

  #dial(): void {
    this.#backoff.stop()
    this.peer = new PeerCore(this.#target, this.#options, this.#codec, this)
  }

  subscribe(subscriber: Subscriber): () => void {
    this.#subscribers.add(subscriber)
    return () => this.#subscribers.delete(subscriber)
  }

  /** Enters a state and notifies the subscribers. After a failed attempt to connect, the state may be the same. */
  #enter(state: State, resumed = false): void {
    this.state = state
    for (const subscriber of [...this.#subscribers]) {
      if (this.state !== state) break // a subscriber has closed the client, and all subscribers know that already
      guarded(() => subscriber(state, resumed))
    }
  }

  // ------------------------------------------------------------ sending

  request(request: Request): Promise<any> {
    request.holder = this
    try {
      if (!request.isDone) this.add(request)
    } catch (error) {
      request.reject(error)
    }
    return request.answer
  }

  withdraw(request: Request): boolean {
    return !this.#queue.delete(request)
  }

  /** Sends a request or an event, or adds it to the queue. */
  add(queued: Queued): void {
    if (!this.#roomTimer && this.#canSend(queued)) this.#send(queued)
    else if (this.state === "closed") throw this.error
    else if (this.#queue.size >= (this.#options.offline ?? 256) && !(this.#isConnected && queued instanceof Request)) {
      throw new Refused(`${this.#queue.size} messages wait`)
    } else {
      // The message is checked now: later, no caller could catch the error. The next session has the same limits.
      this.peer?.encode(queued.message)
      queued.message.a = this.copied(queued.message.a!)
      this.#queue.add(queued)
      this.#waitForRoom()
    }
  }

  /**
   * Returns a copy of the arguments of a call that waits, because the page may change them meanwhile.
   *
   * @throws TypeError if an argument cannot be encoded
   */
  copied(a: readonly unknown[]): unknown[] {
    return this.#codec.decode(this.#codec.encode({ a: a as unknown[] }, true))!.a!
  }

  #send(queued: Queued): void {
    if (queued instanceof Request) void this.peer!.request(queued)
    else this.peer!.send(queued.message)
  }

  /** Not while the session is detached: if the session is lost, the messages of that time go to the next session. */
  get #isConnected(): boolean {
    return this.state === "open" || this.state === "draining"
  }

  #canSend(queued: Queued): boolean {
    return (
      this.#isConnected &&
      this.peer!.hasRoom(queued.message) &&
      (this.peer!.draining?.accepts(queued.opens) ?? true)
    )
  }

  // ------------------------------------------------------------ for the peer

  handlers(channel: string | undefined): Handlers | undefined {
    return this.#handlers.get(channel)
  }

  handle(channel: string | undefined, event: string, handler: Handler): () => void {
    const handlers = this.#handlers.get(channel) ?? new Handlers()
    this.#handlers.set(channel, handlers)
    return handlers.add(event, handler)
  }

  opened(): void {
    this.error = undefined
    const before = [...this.#queue]
    this.#enter("open") // before the queue, so that messages of subscribers are sent first, and wait first
    for (const queued of before) if (this.#queue.delete(queued)) this.#queue.add(queued)
    this.sendQueue()
  }

  sessionDetached(error: ConnectionLost): void {
    this.error = error
    this.#enter("detached")
  }

  resumed(): void {
    this.state = this.peer!.draining ? "draining" : "open"
    this.sendQueue()
    this.error = undefined
    this.#enter(this.state, true)
  }

  drainAnnounced(): void {
    this.#enter("draining")
  }

  requeue(requests: Iterable<Request>): void {
    for (const request of requests) {
      request.holder = this
      this.#queue.add(request)
    }
  }

  sendQueue(): void {
    clearTimeout(this.#roomTimer)
    this.#roomTimer = undefined
    for (const queued of [...this.#queue]) {
      if (this.#canSend(queued) && this.#queue.delete(queued)) guarded(() => this.#send(queued))
    }
    this.#waitForRoom()
  }

  /** Sends the queue when the connection has room. A WebSocket has no event for that, so a timer checks it. */
  #waitForRoom(): void {
    const [first] = this.#queue
    if (first && this.#isConnected && !this.peer!.hasRoom(first.message)) {
      this.#roomTimer ??= setTimeout(() => this.sendQueue(), ROOM_CHECK)
    }
  }

  sessionOver(peer: PeerCore, error: ConnectionLost): void {
    if (peer !== this.peer) return // the client was closed
    const code = error.code as number
    const { openedAt } = peer
    this.peer = undefined
    if (mayDialAgain(code)) {
      this.error = error
      this.#backoff.start(code, openedAt === undefined ? 0 : now() - openedAt)
      this.#enter("connecting")
    } else this.#end(error)
  }

  close(code: number, reason: string): void {
    if (this.state === "closed") return
    const peer = this.peer
    peer?.session.close(code, reason)
    this.#end(new ConnectionLost("the client is closed", "not_sent", code))
    peer?.sessionOver(code, reason) // at once, because a silent server does not answer the Close frame
  }

  #end(error: ConnectionLost): void {
    this.peer = undefined
    this.error = error
    this.#listening.abort()
    this.#backoff.stop()
    this.#enter("closed")
    for (const queued of this.#queue) if (queued instanceof Request) queued.reject(error)
    this.#queue.clear()
  }

  ignore(kind: string): void {
    this.ignored[kind] = (this.ignored[kind] ?? 0) + 1
  }
}
