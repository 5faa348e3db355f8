// `Following`: the items of a stream with a key, from one session to the next.

import type { Items, KeyOptions, MessageOptions } from "./api.js"
import { ConnectionLost } from "./errors.js"

/** Iterator over the items of one stream after another. */
export class Following<T> implements Items<T> {
  readonly #open: (after: KeyOptions["after"]) => Items<T>
  #items: Items<T>

  /**
   * @param open opens a stream after a position
   * @throws TypeError if the options have no key
   */
  constructor(open: (after: KeyOptions["after"]) => Items<T>, { key, after }: KeyOptions) {
    if (key == null) throw new TypeError("to follow a stream, give it a key")
    this.#open = open
    this.#items = open(after)
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  get position(): string | undefined {
    return this.#items.position
  }

  stop(): Promise<void> {
    return this.#items.stop()
  }

  send(message: unknown, options?: MessageOptions): Promise<void> {
    return this.#items.send(message, options)
  }

  return(): Promise<IteratorResult<T, undefined>> {
    return this.#items.return()
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    for (;;) {
      const items = this.#items
      try {
        return await items.next()
      } catch (error) {
        if (!(error instanceof ConnectionLost) || error.outcome === "not_sent") throw error
        this.#items = this.#open(items.position)
      }
    }
  }
}
