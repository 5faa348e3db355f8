// `Backoff`: the delays before attempts to connect; and the close codes after which a client does not dial again.

const INITIAL = 500
const LONGEST = 30_000
/** Milliseconds that a connection must last, so that earlier failures no longer count. */
const STABLE = 10_000
/** The same for a connection of a session that goes on, because a server may drop each connection at once. */
const SERVED = 1_000

/** The close code of a server that restarts. After `SERVED` milliseconds, this is not a failure. */
const RESTART = 1012
/** Close codes after which a client does not dial again: policy violation, unauthorized, forbidden, and replaced. */
const FINAL = new Set([1008, 3000, 3003, 4410])

/** Whether another connection may succeed after a connection that ended with this close code. */
export const mayDialAgain = (code: number): boolean => !FINAL.has(code)

/** Starts attempts to connect after random delays, so that not all pages of a server reconnect at once. */
export class Backoff {
  readonly #dial: () => void
  #failures = 0
  #timer: ReturnType<typeof setTimeout> | undefined
  /** When the next attempt starts, as a time like `Date.now()`. Undefined if none waits. */
  declare retryAt: number | undefined

  constructor(dial: () => void) {
    this.#dial = dial
  }

  /**
   * Waits for the next attempt.
   *
   * @param code the close code of the last connection
   * @param lasted the milliseconds for which the connection was open; 0 for a failed attempt
   * @param kept the milliseconds for which the server keeps the session, which is asked for several times meanwhile
   */
  start(code: number, lasted: number, kept = Infinity): void {
    if (lasted >= (kept < Infinity || code === RESTART ? SERVED : STABLE)) this.#failures = 0
    const least = code === 1013 ? 10_000 : 0
    const delay = least + Math.random() * Math.min(LONGEST, kept / 8, INITIAL * 2 ** this.#failures++)
    this.retryAt = Date.now() + delay
    this.#timer = setTimeout(this.#dial, delay)
  }

  /** Gives up the wait. */
  stop(): void {
    clearTimeout(this.#timer)
    this.retryAt = undefined
  }
}
