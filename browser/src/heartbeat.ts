// `Heartbeat`: notices that a connection is dead.

import { now } from "./clock.js"
import type { Control } from "./control.js"
import { ABNORMAL } from "./dialing.js"

/** What a heartbeat needs of its session. */
export interface HeartbeatOwner {
  /** Whether silence is noticed soon even if nobody sees the page. */
  readonly isBusy: boolean
  /** Sends a control message on the connection. */
  say(control: Control): void
  connectionLost(code: number, reason: string): void
}

/** Milliseconds of silence after which this side asks whether the connection is alive: if anybody waits, and if not. */
const QUIET = 5_000
const QUIET_UNSEEN = 30_000
/** Milliseconds in which a connection that is alive answers; and when the page has just woken up. */
const PATIENCE = 4_000
const PATIENCE_AWAKE = 2_000
/** It answers later if a large message comes before the answer, over a slow network. */
const PATIENCE_MOST = 60_000

/** Asks whether the connection is alive when nothing has arrived for some time. Without an answer, it is lost. */
export class Heartbeat {
  readonly #owner: HeartbeatOwner
  /** When something has last arrived. */
  #heardAt = 0
  /** When the answer to a probe is due. Undefined unless this side has asked. */
  #answerDue: number | undefined
  #patience = PATIENCE
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(owner: HeartbeatOwner) {
    this.#owner = owner
  }

  /** Begins with a connection. Patience stays: the message that takes long may come again. */
  start(): void {
    this.#heardAt = now()
    this.#look()
  }

  /** Notes that something has arrived. */
  heard(): void {
    this.#heardAt = now()
    this.#answerDue = undefined
    this.#patience = PATIENCE
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#answerDue = undefined
  }

  /** Whether nothing has arrived for so long that this side would have noticed if it had not been asleep. */
  get hasSlept(): boolean {
    return now() - this.#heardAt > QUIET_UNSEEN + PATIENCE
  }

  /** Asks now, because the page has woken up. */
  wake(): void {
    this.#probe(PATIENCE_AWAKE)
    this.#look()
  }

  #look(): void {
    const time = now()
    if (this.#answerDue && time >= this.#answerDue) {
      this.#patience = Math.min(2 * this.#patience, PATIENCE_MOST)
      return this.#owner.connectionLost(ABNORMAL, "the connection is silent")
    }
    const seen = globalThis.document?.visibilityState !== "hidden" || this.#owner.isBusy
    if (!this.#answerDue && time >= this.#heardAt + (seen ? QUIET : QUIET_UNSEEN)) this.#probe(this.#patience)
    clearTimeout(this.#timer)
    // A call may begin while nobody sees the page.
    this.#timer = setTimeout(() => this.#look(), (this.#answerDue ?? (seen ? this.#heardAt : time) + QUIET) - time)
  }

  #probe(patience: number): void {
    this.#answerDue = Math.min(this.#answerDue ?? Infinity, now() + patience)
    this.#owner.say({ t: "probe" })
  }
}
