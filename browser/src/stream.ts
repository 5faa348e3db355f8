// `Stream`: reads the items of a stream.

import type { Items, KeyOptions, MessageOptions } from "./api.js"
import { FINISHED, type ChannelCore, type Recipient } from "./channel_core.js"
import type { Message } from "./codec.js"
import { OVERHEAD } from "./data.js"
import { Aborted, ChannelClosed, WsrpcError } from "./errors.js"

/** The most items and bytes that the producer may send before they are read. */
const WINDOW = 512
const WINDOW_BYTES = 256 * 1024
/** The most bytes that may wait to be read, if the producer does not support credit. */
const MAX_UNREAD = 1024 * 1024

const OVER = { done: true, value: undefined } as const

/** An item that waits to be read. */
interface Unread<T> {
  value: T
  size: number
  /** The message of the item. If it is a request, it is answered when the item is read. */
  message: Message
}

/** Iterator over the items of a stream. It grants credit as items are read. */
export class Stream<T> implements Items<T>, Recipient {
  /** Opens the channel when the first item is read. Undefined when the loop has exited. */
  #open: (() => Promise<ChannelCore>) | undefined
  #started: Promise<void> | undefined
  readonly #sendMessage: Items<T>["send"] | undefined
  readonly #onLast: ((message: Message) => void) | undefined
  readonly #options: KeyOptions
  /** The run that a stream with a key reads: its id, and how many of its items are skipped. */
  #run: [id: string, skipped: number] | undefined
  #channel: ChannelCore | undefined
  readonly #queue: Unread<T>[] = []
  #unreadBytes = 0
  #read = 0
  #readBytes = 0
  /** The items and bytes at which the producer gets more credit. */
  #renewAt = 0
  #renewBytesAt = 0
  #isOver = false
  #error: Error | undefined
  /** Wakes each call of `next` that waits. There may be several at once. */
  readonly #waiting: (() => void)[] = []

  /**
   * @param open opens the channel of the stream
   * @param sendMessage sends a message to the handler
   * @param onLast is called with the last request of an upload. With it, the channel stays open when the loop exits
   */
  constructor(
    open: () => Promise<ChannelCore>,
    onLast?: (message: Message) => void,
    options: KeyOptions = {},
    sendMessage?: Items<T>["send"],
  ) {
    this.#open = open
    this.#sendMessage = sendMessage
    this.#onLast = onLast
    this.#options = options
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  get position(): string | undefined {
    const { after } = this.#options
    if (this.#run) return `${this.#run[1] + this.#read}-${this.#run[0]}`
    return after == null ? undefined : `${after}`
  }

  async stop(): Promise<void> {
    const hasKey = this.#options.key != null
    if (hasKey) await (this.#started ??= this.#start())
    if (!hasKey || !this.#channel) throw new TypeError("only an open stream with a key stops")
    try {
      await this.#channel.request("cancel")
    } catch (error) {
      if (!this.#isOver || !this.#open) throw error // the handler has not ended, or the loop has exited before
    }
  }

  async send(message: unknown, options?: MessageOptions): Promise<void> {
    if (this.#options.key == null) throw new TypeError("only a stream with a key gets messages")
    await this.#sendMessage!(message, options)
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    await (this.#started ??= this.#start())
    while (!this.#queue.length && !this.#isOver) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
    const item = this.#queue.shift()
    if (item) {
      this.#read++
      this.#readBytes += item.size
      this.#unreadBytes -= item.size + OVERHEAD
      this.#channel!.answer(item.message)
      this.#grant()
      return { done: false, value: item.value }
    }
    const error = this.#error
    this.#error = undefined // thrown once
    if (error) throw error
    return OVER
  }

  async return(): Promise<IteratorResult<T, undefined>> {
    const wasOver = this.#isOver
    const unread = this.#queue.splice(0)
    this.#error = undefined
    this.#finish()
    if (!this.#onLast) this.#channel?.abort()
    else if (!wasOver) {
      const channel = (this.#channel ??= await this.#open!())
      channel.setRecipient(this)
      for (const { message } of unread) channel.answer(message)
      if (channel.isOpen) channel.emit("stop")
    }
    this.#open = undefined
    return OVER
  }

  /** Opens the channel and asks for the items. */
  async #start(): Promise<void> {
    if (!this.#open) return
    try {
      this.#channel = await this.#open()
    } catch (error) {
      this.#finish()
      throw error
    }
    if (this.#isOver) return this.#onLast ? undefined : this.#channel.abort() // the loop has exited meanwhile
    this.#channel.setRecipient(this)
    if (this.#channel.isOpen) {
      if (this.#channel.hasCredit) this.#grant()
      else this.#renewAt = this.#renewBytesAt = Infinity
      this.#channel.emit("start")
    }
  }

  #grant(): void {
    if (this.#isOver || (this.#read < this.#renewAt && this.#readBytes < this.#renewBytesAt)) return
    this.#channel!.grant(this.#read + WINDOW, this.#readBytes + WINDOW_BYTES)
    this.#renewAt = this.#read + WINDOW / 2
    this.#renewBytesAt = this.#readBytes + WINDOW_BYTES / 2
  }

  // ------------------------------------------------------------ for the channel

  receive(event: string, message: Message, size: number): boolean {
    if (event === "start" && !this.#onLast) {
      this.#channel!.abort(new WsrpcError("the handler reads items: use upload() or open()", "ran"))
      return true
    }
    if (event === "run" && !this.#onLast) {
      const [, id, skipped] = message.a!
      if (typeof id === "string" && typeof skipped === "number") this.#run = [id, skipped]
      return true
    }
    if (event !== "next") return false
    const argument = message.a![1] as { value?: T; done?: unknown } | T[] | undefined
    if (Array.isArray(argument)) {
      // The message has several items. The first item counts for all bytes.
      argument.forEach((value, index) => this.#add({ value, size: index ? 0 : size, message }))
    } else if (argument?.done) {
      this.#finish()
      if (this.#onLast) this.#onLast(message)
      else {
        this.#channel!.answer(message)
        this.#channel!.end(FINISHED)
      }
    } else this.#add({ value: argument?.value as T, size, message })
    return true
  }

  #add(item: Unread<T>): void {
    if (this.#isOver) return this.#channel!.answer(item.message) // the producer waits for the answer before it stops
    this.#queue.push(item)
    this.#unreadBytes += item.size + OVERHEAD
    this.#notify()
    if (this.#unreadBytes > MAX_UNREAD + WINDOW_BYTES && this.#queue.length > 1) {
      this.#channel!.abort(new ChannelClosed("the stream was read too slowly", "ran"))
    }
  }

  channelEnded(error: Error | undefined): void {
    if (error instanceof Aborted) this.#queue.splice(0) // the caller wants no more items
    // At a good end of the channel without the end of the items, the handler holds a conversation, for example.
    this.#finish(error ?? new ChannelClosed("the handler ended the channel before the end of the items", "ran"))
  }

  #finish(error?: Error): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#error = error
    this.#notify()
  }

  #notify(): void {
    for (const wake of this.#waiting.splice(0)) wake()
  }
}
