// Streams: the reader of one, and the producer of one.

import { FINISHED, type Channel, type ChannelUser } from "./channel.js"
import type { Message } from "./codec.js"
import { Aborted, ChannelClosed, WsrpcError } from "./errors.js"
import { report } from "./handlers.js"
import { MESSAGE } from "./ledger.js"

/** Items and bytes that may be on the way, or wait to be read. */
const WINDOW = 512
const WINDOW_BYTES = 256 * 1024
/** Bytes that may wait to be read if the producer does not keep to credit. */
const UNREAD = 1024 * 1024

interface Unread<T> {
  value: T
  size: number
  /** Answered when the item is read, if it came as a request. */
  message: Message
}

/** The items of a stream, for one reader. Leaving the loop ends the stream. */
export class Items<T> implements AsyncIterableIterator<T, undefined>, ChannelUser {
  /** Opens the channel when reading begins. */
  #open: (() => Promise<Channel>) | undefined
  #begun: Promise<void> | undefined
  readonly #last: ((message: Message) => void) | undefined
  #channel: Channel | undefined
  #queue: Unread<T>[] = []
  #unread = 0
  #taken = 0
  #takenBytes = 0
  /** The items and bytes at which the producer gets more credit. */
  #renewAt = 0
  #renewBytesAt = 0
  #over = false
  #error: Error | undefined
  #wake = () => {}

  /**
   * @param open opens the channel of the stream
   * @param last takes the request with which an upload ends. Leaving the loop then does not end the channel
   */
  constructor(open: () => Promise<Channel>, last?: (message: Message) => void) {
    this.#open = open
    this.#last = last
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    await (this.#begun ??= this.#begin())
    while (!this.#queue.length && !this.#over) {
      await new Promise<void>((resolve) => {
        const others = this.#wake // `next` may be called several times at once
        this.#wake = () => {
          others()
          resolve()
        }
      })
    }
    const item = this.#queue.shift()
    if (item) {
      this.#taken++
      this.#takenBytes += item.size
      this.#unread -= item.size + MESSAGE
      this.#channel!.answer(item.message)
      this.#grant()
      return { done: false, value: item.value }
    }
    const error = this.#error
    this.#error = undefined // raised once
    if (error) throw error
    return { done: true, value: undefined }
  }

  async return(): Promise<IteratorResult<T, undefined>> {
    const wasOver = this.#over
    const unread = this.#queue
    this.#queue = []
    this.#error = undefined
    this.#finish(undefined)
    if (!this.#last) this.#channel?.abort()
    else if (!wasOver) {
      const channel = (this.#channel ??= await this.#open!())
      channel.use(this)
      for (const { message } of unread) channel.answer(message)
      if (channel.isOpen) channel.emit("stop")
    }
    this.#open = undefined
    return { done: true, value: undefined }
  }

  /** Opens the channel now, for a stream whose items are wanted although nobody reads yet. */
  async #begin(): Promise<void> {
    if (!this.#open) return
    try {
      this.#channel = await this.#open()
    } catch (error) {
      this.#finish(undefined)
      throw error
    }
    if (this.#over) return this.#last ? undefined : this.#channel.abort() // it was left meanwhile
    this.#channel.use(this)
    if (this.#channel.isOpen) {
      if (this.#channel.givesCredit) this.#grant()
      else this.#renewAt = this.#renewBytesAt = Infinity
      this.#channel.emit("start")
    }
  }

  #grant(): void {
    if (this.#over || (this.#taken < this.#renewAt && this.#takenBytes < this.#renewBytesAt)) return
    this.#channel!.grant(this.#taken + WINDOW, this.#takenBytes + WINDOW_BYTES)
    this.#renewAt = this.#taken + WINDOW / 2
    this.#renewBytesAt = this.#takenBytes + WINDOW_BYTES / 2
  }

  // ------------------------------------------------------------ what comes on the channel

  take(name: string, message: Message, size: number): boolean {
    if (name === "start" && !this.#last) {
      this.#channel!.abort(new WsrpcError("the handler reads items: use upload(), or open() if it sends some, too", "ran"))
      return true
    }
    if (name !== "next") return false
    const argument = message.a![1] as { value?: T; done?: unknown } | T[] | undefined
    if (Array.isArray(argument)) {
      // Several items of one message: the first counts for all its bytes.
      argument.forEach((value, index) => this.#put({ value, size: index ? 0 : size, message }))
    } else if (argument?.done) {
      this.#finish(undefined)
      if (this.#last) this.#last(message)
      else {
        this.#channel!.answer(message)
        this.#channel!.over(FINISHED)
      }
    } else this.#put({ value: argument?.value as T, size, message })
    return true
  }

  #put(item: Unread<T>): void {
    if (this.#over) return this.#channel!.answer(item.message) // its producer waits before it looks whether to stop
    this.#queue.push(item)
    this.#unread += item.size + MESSAGE
    this.#rouse()
    if (this.#unread > UNREAD + WINDOW_BYTES && this.#queue.length > 1) {
      this.#channel!.abort(new ChannelClosed("the stream was read too slowly", "ran"))
    }
  }

  credited(): void {}

  ended(error: Error | undefined): void {
    if (error instanceof Aborted) this.#queue = [] // nobody wants the rest
    this.#finish(error)
  }

  #finish(error: Error | undefined): void {
    if (this.#over) return
    this.#over = true
    this.#error = error
    this.#rouse()
  }

  #rouse(): void {
    const wake = this.#wake
    this.#wake = () => {}
    wake()
  }
}

/** What can be sent as a stream. */
export type Source<T> = AsyncIterable<T> | Iterable<T>

/** How much of an upload was sent. */
export interface Progress {
  readonly items: number
  /** The bytes in the items: those of a `Uint8Array` or an `ArrayBuffer`, and otherwise those of the message. */
  readonly bytes: number
}

/** Sends the items of a source as fast as their consumer asks for them. */
export class Producer implements ChannelUser {
  readonly #channel: Channel
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

  constructor(channel: Channel, progress?: (progress: Progress) => void) {
    this.#channel = channel
    this.#progress = progress
    channel.use(this)
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

  take(name: string, message: Message): boolean {
    if (name === "start") this.#started = true
    else if (name === "stop") this.#stopped = true
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

  ended(error: Error | undefined): void {
    this.#end = { error }
    this.#wake()
  }
}
