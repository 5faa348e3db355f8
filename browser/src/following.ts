// `Following`: the items of a stream with a key, from one session to the next.

import type { FollowedItems, Items, KeyOptions } from "./api.js"
import { ConnectionLost, WsrpcError } from "./errors.js"

/** Iterator over the items of one stream after another. */
export class Following<T> implements FollowedItems<T> {
  readonly #open: (options: KeyOptions) => Items<T>
  readonly #key: string
  readonly #attempts: number
  #items: Items<T> | undefined
  /** The items whose handler was stopped, as that of each later attempt is then. */
  #stopped: Items<T> | undefined
  #after: string | number | null | undefined
  attempt = 1

  /**
   * @param open opens a stream with other options
   * @throws TypeError if the options have no key
   */
  constructor(open: (options: KeyOptions) => Items<T>, { key, after, attempts = 1 }: KeyOptions) {
    if (key == null) throw new TypeError("to follow a stream, give it a key")
    this.#open = open
    this.#key = key
    this.#attempts = attempts
    const [, attempt, rest] = /^(\d+):(.*)$/.exec(`${after}`) ?? []
    if (attempt) this.attempt = +attempt
    this.#after = attempt ? rest || undefined : after
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  get #reading(): Items<T> {
    const key = this.attempt === 1 ? this.#key : `${this.#key}:${this.attempt}`
    return (this.#items ??= this.#open({ key, after: this.#after }))
  }

  get position(): string | undefined {
    const after = this.#items?.position ?? this.#after
    if (this.attempt > 1) return `${this.attempt}:${after ?? ""}`
    return after == null ? undefined : `${after}`
  }

  stop(): Promise<void> {
    return (this.#stopped = this.#reading).stop()
  }

  return(): Promise<IteratorResult<T, undefined>> {
    return this.#reading.return()
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    for (;;) {
      const items = this.#reading
      try {
        if (this.#stopped && this.#stopped !== items) {
          await items.stop()
          this.#stopped = items // only now: after an error, the next step stops it
        }
        return await items.next()
      } catch (error) {
        if (error instanceof ConnectionLost && error.outcome !== "not_sent") this.#after = items.position
        else if ((error as WsrpcError).code === "wsrpc.run_lost" && this.attempt < this.#attempts) {
          this.attempt++
          this.#after = undefined
        } else throw error
        this.#items = undefined
      }
    }
  }
}
