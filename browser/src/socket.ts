// `SessionSocket`: a WebSocket that survives drops.

import { Backoff, mayDialAgain } from "./backoff.js"
import { now } from "./clock.js"
import { isCounted, readControl, writeControl, type Control } from "./control.js"
import { sizeOf, type Data } from "./data.js"
import { Acknowledger, ReplayBuffer, type Kept } from "./ledger.js"
import { onStop, onWake } from "./page.js"
import type { Address, SocketOptions, Target, WebSocketClass, WebSocketLike } from "./target.js"

export type { Address, SocketOptions, Target, WebSocketClass, WebSocketLike }

/** What a socket reports to, beyond what a WebSocket has. `Client` has one. */
export interface SocketOwner {
  /** Features that this side offers in addition to `resume` and `probe`. */
  readonly features: readonly string[]
  /** Takes a message of `size` bytes, instead of the event `message`. */
  receive?(data: Data, size: number): void
  /** Takes control messages that are not about the session, and those with the server's features and limits. */
  control(message: Control): void
  /** The connection has dropped, or an attempt to resume has failed. Another one follows. */
  detached?(code: number, reason: string): void
  /** Whether calls are pending, so that silence is noticed soon even if nobody sees the page. */
  busy(): boolean
}

const PLAIN: SocketOwner = { features: [], control() {}, busy: () => false }

/** Offered when a session is to resume: browsers can send no header. */
const HINT = "wsrpc.resume"
/** Offered along with a token: Chrome fails a connection none of whose offers is accepted. */
const NEUTRAL = "wsrpc"
const RESUMES = 4412
const ABNORMAL = 1006
const EXPIRED = 4411

/** Milliseconds for an attempt to connect, and for the answer to a `resume`. */
const ATTEMPT = 10_000
const ANSWER = 5_000
/** The attempts without an answer after which the server never answers. */
const MOST_SILENCES = 2
/** Milliseconds of silence after which this side asks whether the connection is alive: if anybody waits, and if not. */
const QUIET = 5_000
const QUIET_UNSEEN = 30_000
/** Milliseconds in which a connection that is alive answers; and when the page has just woken up. */
const PATIENCE = 4_000
const PATIENCE_AWAKE = 2_000
/** The most milliseconds: the answer comes later if a large message comes before it, over a slow network. */
const PATIENCE_MOST = 60_000
/** More milliseconds than that fire a timer at once. */
const LONGEST_TIMER = 2 ** 31 - 1
/** Bytes of a reason in a Close frame. */
const LONGEST_REASON = 123
const WOKEN = "the page has woken up"
const SILENT = "the server does not answer"
const MISMATCH = "the server counts differently"

enum State {
  /** The first connection is being made. */
  Connecting,
  Open,
  /** The connection has dropped, and the session waits for the next attempt to connect. */
  Detached,
  /** An attempt to connect is in progress, or the server has been asked to resume the session. */
  Resuming,
  /** This side closes the connection, and the session ends with it. */
  Closing,
  /** The session is over. */
  Closed,
}
type Timer = ReturnType<typeof setTimeout> | undefined

export interface SessionSocketEventMap {
  readonly open: Event
  readonly message: MessageEvent
  readonly error: Event
  readonly close: CloseEvent
  /** The connection has dropped, and the session waits for another one. */
  readonly detached: Event
  /** The session goes on over another connection. */
  readonly resumed: Event
}
type Listener<K extends keyof SessionSocketEventMap> = (this: WebSocket, event: SessionSocketEventMap[K]) => unknown

/**
 * A session with a wsrpc server, with the interface of a `WebSocket`. When its connection drops, it connects again, and
 * both sides send what has not arrived. Meanwhile it stays `OPEN`, and what is sent waits.
 *
 * In addition to the events of a WebSocket there are `detached` and `resumed`. When the session is lost, there is one
 * `close`, and the object stays `CLOSED`. With a server that has no sessions, it is an ordinary WebSocket.
 */
export class SessionSocket extends EventTarget implements WebSocket {
  static readonly CONNECTING = 0
  static readonly OPEN = 1
  static readonly CLOSING = 2
  static readonly CLOSED = 3
  readonly CONNECTING = 0
  readonly OPEN = 1
  readonly CLOSING = 2
  readonly CLOSED = 3

  /** The subprotocol that the server has chosen among those of the page. */
  protocol = ""
  readonly extensions = ""

