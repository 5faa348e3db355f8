// `Session`: messages to and from a server, over one connection after another.

import { mayDialAgain } from "./backoff.js"
import { LONGEST_TIMER, now } from "./clock.js"
import { count, isCounted, readControl, writeControl, type Control } from "./control.js"
import { sizeOf, type Data } from "./data.js"
import { ABNORMAL, Dialing, disown, RESUMES, SILENT, type DialingOwner } from "./dialing.js"
import { textOf } from "./errors.js"
import { Heartbeat, type HeartbeatOwner } from "./heartbeat.js"
import { Parts } from "./parts.js"
import { Acknowledger, ReplayBuffer, type Outgoing } from "./replay.js"
import { SessionInput, SessionState, TABLE } from "./session_states.js"
import type { SocketOptions, Target, WebSocketLike } from "./target.js"

/** What a session reports to. */
export interface SessionOwner {
  /** Features that this side offers in addition to `resume` and `probe`. */
  readonly features: readonly string[]
  /** Whether silence must be detected soon although nobody sees the page. */
  readonly isBusy: boolean
  /** The first connection is open. */
  opened(): void
  /** A message of `size` bytes has arrived. */
  receive(data: Data, size: number): void
  /** A control message has arrived that is not about the session, or that has the server's features and limits. */
  receiveControl(message: Control): void
  /** The session waits for another connection. Also called when an attempt to resume has failed. */
  sessionDetached(code: number, reason: string): void
  resumed(): void
  sessionOver(code: number, reason: string): void
}

/** Close codes of an open connection after which the session resumes. Cloudflare and Caddy send 1001 as they restart. */
const RESUMABLE = new Set([1001, ABNORMAL, 4411])
/** Milliseconds that this side keeps messages before a `welcome`. A plain server, which acknowledges nothing, has none. */
const WELCOME_TIMEOUT = 10_000
/** Milliseconds that the first attempt to resume waits for the answer. Each further attempt waits so much longer. */
const ANSWER_TIMEOUT = 5_000
/** The most bytes of a reason in a Close frame. */
const MAX_REASON = 123

export const randomText = () => globalThis.crypto?.getRandomValues(new Uint32Array(4)).join("")

type Timer = ReturnType<typeof setTimeout> | undefined

/**
 * A session with a server. It dials at once. If the server can resume sessions, the session dials again when its
 * connection drops; messages wait meanwhile, and both sides resend the messages that have not arrived. With other
 * servers, the session ends with its connection.
 */
export class Session implements DialingOwner, HeartbeatOwner {
  state: SessionState = SessionState.New
  /** Undefined until the server has sent `welcome`. */
  declare serverFeatures: readonly unknown[] | undefined
  /** The open connection. */
  declare connection: WebSocketLike | undefined
  declare readonly dialing: Dialing
  readonly #owner: SessionOwner
  readonly #options: SocketOptions
  /** Undefined if the server answers no probes. */
  #heartbeat: Heartbeat | undefined
  /** The name of the session, and the secret with which this side resumes it. Before a welcome, they are its own. */
  readonly #named: { sid: unknown; token: unknown } = { sid: randomText(), token: randomText() }
  #isWelcome = false
  /** Milliseconds after which the server ends a session without a connection. */
  #ttl = 30_000
  /** The number of attempts to resume, for the server. */
  #gen = 0
  /** The number of attempts to resume whose answer did not come in time. */
  #unanswered = 0
  #expiryTimer: Timer
  #answerTimer: Timer
  /** Undefined if the session cannot resume. */
  #replay: ReplayBuffer | undefined
  /** Undefined unless both sides have the feature `parts`. */
  #parts: Parts | undefined
  readonly #received = new Acknowledger((ack) => this.sendControl(ack))

  /** @throws SyntaxError if the address is not valid, as for a WebSocket */
  constructor(target: Target, options: SocketOptions, owner: SessionOwner) {
    this.#owner = owner
    this.#options = options
    this.dialing = new Dialing(target, options, this)
    this.dialing.dial()
  }

