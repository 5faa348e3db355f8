// `Producer`: the producer of a stream.

import type { Progress, Source } from "./api.js"
import type { ChannelCore, Recipient } from "./channel.js"
import type { Message } from "./codec.js"
import { ChannelClosed } from "./errors.js"
import { report } from "./handlers.js"

/** Sends the items of a source as fast as their consumer asks for them. */
export class Producer implements Recipient {
  readonly #channel: ChannelCore
  readonly #progress: ((progress: Progress) => void) | undefined
  #started = false
  /** Whether the consumer gives credit. Otherwise each item is a request, and the next one waits for its answer. */
  #credit = false
  #granted = 0
  #grantedBytes = 0
  #sent = 0
  #sentBytes = 0
  /** Those in the items, without what the messages add. */
  #bytes = 0
  #stopped = false
  #end: { error: Error | undefined } | undefined
  #wake = () => {}

  constructor(channel: ChannelCore, progress?: (progress: Progress) => void) {
    this.#channel = channel
    this.#progress = progress
    channel.setRecipient(this)
  }

  /**
   * Sends all items that the consumer wants, and closes the source.
   *
   * @throws ChannelClosed if the channel ends before, and whatever the source throws
   */
  async run<T>(source: Source<T>): Promise<void> {
    const { [Symbol.asyncIterator]: iterate } = source as Partial<AsyncIterable<T>> // not `in`: it may be a string
    const items = iterate ? iterate.call(source) : (source as Iterable<T>)[Symbol.iterator]()
    try {
      while (await this.#mayGoOn()) {
        const next = await this.#unlessOver(items.next())
        if (!next) continue
        if (next.done) return
        const item = { value: next.value, done: false }
        let size = 0
        if (this.#credit) this.#sentBytes += size = this.#channel.send("next", [item])
        else await this.#channel.request("next", item)
        this.#bytes += (next.value as Partial<ArrayBufferView> | null | undefined)?.byteLength ?? size
        this.#progress?.({ items: ++this.#sent, bytes: this.#bytes })
      }
    } finally {
      // What goes wrong in closing is only reported: it must not take the place of what went wrong before.
      const closed = (async () => items.return?.())().catch(report)
      // A generator closes when it has what it waits for at the moment, which may take any time.
      if (!this.#end && !this.#stopped) await closed
    }
  }

  /** Waits for an item. Returns undefined if the consumer wants no more before it has come. */
  #unlessOver<I>(item: I | PromiseLike<I>): Promise<I | undefined> {
    return new Promise((resolve, reject) => {
      this.#wake = () => {
        if (this.#end || this.#stopped) resolve(undefined)
      }
      Promise.resolve(item).then(resolve, reject)
    })
  }

  /** Waits for room. Returns false if the consumer wants no more. */
  async #mayGoOn(): Promise<boolean> {
    for (;;) {
      if (this.#end) throw this.#end.error ?? new ChannelClosed("the channel has ended", "unknown")
      if (this.#stopped) return false
      const hasRoom = this.#sent < this.#granted && this.#sentBytes < this.#grantedBytes
      if (this.#started && (hasRoom || !this.#credit)) return true
      await new Promise<void>((resolve) => (this.#wake = resolve))
    }
  }

  // ------------------------------------------------------------ what comes on the channel

  receive(event: string, message: Message): boolean {
    if (event === "start") this.#started = true
    else if (event === "stop") this.#stopped = true
    else return false
    this.#channel.answer(message)
    this.#wake()
    return true
  }

  credited(items: number, bytes: number): void {
    this.#credit ||= !this.#started
    this.#granted = Math.max(this.#granted, items)
    this.#grantedBytes = Math.max(this.#grantedBytes, bytes)
    this.#wake()
  }

  channelEnded(error: Error | undefined): void {
    this.#end = { error }
    this.#wake()
  }
}
