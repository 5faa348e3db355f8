// `Session`: messages to and from a server, over one connection after another.

import { mayDialAgain } from "./backoff.js"
import { now } from "./clock.js"
import { isCounted, readControl, writeControl, type Control } from "./control.js"
import { sizeOf, type Data } from "./data.js"
import { ABNORMAL, Dialing, disown, RESUMES, type DialingOwner } from "./dialing.js"
import { Heartbeat, type HeartbeatOwner } from "./heartbeat.js"
import { Acknowledger, ReplayBuffer, type Kept } from "./ledger.js"
import { onStop, onWake } from "./page.js"
import { SessionInput, SessionState, TABLE } from "./states.js"
import type { SocketOptions, Target, WebSocketLike } from "./target.js"

/** What a session reports to. */
export interface SessionOwner {
  /** Features that this side offers in addition to `resume` and `probe`. */
  readonly features: readonly string[]
  /** Whether silence is noticed soon even if nobody sees the page. */
  readonly isBusy: boolean
  /** The first connection is open. */
  opened(connection: WebSocketLike): void
  /** Takes a message of `size` bytes. */
  receive(data: Data, size: number, origin: string): void
  /** Takes control messages that are not about the session, and those with the server's features and limits. */
  control(message: Control): void
  /**
   * Another connection follows.
   *
   * @param dropped whether the connection has dropped. Otherwise an attempt to resume has failed
   */
  detached(code: number, reason: string, dropped: boolean): void
  resumed(): void
  /** @param was the state before */
  over(end: SessionEnd, was: SessionState): void
}

/** The fields of a `CloseEvent`. */
export interface SessionEnd {
  readonly code: number
  readonly reason: string
  readonly wasClean: boolean
}

const EXPIRED = 4411
/** Milliseconds for the answer to a `resume`. */
const ANSWER = 5_000
/** The attempts without an answer after which the server never answers. */
const MOST_SILENCES = 2
/** More milliseconds than that fire a timer at once. */
const LONGEST_TIMER = 2 ** 31 - 1
/** Bytes of a reason in a Close frame. */
const LONGEST_REASON = 123
const WOKEN = "the page has woken up"
const SILENT = "the server does not answer"
const MISMATCH = "the server counts differently"

type Timer = ReturnType<typeof setTimeout> | undefined

/**
 * A session with a server. It dials at once. If its connection drops, and the server can resume it, it dials again, and
 * both sides send what has not arrived. Meanwhile, what is sent waits. With other servers, it ends with its connection.
 */
export class Session implements DialingOwner, HeartbeatOwner {
  state: SessionState = SessionState.New
  /** The type in which binary messages arrive. */
  binaryType: "blob" | "arraybuffer" = "blob"
  /** The open connection. */
  connection: WebSocketLike | undefined
  readonly dialing: Dialing
  readonly #options: SocketOptions
  readonly #owner: SessionOwner
  /** Removes the listeners of page events. */
  readonly #listening = new AbortController()
  /** Undefined if the server does not answer probes. */
  #heartbeat: Heartbeat | undefined
  #sid = ""
  #token: unknown
  /** Milliseconds that the session lives without a connection. */
  #ttl = 0
  /** Counts the attempts to resume, for the server. */
  #gen = 0
  #silences = 0
  #expiryTimer: Timer
  #answerTimer: Timer
  /** What was sent, if the session can resume. */
  #sent: ReplayBuffer | undefined
  readonly #received = new Acknowledger((ack) => this.say(ack))

  /** @throws SyntaxError if the address is not valid, as for a WebSocket */
  constructor(target: Target, protocols: readonly string[], options: SocketOptions, owner: SessionOwner) {
    this.#options = options
    this.#owner = owner
    this.dialing = new Dialing(target, protocols, options, this)
    this.dialing.dial()
    onWake((sure) => this.#wake(sure), this.#listening.signal)
    onStop((mayWake) => (mayWake ? this.#park() : this.close()), this.#listening.signal)
  }

  #move(happened: SessionInput): SessionState | undefined {
    const next = TABLE[this.state][happened]
    if (next) this.state = next
    return next
  }

  /** Whether messages leave now. */
  get #isConnected(): boolean {
    return [SessionState.Plain, SessionState.Attached, SessionState.Resumable].includes(this.state)
  }

  /** Whether the session waits for another connection. */
  get #isDetached(): boolean {
    return this.state === SessionState.Detached || this.state === SessionState.Asking
  }

