// `Heartbeat`: detects that a connection is dead.

import { now } from "./clock.js"
import type { Control } from "./control.js"
import { ABNORMAL, SILENT, type Dialing } from "./dialing.js"

/** What a heartbeat needs of its session. */
export interface HeartbeatOwner {
  /** Whether silence must be detected soon although nobody sees the page. */
  readonly isBusy: boolean
  /** Bytes that the connection has not written so far. */
  readonly unsent: number
  readonly dialing: Dialing
  /** Sends a control message on the connection. */
  sendControl(control: Control): void
  connectionLost(code: number, reason: string): void
}

/** Milliseconds of silence after which this side sends a probe. */
const QUIET = 5_000
/** The same while nobody sees the page and the owner is not busy. */
const QUIET_UNSEEN = 30_000
/** Milliseconds that this side waits for an answer. */
const PROBE_TIMEOUT = 4_000

/**
 * Sends a probe when nothing has arrived or left for some time. Without an answer, the connection is dead, or the server
 * is busy. So another connection is dialed, which replaces this one as soon as it is open. The dialing is stopped if the
 * answer comes before, and the connection is lost if neither comes.
 */
export class Heartbeat {
  readonly #owner: HeartbeatOwner
  /** When something has arrived or left. */
  #movedAt = 0
  /** The unsent bytes at the last check. */
  #unsent = 0
  /** When the answer to a probe is due. Undefined if no probe was sent. */
  #answerDue: number | undefined
  #patience = PROBE_TIMEOUT
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(owner: HeartbeatOwner) {
    this.#owner = owner
  }

  /** Starts with a connection. The time for an answer stays the same, because the large message may be sent again. */
  start(): void {
    this.#moved()
    this.#check()
  }

  /** A message has arrived. */
  received(): void {
    this.#moved()
    this.#patience = PROBE_TIMEOUT
  }

  /** Something has arrived or left: the connection is not dead. */
  #moved(): void {
    this.#movedAt = now()
    this.#answerDue = undefined
    this.#owner.dialing.stop(1000)
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#answerDue = undefined
  }

  /**
   * Sends a probe now, because the page has woken up.
   *
   * @param probablyLost whether the connection has probably ended, so that another one is dialed at once
   */
  wake(probablyLost: boolean): void {
    // If the page was awake, the silence would have been noticed before now.
    const isLost = probablyLost || now() - this.#movedAt > QUIET_UNSEEN + PROBE_TIMEOUT
    this.#probe(isLost && this.#owner.dialing.asksToResume ? 0 : this.#patience)
    this.#unsent = 0 // what has left since the last check does not show that the connection is alive now
    this.#check()
  }

  #check(): void {
    const time = now()
    const { dialing, unsent } = this.#owner
    if (unsent && unsent < this.#unsent) this.#moved() // not if all has left: the system may have the last bytes
    this.#unsent = unsent
    if (this.#answerDue && time >= this.#answerDue) {
      this.#answerDue = time + (this.#patience *= 2)
      if (!dialing.asksToResume) return this.#owner.connectionLost(ABNORMAL, SILENT)
      if (!dialing.isDialing) dialing.dial()
    }
    const seen = globalThis.document?.visibilityState !== "hidden" || this.#owner.isBusy
    if (!this.#answerDue && time >= this.#movedAt + (seen ? QUIET : QUIET_UNSEEN)) this.#probe(this.#patience)
    clearTimeout(this.#timer)
    // A call may start while nobody sees the page, so this is checked again after `QUIET`.
    const next = this.#answerDue ?? (seen ? this.#movedAt : time) + QUIET
    this.#timer = setTimeout(() => this.#check(), next - time)
  }

  #probe(patience: number): void {
    this.#answerDue = Math.min(this.#answerDue ?? Infinity, now() + patience) // a page may wake up again and again
    this.#owner.sendControl({ t: "probe" })
  }
}