  #move(happened: SessionInput): SessionState | undefined {
    const next = TABLE[this.state]?.[happened]
    if (next) this.state = next
    return next
  }

  /** Whether messages are sent now. */
  get #isConnected(): boolean {
    return [SessionState.Plain, SessionState.Attached, SessionState.Resumable].includes(this.state)
  }

  /** Whether the session waits for another connection. */
  get #isDetached(): boolean {
    return [SessionState.Detached, SessionState.Asking].includes(this.state)
  }

  get isBusy(): boolean {
    return this.#owner.isBusy
  }

  // ------------------------------------------------------------ sending

  /**
   * Sends a message, or keeps it for the next connection.
   *
   * @returns the message, which can be dropped until it was sent
   */
  send(data: Data, size = sizeOf(data)): Outgoing {
    const isFull = this.fullness > 1
    const message = { data, size, sent: this.#isConnected && !isFull }
    if (!this.#isConnected && !this.#isDetached) return message
    const parts = this.#replay?.add(message) ?? [message]
    if (message.sent) for (const part of parts) this.#write(part.data)
    if (this.state === SessionState.Plain && this.#replay?.memory! > this.#buffer) this.#replay = undefined
    if (isFull) {
      const unread = this.#replay ? undefined : this.connection
      this.#end(4408, "too much waits to be sent")
      unread?.terminate?.() // the package ws would keep the unsent bytes for 30 s, because nobody reads the Close frame
    }
    return message
  }

  /** Sends a control message that is about the connection. */
  sendControl(control: Control): void {
    this.#write(writeControl(control))
  }

  /** Not while the other side closes: the message would be lost, and Chrome reports that in the console. */
  #write(data: Data): void {
    if (this.connection!.readyState === 1) this.connection!.send(data)
  }

  get #buffer(): number {
    return this.#options.buffer ?? 2 ** 24
  }

  /** How full the option `buffer` is, with messages that wait or may be sent again. Above 1, the session ends. */
  get fullness(): number {
    const kept = this.state !== SessionState.Plain && this.#replay?.memory
    return (kept || this.unsent) / this.#buffer
  }

  /** Bytes that the connection has not written so far. */
  get unsent(): number {
    return this.connection?.bufferedAmount ?? 0
  }

  /** Drops a message, so that it is never sent. Returns false if a connection has got it already. */
  drop(message: Outgoing): boolean {
    return this.#replay?.drop(message) ?? false
  }

  // ------------------------------------------------------------ receiving

  #receive(data: Data): void {
    const control = typeof data === "string" ? readControl(data) : undefined
    this.dialing.arrived()
    if (this.state === SessionState.Asking) return this.#resumeAnswered(control)
    if (!this.#isConnected) return
    this.#heartbeat?.received()
    if (control && !isCounted(control)) return this.#receiveUncounted(control)
    const size = sizeOf(data)
    if (this.state === SessionState.Resumable) this.#received.count(size)
    if (control) return this.#owner.receiveControl(control)
    const message = this.#parts ? this.#parts.join(data) : data
    if (message !== undefined) this.#owner.receive(message, message === data ? size : sizeOf(message))
  }

  #receiveUncounted(control: Control): void {
    if (control.t === "welcome" && !this.#isWelcome) this.#welcomed(control)
    if (control.t === "ack" && this.state === SessionState.Resumable) this.#acknowledge(control, "n")
  }

  /** Drops the messages that have arrived at the server. Ends the session, and returns false, if its counts differ. */
  #acknowledge(control: Control, field: "n" | "rx"): boolean {
    const isPossible = this.#replay!.acknowledge(count(control, field), count(control, "bytes"))
    if (!isPossible) this.#end(4400, "the counts differ")
    return isPossible
  }

  #welcomed(welcome: Control): void {
    this.#isWelcome = true
    const features = (this.serverFeatures = Array.isArray(welcome.features) ? welcome.features : [])
    if (features.includes("probe")) this.#heartbeat = new Heartbeat(this)
    if (features.includes("parts")) this.#parts = new Parts()
    const resumes = typeof welcome.sid === "string"
    if (resumes && this.#replay) {
      clearTimeout(this.#answerTimer)
      this.#move(SessionInput.Counted)
      this.dialing.asksToResume = true
      this.#named.sid = welcome.sid
      this.#named.token = welcome.token
      this.#ttl = typeof welcome.ttl === "number" ? Math.min(1000 * welcome.ttl, LONGEST_TIMER) : 0
      this.#replay.parts = this.#parts
    } else {
      if (resumes) this.sendControl({ t: "gone", why: "closed" }) // the welcome is late
      this.#replay = undefined
      this.#move(SessionInput.Greeted)
    }
    this.#owner.receiveControl(welcome)
    this.#heartbeat?.start()
  }

  // ------------------------------------------------------------ connections

  dialed(connection: WebSocketLike): void {
    this.#disown(RESUMES) // the connection that was silent, if there is one
    this.connection = connection
    connection.binaryType = "arraybuffer"
    connection.onmessage = ({ data }) => this.#receive(data)
    const hello = { v: 1, features: [...this.#owner.features, "resume", "probe"], limits: {}, program: this.#options.program }
    if (this.#move(SessionInput.Bound)) {
      this.sendControl({ t: "hello", ...hello, ...this.#named })
      this.#replay = new ReplayBuffer()
      this.#answerTimer = setTimeout(() => (this.#replay = undefined), WELCOME_TIMEOUT)
      this.#owner.opened()
    } else if (!this.#replay) this.#end(ABNORMAL, SILENT)
    else {
      this.#move(SessionInput.Asked)
      this.dialing.asksToResume = true
      const { n: rx, bytes } = this.#received.acknowledge()
      this.sendControl({ t: "resume", ...hello, ...this.#named, gen: ++this.#gen, rx, bytes })
      const unanswered = () => (this.#unanswered++, this.#detach(ABNORMAL, SILENT))
      this.#answerTimer = setTimeout(unanswered, ANSWER_TIMEOUT * (1 + this.#unanswered))
    }
  }

  #resumeAnswered(answer: Control | undefined): void {
    if (answer?.t !== "resumed") {
      const why = answer?.why ?? "no answer"
      this.#end(ABNORMAL, `not resumed: ${why === "elsewhere" ? "another process" : textOf(why)}`)
    } else if (this.#acknowledge(answer, "rx")) {
      clearTimeout(this.#answerTimer)
      clearTimeout(this.#expiryTimer)
      this.#expiryTimer = undefined
      this.#named.token = answer.token
      this.#unanswered = 0
      this.#move(SessionInput.Resumed)
      this.#replay!.sendAll((data) => this.#write(data))
      this.#owner.receiveControl(answer)
      this.#heartbeat?.start()
      this.#owner.resumed()
    }
  }

  connectionLost(code: number, reason: string): void {
    const isDrop = this.state === SessionState.Resumable && RESUMABLE.has(code)
    if (isDrop || (this.#isDetached && mayDialAgain(code))) this.#detach(code, reason)
    else this.#end(code, reason)
  }

  /** Continues without a connection, and dials again. */
  #detach(code: number, reason: string): void {
    const lasted = this.state === SessionState.Resumable ? now() - this.dialing.openedAt : 0
    this.#disown(RESUMES)
    this.#move(SessionInput.Cut)
    this.dialing.backoff.start(code, lasted, this.#ttl)
    this.#owner.sessionDetached(code, reason)
  }

  /** Closes the connection, and gives up the attempt to connect, without waiting for the end. */
  #disown(code: number): void {
    if (this.connection) {
      disown(this.connection, code)
      this.#expiryTimer ??= setTimeout(() => this.#end(ABNORMAL, "not resumed in time"), this.#ttl)
    }
    this.connection = undefined
    this.#stopTimers(code)
  }

  #stopTimers(code = 1000): void {
    this.dialing.stop(code)
    clearTimeout(this.#answerTimer)
    this.#heartbeat?.stop()
    this.#received.stop()
  }

  /** Dials now if the session waits for its next attempt. Otherwise it has no effect. */
  retry(): void {
    if (this.state === SessionState.Detached && !this.dialing.isDialing) this.dialing.dial()
  }

  // ------------------------------------------------------------ the page

  /**
   * Disowns the connection, because the page stops. Chrome would close the connection, and so end the session.
   *
   * @param mayWake whether the page may wake up again. If not, the session ends
   */
  park(mayWake: boolean): void {
    if (!mayWake) return this.close()
    if (this.state !== SessionState.Resumable && !this.#isDetached) return
    this.#detach(ABNORMAL, "closed")
    this.dialing.stop()
  }

  /**
   * Probes the connection, or dials, at once, because the page has woken up.
   *
   * @param probablyLost whether the connection has probably ended
   */
  wake(probablyLost: boolean): void {
    if (this.#isConnected) this.#heartbeat?.wake(probablyLost)
    const isTrying = this.state === SessionState.Asking || this.dialing.isDialing
    if (this.#isDetached && isTrying && now() - this.dialing.since > ANSWER_TIMEOUT) this.#detach(ABNORMAL, SILENT)
    this.retry()
  }

  // ------------------------------------------------------------ the end

  /**
   * Ends the session. The server learns this if there is a connection, and then ends the session at once, too.
   *
   * @throws InvalidAccessError if the code is neither 1000 nor one from 3000 to 4999
   * @throws SyntaxError if the reason has more than 123 bytes
   */
  close(code = 1000, reason = ""): void {
    if (code !== 1000 && !(code >= 3000 && code <= 4999)) {
      throw new DOMException(`a close code is 1000 or 3000-4999, not ${code}`, "InvalidAccessError")
    }
    if (sizeOf(reason) > MAX_REASON) throw new DOMException("reason is too long", "SyntaxError")
    if (this.#isConnected) {
      if (this.#replay) this.sendControl({ t: "gone", why: "closed" })
      this.#stopTimers() // Chrome reports it in the console if something is sent on a connection that closes
      this.state = SessionState.Closing
      this.connection!.close(code, reason)
    } else if (this.state === SessionState.New) this.#end(ABNORMAL, "closed")
    else if (this.#isDetached) this.#end(code, reason)
  }

  #end(code: number, reason: string): void {
    this.state = SessionState.Over
    this.#disown(code >= 3000 ? code : 1000)
    clearTimeout(this.#expiryTimer)
    this.#replay = undefined
    queueMicrotask(() => this.#owner.sessionOver(code, reason))
  }
}