  readonly #target: Target
  readonly #protocols: readonly string[]
  readonly #options: SocketOptions
  readonly #owner: SocketOwner
  readonly #backoff = new Backoff()
  /** Removes the listeners of page events. */
  readonly #listening = new AbortController()
  #state = State.Connecting
  #url = ""
  #binaryType: BinaryType = "blob"
  /** The connection, or the one that is being made. */
  #connection: WebSocketLike | undefined
  /** Distinguishes the present attempt to connect from those that were given up. */
  #attempt = 0
  /** When the connection was opened, or the attempt to make it has begun. */
  #since = 0
  /** When the next attempt begins, as `Date.now()` will be then, if it waits. For `Client`. */
  retryAt: number | undefined
  /** Until the next attempt, the end of an attempt, the end of the wait for an answer, or the next look for silence. */
  #timer: Timer

  /** Whether the server answers probes. Undefined before its welcome. */
  #probes: boolean | undefined
  #sid = ""
  #token: unknown
  /** Milliseconds that the session lives without a connection. */
  #ttl = 0
  /** Counts the attempts to resume, for the server. */
  #gen = 0
  #silences = 0
  #expiryTimer: Timer
  /** What was sent, if the session can resume. */
  #sent: ReplayBuffer | undefined
  readonly #received = new Acknowledger((ack) => this.#say(ack))

  /** When something has last arrived. */
  #heardAt = 0
  /** When the answer to a probe is due. */
  #answerDue: number | undefined
  #patience = PATIENCE

