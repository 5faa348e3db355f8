// `Producer`: sends the items of a stream.

import type { Progress, Source } from "./api.js"
import type { ChannelCore, Recipient } from "./channel_core.js"
import type { Message } from "./codec.js"
import { ChannelClosed } from "./errors.js"
import { report } from "./handlers.js"

/** Bytes of each item of a `Blob`. */
const PIECE = 64 * 1024

/** Reads a `Blob` in pieces of one size. Its own stream has other sizes in each browser, and no iterator in Safari. */
async function* piecesOf(blob: Blob): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < blob.size; at += PIECE) yield new Uint8Array(await blob.slice(at, at + PIECE).arrayBuffer())
}

/** Sends the items of a source as fast as their consumer asks for them. */
export class Producer implements Recipient {
  readonly #channel: ChannelCore
  readonly #progress: ((progress: Progress) => void) | undefined
  #started = false
  /** Whether the consumer grants credit. If not, each item is a request, and the next item waits for its answer. */
  #credit = false
  #granted = 0
  #grantedBytes = 0
  #sent = 0
  #sentBytes = 0
  /** Bytes of the items, for `progress`. */
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
   * Sends items until the source ends or the consumer stops, and closes the source.
   *
   * @throws ChannelClosed if the channel ends before, and any error of the source
   */
  async run<T>(source: Source<T>): Promise<void> {
    const given: any = (source as Blob).arrayBuffer ? piecesOf(source as Blob) : source
    const items: AsyncIterator<T> | Iterator<T> = given[Symbol.asyncIterator]?.() ?? given[Symbol.iterator]()
    try {
      while (await this.#waitForRoom()) {
        const next = await this.#unlessStopped(items.next())
        if (!next) continue
        if (next.done) return
        const item = { value: next.value, done: false }
        let size = 0
        if (this.#credit) this.#sentBytes += size = this.#channel.emit("next", item).size
        else await this.#channel.request("next", item)
        this.#bytes += (next.value as Partial<ArrayBufferView> | null | undefined)?.byteLength ?? size
        this.#progress?.({ items: ++this.#sent, bytes: this.#bytes })
      }
    } finally {
      // An error in closing is only reported, because it must not replace an earlier error.
      const closed = (async () => items.return?.())().catch(report)
      // A generator closes only after its present `await`, which may last long. So this waits only if the source itself
      // has ended or failed.
      if (!this.#end && !this.#stopped) await closed
    }
  }

  /** Waits for an item. Returns undefined if the consumer stops before. */
  #unlessStopped<I>(item: I | PromiseLike<I>): Promise<I | undefined> {
    return new Promise((resolve, reject) => {
      this.#wake = () => {
        if (this.#end || this.#stopped) resolve(undefined)
      }
      Promise.resolve(item).then(resolve, reject)
    })
  }

  /** Waits until the next item may be sent. Returns false if the consumer stops. */
  async #waitForRoom(): Promise<boolean> {
    for (;;) {
      if (this.#end) throw this.#end.error ?? new ChannelClosed("the channel has ended", "unknown")
      if (this.#stopped) return false
      const hasRoom = this.#sent < this.#granted && this.#sentBytes < this.#grantedBytes
      if (this.#started && (hasRoom || !this.#credit)) return true
      await new Promise<void>((resolve) => (this.#wake = resolve))
    }
  }

  // ------------------------------------------------------------ for the channel

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