  get isBusy(): boolean {
    return this.#owner.isBusy
  }

  // ------------------------------------------------------------ sending

  /** Sends a message, or keeps it for the next connection. Returns what is kept of it. */
  send(data: Data, size = sizeOf(data)): Kept | undefined {
    if (!this.#isConnected && !this.#isDetached) return { data, size, sent: false }
    const full = this.fullness > 1
    const leaves = this.#isConnected && !full
    const kept = this.#sent?.keep(data, size, leaves)
    if (leaves) this.connection!.send(data)
    if (full) {
      const unread = this.#sent ? undefined : this.connection
      this.#end(4408, "too much waits to be sent")
      unread?.terminate?.() // the package ws would keep what waits for 30 s, because nobody reads the Close frame
    }
    return kept
  }

  /** Sends a control message that is about the connection. */
  say(control: Control): void {
    this.connection!.send(writeControl(control))
  }

  /** How much waits to be sent, or may have to be sent again: more than 1 ends the session. */
  get fullness(): number {
    const waits = this.#sent?.memory ?? this.connection?.bufferedAmount ?? Infinity
    return waits / (this.#options.buffer ?? 2 ** 24)
  }

  /** Bytes that no connection has written so far. While the session is detached, all bytes that are kept. */
  get unsent(): number {
    return this.#isDetached ? this.#sent!.bytes : (this.connection?.bufferedAmount ?? 0)
  }

  /** Takes back a message that no connection has got. Returns false if it is too late. */
  takeBack(kept: Kept): boolean {
    if (kept.sent || !this.#sent) return false
    this.#sent.takeBack(kept)
    return true
  }

  // ------------------------------------------------------------ receiving

  #receive(data: Data, origin: string): void {
    const control = typeof data === "string" ? readControl(data) : undefined
    if (this.state === SessionState.Asking) return this.#answered(control)
    if (!this.#isConnected) return
    this.#heartbeat?.heard()
    if (control && !isCounted(control)) return this.#receiveUncounted(control)
    const size = sizeOf(data)
    if (this.#sent) this.#received.count(size)
    if (control) this.#owner.control(control)
    else this.#owner.receive(data, size, origin)
  }

  #receiveUncounted(control: Control): void {
    if (control.t === "welcome" && this.state === SessionState.Plain) this.#greeted(control)
    if (control.t === "ack" && this.#sent?.acknowledge(control.n, control.bytes) === false) this.#end(4400, MISMATCH)
  }

  #greeted(welcome: Control): void {
    const features: unknown[] = Array.isArray(welcome.features) ? welcome.features : []
    if (features.includes("probe")) this.#heartbeat = new Heartbeat(this)
    if (features.includes("resume") && typeof welcome.sid === "string") {
      this.#move(SessionInput.Counted)
      this.#sid = welcome.sid
      this.dialing.asksToResume = true
      this.#token = welcome.token
      this.#ttl = Math.min(1000 * (Number(welcome.ttl) || 0), LONGEST_TIMER)
      this.say({ t: "ack", n: 0, bytes: 0 })
      this.#sent = new ReplayBuffer()
    } else this.#move(SessionInput.Greeted)
    this.#owner.control(welcome)
    this.#heartbeat?.start()
  }

  // ------------------------------------------------------------ connections

  dialed(connection: WebSocketLike): void {
    this.connection = connection
    connection.binaryType = this.binaryType
    connection.onmessage = ({ data, origin }) => this.#receive(data, origin)
    const hello = { v: 1, features: [...this.#owner.features, "resume", "probe"], limits: {} }
    if (this.#move(SessionInput.Bound)) {
      this.say({ t: "hello", ...hello })
      this.#owner.opened(connection)
    } else {
      this.#move(SessionInput.Asked)
      const { n: rx, bytes } = this.#received.tell()
      this.say({ t: "resume", ...hello, sid: this.#sid, token: this.#token, gen: ++this.#gen, rx, bytes })
      this.#answerTimer = setTimeout(() => this.#unanswered(), ANSWER)
    }
  }

  #unanswered(): void {
    if (++this.#silences < MOST_SILENCES) this.#detach(ABNORMAL, SILENT)
    else this.#end(ABNORMAL, SILENT)
  }

  #answered(answer: Control | undefined): void {
    if (answer?.t !== "resumed") {
      this.#end(ABNORMAL, answer?.t === "gone" ? `the server has no such session: ${answer.why}` : "it was not resumed")
    } else if (!this.#sent!.acknowledge(answer.rx, answer.bytes)) this.#end(4400, MISMATCH)
    else {
      clearTimeout(this.#answerTimer)
      clearTimeout(this.#expiryTimer)
      this.#token = answer.token
      this.#silences = 0
      this.#move(SessionInput.Resumed)
      this.#sent!.sendAll((data) => this.connection!.send(data))
      this.#owner.control(answer)
      this.#heartbeat?.start()
      this.#owner.resumed()
    }
  }

  connectionLost(code: number, reason: string, wasClean?: boolean): void {
    const isDrop = this.state === SessionState.Resumable && (code === ABNORMAL || code === EXPIRED)
    if (isDrop || (this.#isDetached && mayDialAgain(code))) this.#detach(code, reason)
    else this.#end(code, reason, wasClean)
  }

  /** Goes on without a connection, and dials again. */
  #detach(code: number, reason: string): void {
    const dropped = this.state === SessionState.Resumable
    this.#disown(RESUMES)
    this.#move(SessionInput.Cut)
    this.dialing.dialLater(code, dropped ? now() - this.dialing.since : 0, this.#gen > 0)
    if (dropped) this.#expiryTimer = setTimeout(() => this.#end(ABNORMAL, "not resumed in time"), this.#ttl)
    this.#owner.detached(code, reason, dropped)
  }

  /** Leaves the connection, be it open or not, without waiting for its end. */
  #disown(code: number): void {
    this.dialing.stop(code)
    if (this.connection) disown(this.connection, code)
    this.connection = undefined
    this.#stopTimers()
  }

  #stopTimers(): void {
    clearTimeout(this.#answerTimer)
    this.#heartbeat?.stop()
    this.#received.stop()
  }

  /** Dials now, if the session waits for its next attempt. */
  retry(): void {
    if (this.state === SessionState.Detached && this.dialing.state !== "dialing") this.dialing.dial()
  }

  // ------------------------------------------------------------ the page

  /** Leaves the connection, because the page is about to stop. Chrome would close it, and the session would end. */
  #park(): void {
    if (this.state !== SessionState.Resumable && !this.#isDetached) return
    this.#detach(ABNORMAL, "the page stops")
    this.dialing.stop()
  }

  /**
   * Looks after the connection at once, because the page has woken up.
   *
   * @param sure whether the connection has probably ended, so that another one is quicker than an answer
   */
  #wake(sure: boolean): void {
    if (this.#isConnected && this.#heartbeat) {
      if (this.state === SessionState.Resumable && (sure || this.#heartbeat.hasSlept)) this.#detach(ABNORMAL, WOKEN)
      else this.#heartbeat.wake()
    }
    const tries = this.state === SessionState.Asking || this.dialing.state === "dialing"
    if (this.#isDetached && tries && now() - this.dialing.since > ANSWER) this.#detach(ABNORMAL, WOKEN)
    this.retry()
  }

  // ------------------------------------------------------------ the end

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
    if (this.#isConnected) {
      if (this.#sent) this.say({ t: "gone", why: "closed" })
      this.#stopTimers() // Chrome reports it in the console if something is sent on a connection that closes
      this.#move(SessionInput.Closed)
      this.connection!.close(code, reason)
    } else if (this.state === SessionState.New) this.#end(ABNORMAL, "closed")
    else if (this.#isDetached) this.#end(code, reason)
  }

  #end(code: number, reason: string, wasClean = false): void {
    const was = this.state
    this.#move(SessionInput.Ended)
    this.#disown(code >= 3000 ? code : 1000)
    clearTimeout(this.#expiryTimer)
    this.#listening.abort()
    this.#sent = undefined
    queueMicrotask(() => this.#owner.over({ code, reason, wasClean }, was))
  }
}
