// `SessionSocket`: a WebSocket that survives drops.

import { Backoff, onWake } from "./backoff.js"
import { count, isCounted, readControl, writeControl, type Control } from "./control.js"
import { Received, Sent, sizeOf, type Data, type Kept } from "./ledger.js"

/** What a session needs of a WebSocket class: the browser's, Node's, or that of the package `ws`. */
export interface WebSocketLike {
  readonly readyState: number
  readonly protocol: string
  readonly bufferedAmount: number
  binaryType: string
  onopen: ((event: any) => void) | null
  onmessage: ((event: any) => void) | null
  onerror: ((event: any) => void) | null
  onclose: ((event: any) => void) | null
  send(data: any): void
  close(code?: number, reason?: string): void
}
export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike

/** Where to connect, and with which credentials. */
export interface Address {
  /** Relative to the page; `http` and `https` stand for `ws` and `wss`. */
  readonly url: string | URL
  /** A bearer token, for `Handshake.bearer_token` on the server. */
  readonly token?: string
}

/** An address, or a function that is called for each attempt to connect, so that credentials are fresh. */
export type Target = string | URL | Address | (() => string | URL | Address | Promise<string | URL | Address>)

export interface SocketOptions {
  /** The class of connections. Default: the global `WebSocket`. */
  readonly WebSocket?: WebSocketClass
  /**
   * Bytes that may wait for an acknowledgement or a connection, about. When there are more, the session ends with code
   * 4408. Default: 16 MiB.
   */
  readonly buffer?: number
}

/** How `Client` uses a socket, beyond what a WebSocket has. */
export interface Above {
  /** Features that this side offers in addition to `resume` and `probe`. */
  readonly features: readonly string[]
  /** Takes a message of `size` bytes, instead of the event `message`. */
  receive?(data: Data, size: number): void
  /** Takes control messages that are not about the session, and those with the server's features and limits. */
  control(message: Control): void
  /** Whether calls are pending, so that silence is noticed soon even if nobody sees the page. */
  busy(): boolean
}

const PLAIN: Above = { features: [], control() {}, busy: () => false }

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
const ACK = 1_000
/** Milliseconds of silence after which this side asks whether the connection is alive: if anybody waits, and if not. */
const QUIET = 5_000
const QUIET_UNSEEN = 30_000
/** Milliseconds in which a connection that is alive answers; and when the page has just woken up. */
const PATIENCE = 5_000
const PATIENCE_AWAKE = 2_000

type State = "connecting" | "open" | "detached" | "resuming" | "closing" | "closed"
type Timer = ReturnType<typeof setTimeout> | undefined

/**
 * A session with a wsrpc server, with the interface of a `WebSocket`. When its connection drops, it connects again, and
 * both sides send what has not arrived. Meanwhile it stays `OPEN`, and what is sent waits.
 *
 * In addition to the events of a WebSocket there are `detached` and `resumed`. When the session is lost, there is one
 * `close`, and the object stays `CLOSED`. With a server that has no sessions, it is an ordinary WebSocket.
 */
export class SessionSocket extends EventTarget {
  static readonly CONNECTING = 0
  static readonly OPEN = 1
  static readonly CLOSING = 2
  static readonly CLOSED = 3
  readonly CONNECTING = 0
  readonly OPEN = 1
  readonly CLOSING = 2
  readonly CLOSED = 3

  onopen: ((event: Event) => unknown) | null = null
  onmessage: ((event: MessageEvent) => unknown) | null = null
  onerror: ((event: Event) => unknown) | null = null
  onclose: ((event: CloseEvent) => unknown) | null = null
  ondetached: ((event: Event) => unknown) | null = null
  onresumed: ((event: Event) => unknown) | null = null

  /** The subprotocol that the server has chosen. */
  protocol = ""
  readonly extensions = ""