  /**
   * @param target where to connect. If it is a function, it is called for each attempt
   * @param protocols subprotocols to offer
   * @throws SyntaxError if the address is not valid, as for a WebSocket
   */
  constructor(target: Target, protocols: string | string[] = [], options: SocketOptions = {}, owner: SocketOwner = PLAIN) {
    super()
    // They come before the listeners that are added later.
    for (const type of ["open", "message", "error", "close", "detached", "resumed"] as const) {
      this[`on${type}`] = null
      this.addEventListener(type, (event) => this[`on${type}`]?.(event as never))
    }
    this.#target = target
    this.#protocols = typeof protocols === "string" ? [protocols] : [...protocols]
    this.#options = options
    this.#owner = owner
    this.#dial()
    onWake((sure) => this.#wake(sure), this.#listening.signal)
    onStop((mayWake) => (mayWake ? this.#park() : this.close()), this.#listening.signal)
  }

  get url(): string {
    return this.#url
  }

  get readyState(): 0 | 1 | 2 | 3 {
    if (this.#state === State.Connecting) return SessionSocket.CONNECTING
    if (this.#state === State.Closing) return SessionSocket.CLOSING
    return this.#state === State.Closed ? SessionSocket.CLOSED : SessionSocket.OPEN
  }

  get binaryType(): BinaryType {
    return this.#binaryType
  }

  set binaryType(type: BinaryType) {
    if (type !== "blob" && type !== "arraybuffer") return // as a WebSocket does
    this.#binaryType = type
    if (this.#connection) this.#connection.binaryType = type
  }

  /** Bytes that no connection has written so far. While the session is detached, all bytes that are kept. */
  get bufferedAmount(): number {
    const waits = this.#state === State.Detached || this.#state === State.Resuming
    return waits ? this.#sent!.bytes : (this.#connection?.bufferedAmount ?? 0)
  }

  /**
   * Sends a message, or keeps it for the next connection.
   *
   * @throws InvalidStateError while the first connection is being made
   */
  send(data: string | ArrayBuffer | ArrayBufferView | Blob): void {
    if (this.#state === State.Connecting) throw new DOMException("the connection is not open yet", "InvalidStateError")
    this.post(snapshot(data))
  }

  /** Sends a message as `send` does, and returns what is kept of it. For `Client`. */
  post(data: Data, size?: number): Kept | undefined {
    if (this.readyState !== SessionSocket.OPEN) return { data, size: 0, sent: false }
    const full = this.fullness > 1
    const connected = this.#state === State.Open && !full
    const kept = this.#sent?.keep(data, size ?? sizeOf(data), connected)
    if (connected) this.#connection!.send(data)
    if (full) {
      const unread = this.#sent ? undefined : this.#connection
      this.#end(4408, "too much waits to be sent")
      unread?.terminate?.() // the package ws would keep what waits for 30 s, because nobody reads the Close frame
    }
    return kept
  }

  /** How much waits to be sent, or may have to be sent again: more than 1 ends the session. For `Client`. */
  get fullness(): number {
    const waits = this.#sent?.memory ?? this.#connection?.bufferedAmount ?? Infinity
    return waits / (this.#options.buffer ?? 16 * 1024 * 1024)
  }

  /** Takes back a message that no connection has got. For `Client`. Returns false if it is too late. */
  takeBack(kept: Kept): boolean {
    if (kept.sent || !this.#sent) return false
    this.#sent.takeBack(kept)
    return true
  }

  /**
   * Ends the session. If there is a connection, the server is told, and frees the session at once.
   *
   * @throws InvalidAccessError if the code is neither 1000 nor one from 3000 to 4999
   * @throws SyntaxError if the reason has more than 123 bytes
   */
  close(code = 1000, reason = ""): void {
    if (code !== 1000 && !(code >= 3000 && code <= 4999)) {
      throw new DOMException(`the close code must be 1000 or 3000-4999, not ${code}`, "InvalidAccessError")
    }
    if (sizeOf(reason) > LONGEST_REASON) throw new DOMException("the reason is too long", "SyntaxError")
    if (this.#state === State.Connecting) this.#end(ABNORMAL, "closed")
    else if (this.#state === State.Open) {
      if (this.#sent) this.#say({ t: "gone", why: "closed" })
      this.#received.stop() // Chrome reports it in the console if something is sent on a connection that closes
      this.#state = State.Closing
      this.#connection!.close(code, reason)
    } else if (this.readyState === SessionSocket.OPEN) this.#end(code, reason)
  }

  // ------------------------------------------------------------ connections

  #dial(): void {
    const attempt = ++this.#attempt
    const target = this.#target
    const open = (address: string | URL | Address) => attempt === this.#attempt && this.#open(address)
    const fail = (error: unknown) => attempt === this.#attempt && this.#connectionLost(ABNORMAL, String(error), false)
    this.#since = now()
    this.retryAt = undefined
    if (typeof target === "function") Promise.resolve().then(target).then(open).catch(fail)
    else if (this.#state === State.Connecting) open(target) // a wrong one throws in the constructor
    else Promise.resolve(target).then(open).catch(fail)
    this.#wait(ATTEMPT, () => fail("no connection within 10 s"))
  }

  #open(address: string | URL | Address): void {
    const { url = address as string | URL, token } = address as Partial<Address>
    const offers = [...this.#protocols]
    if (token !== undefined) offers.push(`bearer.${token}`, NEUTRAL)
    if (this.#sid) offers.push(HINT)
    const WebSocketClass = this.#options.WebSocket ?? (globalThis.WebSocket as unknown as WebSocketClass)
    this.#url = absolute(url)
    const connection = new WebSocketClass(this.#url, offers)
    this.#connection = connection
    connection.binaryType = this.#binaryType
    connection.onopen = () => this.#opened(connection)
    connection.onmessage = ({ data, origin }) => this.#receive(data, origin)
    connection.onerror = () => {}
    connection.onclose = ({ code, reason, wasClean }) => this.#connectionLost(code, String(reason), wasClean)
  }

  #opened(connection: WebSocketLike): void {
    clearTimeout(this.#timer)
    this.#heardAt = this.#since = now()
    const hello = { v: 1, features: [...this.#owner.features, "resume", "probe"], limits: {} }
    if (this.#state === State.Resuming) {
      const { n: rx, bytes } = this.#received.tell()
      this.#say({ t: "resume", ...hello, sid: this.#sid, token: this.#token, gen: ++this.#gen, rx, bytes })
      this.#wait(ANSWER, () => this.#unanswered())
    } else {
      this.protocol = this.#protocols.includes(connection.protocol) ? connection.protocol : ""
      this.#state = State.Open
      this.#say({ t: "hello", ...hello })
      this.dispatchEvent(new Event("open"))
    }
  }

  /** Goes on or ends, because the connection has ended by itself, is silent, or could not be made. */
  #connectionLost(code: number, reason: string, wasClean: boolean): void {
    const goesOn = this.#sent && (code === ABNORMAL || code === EXPIRED)
    if (this.#state === State.Resuming ? mayDialAgain(code) : this.#state === State.Open && goesOn) this.#detach(code, reason)
    else this.#end(code, reason, wasClean)
  }

  /** Goes on without a connection, and connects again. */
  #detach(code: number, reason: string): void {
    const wasOpen = this.#state === State.Open
    this.#disown(RESUMES)
    this.#state = State.Detached
    const delay = this.#backoff.delay(code, wasOpen ? now() - this.#since : 0, this.#gen > 0)
    this.retryAt = Date.now() + delay
    this.#wait(delay, () => this.retry())
    if (wasOpen) {
      this.#expiryTimer = setTimeout(() => this.#end(ABNORMAL, "not resumed in time"), this.#ttl)
      this.dispatchEvent(new Event("detached"))
    }
    this.#owner.detached?.(code, reason)
  }

  /** Connects now, if the next attempt waits. For `Client`. */
  retry(): void {
    if (this.#state !== State.Detached) return
    this.#state = State.Resuming
    this.#dial()
  }

  /** Closes the connection, open or not, without waiting for its end, and ignores what it still delivers. */
  #disown(code: number): void {
    const connection = this.#connection
    this.#connection = undefined
    this.#attempt++
    this.retryAt = undefined
    clearTimeout(this.#timer)
    this.#received.stop()
    this.#answerDue = undefined
    if (!connection) return
    connection.onmessage = connection.onclose = null
    // Chrome reports it in the console if a connection is closed before it is open. But it makes only one connection to
    // a server at a time, so the next attempt would wait for one that hangs.
    const now = connection.readyState === SessionSocket.OPEN || code === RESUMES || !globalThis.document
    if (now) connection.close(code)
    else connection.onopen = () => connection.close(code)
  }

  /** Does something later, in place of what was to be done. */
  #wait(milliseconds: number, then: () => void): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(then, milliseconds)
  }

  // ------------------------------------------------------------ messages

  #say(control: Control): void {
    this.#connection!.send(writeControl(control))
  }

  #receive(data: Data, origin: string): void {
    this.#heardAt = now()
    this.#answerDue = undefined
    const control = typeof data === "string" ? readControl(data) : undefined
    if (this.#state === State.Resuming) return this.#answered(control)
    if (this.#state !== State.Open) return
    this.#patience = PATIENCE
    if (control && !isCounted(control)) this.#receiveUncounted(control)
    else {
      const size = this.#sent || this.#owner.receive ? sizeOf(data) : 0
      if (this.#sent) this.#received.count(size)
      if (control) this.#owner.control(control)
      else if (this.#owner.receive) this.#owner.receive(data, size)
      else this.dispatchEvent(new MessageEvent("message", { data, origin }))
    }
  }

  #receiveUncounted(control: Control): void {
    if (control.t === "welcome" && this.#probes === undefined) this.#greeted(control)
    if (control.t === "ack" && this.#sent?.acknowledge(control.n, control.bytes) === false) this.#end(4400, MISMATCH)
  }

  #greeted(welcome: Control): void {
    const features: unknown[] = Array.isArray(welcome.features) ? welcome.features : []
    this.#probes = features.includes("probe")
    if (features.includes("resume") && typeof welcome.sid === "string") {
      this.#sid = welcome.sid
      this.#token = welcome.token
      this.#ttl = Math.min(1000 * (Number(welcome.ttl) || 0), LONGEST_TIMER)
      this.#say({ t: "ack", n: 0, bytes: 0 })
      this.#sent = new ReplayBuffer()
    }
    this.#owner.control(welcome)
    this.#watch()
  }

  // ------------------------------------------------------------ resuming

  #answered(answer: Control | undefined): void {
    if (answer?.t !== "resumed") {
      this.#end(ABNORMAL, answer?.t === "gone" ? `the server has no such session: ${answer.why}` : "it was not resumed")
    } else if (!this.#sent!.acknowledge(answer.rx, answer.bytes)) this.#end(4400, MISMATCH)
    else {
      clearTimeout(this.#timer)
      clearTimeout(this.#expiryTimer)
      this.#token = answer.token
      this.#silences = 0
      this.#state = State.Open
      this.#sent!.sendAll((data) => this.#connection!.send(data))
      this.#owner.control(answer)
      this.#watch()
      this.dispatchEvent(new Event("resumed"))
    }
  }

  #unanswered(): void {
    if (++this.#silences < MOST_SILENCES) this.#detach(ABNORMAL, SILENT)
    else this.#end(ABNORMAL, SILENT)
  }

  // ------------------------------------------------------------ silence

  /** Asks whether the connection is alive when nothing has arrived for some time, and leaves it without an answer. */
  #watch(): void {
    if (this.#state !== State.Open || !this.#probes) return
    const time = now()
    if (this.#answerDue !== undefined && time >= this.#answerDue) {
      this.#patience = Math.min(2 * this.#patience, PATIENCE_MOST)
      return this.#connectionLost(ABNORMAL, "the connection is silent", false)
    }
    const seen = globalThis.document?.visibilityState !== "hidden" || this.#owner.busy()
    if (this.#answerDue === undefined && time >= this.#heardAt + (seen ? QUIET : QUIET_UNSEEN)) this.#probe(this.#patience)
    // A call may begin while nobody sees the page.
    this.#wait((this.#answerDue ?? (seen ? this.#heardAt : time) + QUIET) - time, () => this.#watch())
  }

  #probe(patience: number): void {
    this.#answerDue = Math.min(this.#answerDue ?? Infinity, now() + patience)
    this.#say({ t: "probe" })
  }

  // ------------------------------------------------------------ the page

  /** Leaves the connection, because the page is about to stop. Chrome would close it, and the session would end. */
  #park(): void {
    if (!this.#sent || this.readyState !== SessionSocket.OPEN) return
    this.#detach(ABNORMAL, "the page stops")
    clearTimeout(this.#timer)
    this.retryAt = undefined
  }

  /**
   * Looks after the connection at once, because the page has woken up.
   *
   * @param sure whether the connection has probably ended, so that another one is quicker than an answer
   */
  #wake(sure: boolean): void {
    const time = now()
    if (this.#state === State.Open && this.#probes) {
      if (this.#sent && (sure || time - this.#heardAt > QUIET_UNSEEN + PATIENCE)) this.#detach(ABNORMAL, WOKEN)
      else {
        this.#probe(PATIENCE_AWAKE)
        this.#watch()
      }
    }
    if (this.#state === State.Resuming && time - this.#since > ANSWER) this.#detach(ABNORMAL, WOKEN)
    this.retry()
  }

  // ------------------------------------------------------------ the end

  #end(code: number, reason: string, wasClean = false): void {
    const failed = this.#state === State.Connecting
    this.#state = State.Closed
    this.#disown(code >= 3000 ? code : 1000)
    clearTimeout(this.#expiryTimer)
    this.#listening.abort()
    this.#sent = undefined
    queueMicrotask(() => {
      if (failed) this.dispatchEvent(new Event("error"))
      this.dispatchEvent(closeEvent({ code, reason, wasClean }))
    })
  }
}

/** What TypeScript needs to know of its events. */
export interface SessionSocket {
  onopen: Listener<"open"> | null
  onmessage: Listener<"message"> | null
  onerror: Listener<"error"> | null
  onclose: Listener<"close"> | null
  ondetached: Listener<"detached"> | null
  onresumed: Listener<"resumed"> | null
  addEventListener<K extends keyof SessionSocketEventMap>(
    type: K,
    listener: Listener<K>,
    options?: boolean | AddEventListenerOptions,
  ): void
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void
  removeEventListener<K extends keyof SessionSocketEventMap>(
    type: K,
    listener: Listener<K>,
    options?: boolean | EventListenerOptions,
  ): void
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void
}

function closeEvent(fields: { code: number; reason: string; wasClean: boolean }): Event {
  if (globalThis.CloseEvent) return new CloseEvent("close", fields)
  return Object.assign(new Event("close"), fields) // in Node 20 and 22
}

/** Returns the address for a WebSocket. */
function absolute(url: string | URL): string {
  const found = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href)
  found.protocol = found.protocol.replace(/^http/, "ws")
  return found.href
}

/** Returns what is to be sent. Bytes are copied, because the caller may change them before they are sent again. */
function snapshot(data: unknown): Data {
  if (typeof data === "string" || data instanceof Blob) return data
  // Not `instanceof`: the buffer of another frame is no instance of this one's class.
  const { buffer = data, byteOffset, byteLength } = Object(data)
  return byteLength === undefined ? String(data) : new Uint8Array(buffer, byteOffset, byteLength).slice().buffer
}
