// `Draining`: the end of a session with a server that is about to close.

import { LONGEST_TIMER } from "./clock.js"

/** Milliseconds before the server closes in which nothing new is started there, because it might arrive too late. */
const MARGIN = 1_000

/** The requests of this side, the calls of the server and the channels that are in progress, by their ids. */
export type InProgress = readonly ReadonlyMap<number, unknown>[]

/**
 * The time in which a server drains. Requests, calls and channels that started before continue, and may need further
 * calls. When all have ended, or little time remains, this side becomes silent: it starts nothing new.
 */
export class Draining {
  readonly #inProgress: InProgress
  readonly #onSilent: () => void
  /** Ids of the requests, calls and channels that started before, and may still be in progress. */
  readonly #ids: Set<number>
  /** When the server closes, as a time like `Date.now()`. Undefined if the server does not announce it. */
  declare closesAt: number | undefined
  #isSilent = false
  #timer: ReturnType<typeof setTimeout> | undefined

  /** @param onSilent is called when this side becomes silent */
  constructor(inProgress: InProgress, onSilent: () => void) {
    this.#inProgress = inProgress
    this.#onSilent = onSilent
    this.#ids = new Set(inProgress.flatMap((table) => [...table.keys()]))
  }

  /** The server has announced that it closes in so many milliseconds, or in NaN if it does not announce the time. */
  received(ms: number): void {
    if (this.#isSilent) return
    clearTimeout(this.#timer)
    this.closesAt = Date.now() + ms || undefined
    if (ms >= MARGIN) {
      this.#timer = setTimeout(() => this.#becomeSilent(), Math.min(ms - MARGIN, LONGEST_TIMER))
      this.update()
    } else this.#becomeSilent()
  }

  /**
   * Whether an event or a request can be sent in this session.
   *
   * @param opens whether the request opens a channel, which might not end in time
   */
  accepts(opens = false): boolean {
    if (!this.#isSilent && !opens) return true
    if (this.closesAt! - Date.now() < MARGIN) return false
    // The server waits for its calls, which have even ids. Their handlers may need an answer of the server.
    return this.#inProgress.some((table) => [...table.keys()].some((id) => id % 2 === 0))
  }

  /** Becomes silent if everything that started before has ended. */
  update(): void {
    for (const id of this.#ids) {
      if (this.#inProgress.some((table) => table.has(id))) return
      this.#ids.delete(id)
    }
    this.#becomeSilent()
  }

  #becomeSilent(): void {
    if (this.#isSilent) return
    this.stop()
    this.#onSilent()
  }

  /** The session has ended. */
  stop(): void {
    this.#isSilent = true
    clearTimeout(this.#timer)
  }
}