  readonly #target: Target
  readonly #protocols: readonly string[]
  readonly #options: SocketOptions
  readonly #above: Above
  readonly #backoff = new Backoff()
  /** Removes the listeners of page events. */
  readonly #listening = new AbortController()
  #state: State = "connecting"
  #url = ""
  #binaryType: BinaryType = "blob"
  /** The connection, or the one that is being made. */
  #connection: WebSocketLike | undefined
  /** Distinguishes the present attempt to connect from those that were given up. */
  #attempt = 0
  #openedAt = 0
  /** Until the next attempt, then the end of the attempt, then of the wait for an answer. */
  #dialTimer: Timer
  #dialedAt = 0

  /** What the server has said that it supports. */
  #features: unknown[] | undefined
  #sid = ""
  #token = ""
  /** Milliseconds that the session lives without a connection. */
  #ttl = 0
  /** Counts the attempts to resume, for the server. */
  #gen = 0
  #silences = 0
  #expiryTimer: Timer
  /** What was sent, if the session can resume. */
  #sent: Sent | undefined
  readonly #received = new Received()
  #ackTimer: Timer

  /** When something has last arrived. */
  #heard = 0
  /** When the answer to a probe is due. */
  #answerDue: number | undefined
  #watchTimer: Timer

  /**
   * @param target where to connect. If it is a function, it is called for each attempt
   * @param protocols subprotocols to offer
   * @throws SyntaxError if the address is not valid, as for a WebSocket
   */
  constructor(target: Target, protocols: string | string[] = [], options: SocketOptions = {}, above: Above = PLAIN) {
    super()
    this.#target = target
    this.#protocols = typeof protocols === "string" ? [protocols] : [...protocols]
    this.#options = options
    this.#above = above
    this.#dial()
    this.#listen()
  }

  get url(): string {
    return this.#url
  }

