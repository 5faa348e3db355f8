// `Heartbeat`: detects that a connection is dead.

import { now } from "./clock.js"
import type { Control } from "./control.js"
import { ABNORMAL } from "./dialing.js"

/** What a heartbeat needs of its session. */
export interface HeartbeatOwner {
  /** Whether silence must be detected soon although nobody sees the page. */
  readonly isBusy: boolean
  /** Sends a control message on the connection. */
  sendControl(control: Control): void
  connectionLost(code: number, reason: string): void
}

/** Milliseconds of silence after which this side sends a probe. */
const QUIET = 5_000
/** The same while nobody sees the page and the owner is not busy. */
const QUIET_UNSEEN = 30_000
/** Milliseconds that this side waits for an answer; and when the page has just woken up. */
const PATIENCE = 4_000
const PATIENCE_AWAKE = 2_000
/** The longest wait. Over a slow network, a large message before the answer delays the answer. */
const MAX_PATIENCE = 60_000

/** Sends a probe when nothing has arrived for some time. Without an answer, the connection is lost. */
export class Heartbeat {
  readonly #owner: HeartbeatOwner
  /** When the last message has arrived. */
  #receivedAt = 0
  /** When the answer to a probe is due. Undefined if no probe was sent. */
  #answerDue: number | undefined
  #patience = PATIENCE
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(owner: HeartbeatOwner) {
    this.#owner = owner
  }

  /** Starts with a connection. Patience stays the same, because the large message may be sent again. */
  start(): void {
    this.#receivedAt = now()
    this.#probeIfDue()
  }

  /** A message has arrived. */
  received(): void {
    this.#receivedAt = now()
    this.#answerDue = undefined
    this.#patience = PATIENCE
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#answerDue = undefined
  }

  /** Whether the page has slept: awake, this side would have detected the silence before now. */
  get hasSlept(): boolean {
    return now() - this.#receivedAt > QUIET_UNSEEN + PATIENCE
  }

  /** Sends a probe now, because the page has woken up. */
  wake(): void {
    this.#probe(PATIENCE_AWAKE)
    this.#probeIfDue()
  }

  #probeIfDue(): void {
    const time = now()
    if (this.#answerDue && time >= this.#answerDue) {
      this.#patience = Math.min(2 * this.#patience, MAX_PATIENCE)
      return this.#owner.connectionLost(ABNORMAL, "the connection is silent")
    }
    const seen = globalThis.document?.visibilityState !== "hidden" || this.#owner.isBusy
    if (!this.#answerDue && time >= this.#receivedAt + (seen ? QUIET : QUIET_UNSEEN)) this.#probe(this.#patience)
    clearTimeout(this.#timer)
    // A call may start while nobody sees the page, so this is checked again after `QUIET`.
    const next = this.#answerDue ?? (seen ? this.#receivedAt : time) + QUIET
    this.#timer = setTimeout(() => this.#probeIfDue(), next - time)
  }

  #probe(patience: number): void {
    this.#answerDue = Math.min(this.#answerDue ?? Infinity, now() + patience)
    this.#owner.sendControl({ t: "probe" })
  }
}
