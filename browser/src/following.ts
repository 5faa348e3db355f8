// `Following`: the items of a stream with a key, from one session to the next.

import type { Items, KeyOptions, MessageOptions } from "./api.js"
import { ConnectionLost } from "./errors.js"

/** Iterator over the items of one stream after another. */
export class Following<T> implements Items<T> {
  readonly #open: (after: string | number | null | undefined) => Items<T>
  #items: Items<T> | undefined
  #after: string | number | null | undefined

  /**
   * @param open opens a stream after a position
   * @throws TypeError if the options have no key
   */
  constructor(open: (after: string | number | null | undefined) => Items<T>, { key, after }: KeyOptions) {
    if (key == null) throw new TypeError("to follow a stream, give it a key")
    this.#open = open
    this.#after = after
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  get #reading(): Items<T> {
    return (this.#items ??= this.#open(this.#after))
  }

  get position(): string | undefined {
    const after = this.#items?.position ?? this.#after
    return after == null ? undefined : `${after}`
  }

  stop(): Promise<void> {
    return this.#reading.stop()
  }

  send(message: unknown, options?: MessageOptions): Promise<void> {
    return this.#reading.send(message, options)
  }

  return(): Promise<IteratorResult<T, undefined>> {
    return this.#reading.return()
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    for (;;) {
      const items = this.#reading
      try {
        return await items.next()
      } catch (error) {
        if (!(error instanceof ConnectionLost) || error.outcome === "not_sent") throw error
        this.#after = items.position
        this.#items = undefined
      }
    }
  }
}