  get readyState(): number {
    if (this.#state === "connecting") return SessionSocket.CONNECTING
    if (this.#state === "closing") return SessionSocket.CLOSING
    return this.#state === "closed" ? SessionSocket.CLOSED : SessionSocket.OPEN
  }

  get binaryType(): BinaryType {
    return this.#binaryType
  }

  set binaryType(type: BinaryType) {
    this.#binaryType = type
    if (this.#connection) this.#connection.binaryType = type
  }

  /** Bytes that no connection has written so far. While the session is detached, all bytes that are kept. */
  get bufferedAmount(): number {
    return this.#state === "open" ? this.#connection!.bufferedAmount : (this.#sent?.bytes ?? 0)
  }

  /**
   * Sends a message, or keeps it for the next connection.
   *
   * @throws InvalidStateError while the first connection is being made
   */
  send(data: string | ArrayBuffer | ArrayBufferView | Blob): void {
    if (this.#state === "connecting") throw new DOMException("the connection is not open yet", "InvalidStateError")
    this.post(typeof data === "string" || data instanceof Blob ? data : copied(data))
  }

  /** Sends a message as `send` does, and returns what is kept of it. For `Client`. */
  post(data: Data, size?: number): Kept | undefined {
    if (this.readyState !== SessionSocket.OPEN) return undefined
    const connected = this.#state === "open"
    const kept = this.#sent?.keep(data, size ?? sizeOf(data), connected)
    if (connected) this.#connection!.send(data)
    if (this.#sent && this.#sent.memory > (this.#options.buffer ?? 16 * 1024 * 1024)) {
      this.#lose(4408, "too much waits to be sent")
    }
    return kept
  }

  /** Takes back a message that no connection has got. For `Client`. Returns false if it is too late. */
  takeBack(kept: Kept): boolean {
    if (kept.sent || !this.#sent) return false
    this.#sent.takeBack(kept)
    return true
  }

  /**
   * Ends the session. The server is told, and frees it at once.
   *
   * @throws InvalidAccessError if the code is neither 1000 nor one from 3000 to 4999
   */
  close(code = 1000, reason = ""): void {
    if (code !== 1000 && !(code >= 3000 && code <= 4999)) {
      throw new DOMException(`the close code must be 1000 or 3000-4999, not ${code}`, "InvalidAccessError")
    }
    if (this.#state === "open") {
      if (this.#sent) this.#say({ t: "gone", why: "closed" })
      this.#state = "closing"
      this.#connection!.close(code, reason)
    } else if (this.#state !== "closing" && this.#state !== "closed") this.#end(code, reason, false)
  }

  // ------------------------------------------------------------ connections

  #dial(): void {
    const attempt = ++this.#attempt
    const give = (error: unknown) => attempt === this.#attempt && this.#failed(ABNORMAL, String(error))
    clearTimeout(this.#dialTimer)
    this.#dialTimer = setTimeout(give, ATTEMPT, "no connection within 10 s")
    this.#dialedAt = Date.now()
    const target = this.#target
    if (typeof target !== "function") this.#open(target)
    else {
      Promise.resolve()
        .then(target)
        .then((address) => attempt === this.#attempt && this.#open(address))
        .catch(give)
    }
  }

  #open(address: string | URL | Address): void {
    const { url, token } = typeof address === "string" || address instanceof URL ? { url: address } : address
    const offers = [...this.#protocols]
    if (token !== undefined) offers.push(`bearer.${token}`, NEUTRAL)
    if (this.#sid) offers.push(HINT)
    const WebSocketClass = this.#options.WebSocket ?? (globalThis.WebSocket as unknown as WebSocketClass)
    this.#url = absolute(url)
    const connection = new WebSocketClass(this.#url, offers)
    this.#connection = connection
    connection.binaryType = this.#binaryType
    connection.onopen = () => this.#opened(connection)
    connection.onmessage = ({ data }) => this.#arrived(data)
    connection.onerror = () => {}
    connection.onclose = ({ code, reason, wasClean }) => this.#dropped(code, String(reason), wasClean)
  }

  #opened(connection: WebSocketLike): void {
    clearTimeout(this.#dialTimer)
    this.#heard = this.#openedAt = Date.now()
    const hello = { v: 1, features: [...this.#above.features, "resume", "probe"], limits: {} }
    if (this.#state === "resuming") {
      const { n, bytes } = this.#received
      this.#say({ t: "resume", ...hello, sid: this.#sid, token: this.#token, gen: ++this.#gen, rx: n, bytes })
      this.#dialTimer = setTimeout(() => this.#unanswered(), ANSWER)
    } else {
      this.protocol = connection.protocol
      this.#state = "open"
      this.#say({ t: "hello", ...hello })
      this.#fire(new Event("open"))
    }
  }

  /** The connection has ended by itself. */
  #dropped(code: number, reason: string, wasClean: boolean): void {
    if (this.#state === "connecting" || this.#state === "resuming") this.#failed(code, reason)
    else if (this.#state === "open" && this.#sent && (code === ABNORMAL || code === EXPIRED)) this.#detach(code)
    else this.#end(code, reason, wasClean)
  }

  /** An attempt to connect has failed. */
  #failed(code: number, reason: string): void {
    if (this.#state === "connecting") {
      this.#end(code, reason, false)
    } else {
      this.#leave(RESUMES)
      this.#state = "detached"
      this.#dialLater(code, 0)
    }
  }

  /** Goes on without a connection, and connects again. */
  #detach(code: number): void {
    this.#leave(RESUMES)
    this.#state = "detached"
    this.#expiryTimer = setTimeout(() => this.#lose(ABNORMAL, "no connection resumed it in time"), this.#ttl)
    this.#dialLater(code, Date.now() - this.#openedAt)
    this.#fire(new Event("detached"))
  }

  #dialLater(code: number, lasted: number): void {
    this.#dialTimer = setTimeout(() => this.#resume(), this.#backoff.delay(code, lasted))
  }

  #resume(): void {
    this.#state = "resuming"
    this.#dial()
  }

  /** Has no connection any more, and closes the one that there was, without waiting for its end. */
  #leave(code: number, reason = ""): void {
    const connection = this.#connection
    this.#connection = undefined
    this.#attempt++
    for (const timer of [this.#dialTimer, this.#ackTimer, this.#watchTimer]) clearTimeout(timer)
    this.#ackTimer = this.#answerDue = undefined
    if (connection) {
      connection.onmessage = connection.onclose = null
      // Chrome reports it in the console if a connection is closed before it is open.
      connection.onopen = () => connection.close(code, reason)
      if (connection.readyState === SessionSocket.OPEN) connection.close(code, reason)
    }
  }

  // ------------------------------------------------------------ messages

  #say(control: Control): void {
    this.#connection!.send(writeControl(control))
  }

  #arrived(data: Data): void {
    this.#heard = Date.now()
    this.#answerDue = undefined
    const control = typeof data === "string" ? readControl(data) : undefined
    if (this.#state === "resuming") this.#answered(control)
    else if (this.#state !== "open") return
    else if (control && !isCounted(control)) this.#take(control)
    else {
      const size = this.#sent || this.#above.receive ? sizeOf(data) : 0
      if (this.#sent) this.#count(size)
      if (control) this.#above.control(control)
      else if (this.#above.receive) this.#above.receive(data, size)
      else this.#fire(new MessageEvent("message", { data }))
    }
  }

  #count(size: number): void {
    if (this.#received.count(size)) this.#acknowledge()
    else this.#ackTimer ??= setTimeout(() => this.#acknowledge(), ACK)
  }

  #acknowledge(): void {
    clearTimeout(this.#ackTimer)
    this.#ackTimer = undefined
    this.#say({ t: "ack", ...this.#received.tell() })
  }

  #take(control: Control): void {
    if (control.t === "welcome" && !this.#features) this.#welcomed(control)
    if (control.t === "ack" && this.#sent && !this.#sent.acknowledge(count(control, "n"), count(control, "bytes"))) {
      this.#lose(4400, "the server has acknowledged what was not sent")
    }
  }

  #welcomed(welcome: Control): void {
    this.#features = Array.isArray(welcome.features) ? welcome.features : []
    if (this.#features.includes("resume") && typeof welcome.sid === "string") {
      this.#sid = welcome.sid
      this.#token = String(welcome.token)
      this.#ttl = 1000 * (Number(welcome.ttl) || 0)
      this.#say({ t: "ack", n: 0, bytes: 0 })
      this.#sent = new Sent()
    }
    this.#above.control(welcome)
    this.#watch()
  }

  // ------------------------------------------------------------ resuming

  #answered(answer: Control | undefined): void {
    if (answer?.t !== "resumed") {
      this.#lose(1000, answer?.t === "gone" ? `the server has no such session: ${answer.why}` : "it was not resumed")
    } else if (!this.#sent!.acknowledge(count(answer, "rx"), count(answer, "bytes"))) {
      this.#lose(4400, "the server has received what was not sent")
    } else {
      clearTimeout(this.#dialTimer)
      clearTimeout(this.#expiryTimer)
      this.#token = String(answer.token)
      this.#silences = 0
      this.#received.tell()
      this.#state = "open"
      this.#sent!.sendAll((data) => this.#connection!.send(data))
      this.#above.control(answer)
      this.#watch()
      this.#fire(new Event("resumed"))
    }
  }

  #unanswered(): void {
    if (++this.#silences < MOST_SILENCES) this.#failed(ABNORMAL, "")
    else this.#lose(1000, "the server does not answer")
  }

  // ------------------------------------------------------------ silence

  /** Asks whether the connection is alive when nothing has arrived for some time, and leaves it without an answer. */
  #watch(): void {
    clearTimeout(this.#watchTimer)
    if (this.#state !== "open" || !this.#features?.includes("probe")) return
    const now = Date.now()
    const seen = globalThis.document?.visibilityState !== "hidden" || this.#above.busy()
    const quietUntil = this.#heard + (seen ? QUIET : QUIET_UNSEEN)
    if (this.#answerDue !== undefined && now >= this.#answerDue) this.#silent()
    else {
      if (this.#answerDue === undefined && now >= quietUntil) this.#probe(PATIENCE)
      this.#watchTimer = setTimeout(() => this.#watch(), (this.#answerDue ?? quietUntil) - now)
    }
  }

  #probe(patience: number): void {
    this.#answerDue = Math.min(this.#answerDue ?? Infinity, Date.now() + patience)
    this.#say({ t: "probe" })
  }

  #silent(): void {
    if (this.#sent) this.#detach(ABNORMAL)
    else this.#end(ABNORMAL, "the connection is silent", false)
  }

  // ------------------------------------------------------------ the page

  #listen(): void {
    const { signal } = this.#listening
    onWake((sure) => this.#wake(sure), signal)
    ;(globalThis as unknown as EventTarget).addEventListener?.(
      "pagehide",
      (event) => ((event as PageTransitionEvent).persisted ? this.#park() : this.close()),
      { signal },
    )
    globalThis.document?.addEventListener?.("freeze", () => this.#park(), { signal })
  }

  /** Leaves the connection, because the page is about to stop. Chrome would close it, and the session would end. */
  #park(): void {
    if (!this.#sent || this.readyState !== SessionSocket.OPEN) return
    if (this.#state === "open") this.#detach(ABNORMAL)
    this.#leave(RESUMES)
    this.#state = "detached"
  }

  /**
   * Looks after the connection at once, because the page has woken up.
   *
   * @param sure whether the connection has probably ended, so that another one is quicker than an answer
   */
  #wake(sure: boolean): void {
    const now = Date.now()
    if (this.#state === "open" && this.#features?.includes("probe")) {
      if (this.#sent && (sure || now - this.#heard > QUIET_UNSEEN + PATIENCE)) this.#silent()
      else {
        this.#probe(PATIENCE_AWAKE)
        this.#watch()
      }
    }
    const late = this.#state === "resuming" && now - this.#dialedAt > ANSWER
    if (late) this.#leave(RESUMES)
    if (late || this.#state === "detached") this.#resume()
  }

  // ------------------------------------------------------------ the end

  /** The session cannot go on. */
  #lose(code: number, reason: string): void {
    this.#leave(code === ABNORMAL ? 1000 : code, reason)
    this.#end(code === 1000 ? ABNORMAL : code, reason, false)
  }

  #end(code: number, reason: string, wasClean: boolean): void {
    const failed = this.#state === "connecting"
    this.#state = "closed"
    this.#leave(1000)
    clearTimeout(this.#expiryTimer)
    this.#listening.abort()
    queueMicrotask(() => {
      if (failed) this.#fire(new Event("error"))
      this.#fire(new Closed("close", { code, reason, wasClean }))
    })
  }

  #fire(event: Event): void {
    try {
      ;(this as any)[`on${event.type}`]?.(event)
    } catch (error) {
      queueMicrotask(() => {
        throw error // as for every listener
      })
    }
    this.dispatchEvent(event)
  }
}

/** Node 20 and 22 have no `CloseEvent`. */
const Closed: typeof CloseEvent =
  globalThis.CloseEvent ??
  class extends Event {
    readonly code: number
    readonly reason: string
    readonly wasClean: boolean

    constructor(type: string, { code = 0, reason = "", wasClean = false }: CloseEventInit) {
      super(type)
      this.code = code
      this.reason = reason
      this.wasClean = wasClean
    }
  }

/** Returns the address for a WebSocket. */
function absolute(url: string | URL): string {
  const found = new URL(url, globalThis.location?.href)
  found.protocol = found.protocol.replace(/^http/, "ws")
  return found.href
}

/** Returns a copy, because the caller may change the bytes before they are sent again. */
function copied(data: ArrayBuffer | ArrayBufferView): ArrayBuffer {
  if (data instanceof ArrayBuffer) return data.slice(0)
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice().buffer
}
