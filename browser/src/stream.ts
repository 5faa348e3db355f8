// `Stream`: the reader of a stream.

import type { Items } from "./api.js"
import { FINISHED, type ChannelCore, type Recipient } from "./channel.js"
import type { Message } from "./codec.js"
import { MESSAGE } from "./data.js"
import { Aborted, ChannelClosed, WsrpcError } from "./errors.js"

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

/** Reads the items of a stream from its channel, as fast as they are taken. */
export class Stream<T> implements Items<T>, Recipient {
  /** Opens the channel when reading begins. */
  #open: (() => Promise<ChannelCore>) | undefined
  #begun: Promise<void> | undefined
  readonly #last: ((message: Message) => void) | undefined
  #channel: ChannelCore | undefined
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
  constructor(open: () => Promise<ChannelCore>, last?: (message: Message) => void) {
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
      channel.setRecipient(this)
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
    this.#channel.setRecipient(this)
    if (this.#channel.isOpen) {
      if (this.#channel.hasCredit) this.#grant()
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

  receive(event: string, message: Message, size: number): boolean {
    if (event === "start" && !this.#last) {
      this.#channel!.abort(new WsrpcError("the handler reads items: use upload(), or open() if it sends some, too", "ran"))
      return true
    }
    if (event !== "next") return false
    const argument = message.a![1] as { value?: T; done?: unknown } | T[] | undefined
    if (Array.isArray(argument)) {
      // Several items of one message: the first counts for all its bytes.
      argument.forEach((value, index) => this.#put({ value, size: index ? 0 : size, message }))
    } else if (argument?.done) {
      this.#finish(undefined)
      if (this.#last) this.#last(message)
      else {
        this.#channel!.answer(message)
        this.#channel!.end(FINISHED)
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

  channelEnded(error: Error | undefined): void {
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
