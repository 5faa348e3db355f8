// `ChannelCore`: an anonymous channel.

import type { Channel } from "./api.js"
import type { Message } from "./codec.js"
import { OVERHEAD } from "./data.js"
import { Aborted, ChannelClosed, textOf } from "./errors.js"
import { Handlers, type Handler } from "./handlers.js"
import type { Outgoing } from "./replay.js"
import { Request, type RequestOptions } from "./request.js"

/** The reason with which a channel ends in good order. */
export const FINISHED = { message: "closed", code: "wsrpc.closed" }
/** The most bytes of early messages: those that arrive on a channel before anything listens. */
const MAX_EARLY = 1024 * 1024

/** A reader or a producer, which gets the messages of a channel before its handlers do. */
export interface Recipient {
  /** Returns whether the recipient has handled the message. If not, a handler gets the message. */
  receive(event: string, message: Message, size: number): boolean
  /** The server has granted credit, in totals. */
  credited?(items: number, bytes: number): void
  /** The channel has ended. The error is undefined if it ended in good order. */
  channelEnded(error: Error | undefined): void
}

/** What a channel needs of its peer. */
export interface ChannelOwner {
  /** Whether the server sends items only within its credit. */
  readonly hasCredit: boolean
  /** Grants the server credit for a channel, in totals. */
  grant(h: number, items: number, bytes: number): void
  send(message: Message): Outgoing
  request(request: Request): Promise<any>
  /** Sends the reason why a channel has ended. */
  sendReason(message: Message, key: "x", reason: unknown): void
  /** Runs the handlers of an event, or the handler of a request. */
  run(handlers: Handlers, message: Message): void
  /** Removes a channel that has ended, and ends the requests on the channel. */
  channelEnded(channel: ChannelCore, error: Error): void
}

/** An anonymous channel, for a conversation or for one stream. It ends with its session. */
export class ChannelCore implements Channel {
  declare readonly id: number
  declare readonly closed: Promise<Error | undefined>
  readonly #owner: ChannelOwner
  readonly #handlers = new Handlers()
  /** The messages that arrived before anything listened, with their sizes. Undefined once something listens. */
  #early: [Message, number][] | undefined = []
  #earlyBytes = 0
  #credit: [items: number, bytes: number] | undefined
  #recipient: Recipient | undefined
  #ended: { error: Error | undefined } | undefined
  #resolve!: (error: Error | undefined) => void
  readonly #signal: AbortSignal | undefined
  readonly #onAbort = () => {
    const reason: unknown = this.#signal!.reason
    this.abort(reason, new Aborted("unknown", reason))
  }

  /** @param signal aborts the channel */
  constructor(id: number, owner: ChannelOwner, signal?: AbortSignal) {
    this.id = id
    this.#owner = owner
    this.closed = new Promise((resolve) => (this.#resolve = resolve))
    this.#signal = signal
    signal?.addEventListener("abort", this.#onAbort)
  }

  get isOpen(): boolean {
    return !this.#ended
  }

  // ------------------------------------------------------------ for users

  on(event: string, handler: Handler): () => void {
    queueMicrotask(() => this.#deliverEarly())
    return this.#handlers.add(event, handler)
  }

  /** Sends an event, and returns its message. */
  emit(event: string, ...args: unknown[]): Outgoing {
    this.#check()
    return this.#owner.send({ h: this.id, a: [event, ...args] })
  }

  request(event: string, ...args: unknown[]): Promise<any> {
    return this.with({}).request(event, ...args)
  }

  with(options: RequestOptions): Pick<Channel, "request"> {
    return {
      request: async (event, ...args) => {
        this.#check()
        return this.#owner.request(new Request({ h: this.id }, event, args, options))
      },
    }
  }

  close(): void {
    this.abort(FINISHED)
  }

  /** @param error the reason on this side. Default: the reason for the server */
  abort(reason?: unknown, error: unknown = reason): void {
    if (this.#ended) return
    this.#owner.sendReason({ h: this.id }, "x", reason)
    this.end(error)
  }

  // ------------------------------------------------------------ for readers, producers and handlers

  /** Answers a message that arrived on the channel, if the message is a request. */
  answer(message: Message, result: Message = {}): void {
    if (message.i !== undefined && !this.#ended) this.#owner.send({ i: message.i, ...result })
  }

  /** Whether the server sends items only within its credit. */
  get hasCredit(): boolean {
    return this.#owner.hasCredit
  }

  /** Grants the server credit, in totals. */
  grant(items: number, bytes: number): void {
    this.#owner.grant(this.id, items, bytes)
  }

  /** Sets the reader or the producer that gets the messages of the channel. */
  setRecipient(recipient: Recipient): void {
    this.#recipient = recipient
    if (this.#credit) recipient.credited?.(...this.#credit)
    this.#deliverEarly()
    if (this.#ended) recipient.channelEnded(this.#ended.error)
  }

  #check(): void {
    if (!this.#ended) return
    const error = new ChannelClosed("the channel has ended", "not_sent")
    error.cause = this.#ended.error
    throw error
  }

  #deliverEarly(): void {
    const early = this.#early ?? []
    this.#early = undefined
    for (const [message, size] of early) this.receive(message, size)
  }

  // ------------------------------------------------------------ for the peer

  receive(message: Message, size: number): void {
    if (this.#early) {
      this.#early.push([message, size])
      this.#earlyBytes += size + OVERHEAD
      if (this.#earlyBytes > MAX_EARLY) {
        this.#early = undefined
        this.abort(new ChannelClosed("nothing reads the channel", "ran"))
      }
    } else if (!this.#recipient?.receive(String(message.a![0]), message, size)) {
      this.#owner.run(this.#handlers, message)
    }
  }

  credited(items: number, bytes: number): void {
    if (Number.isNaN(items + bytes)) return // the counts are not valid
    this.#credit = [items, bytes]
    this.#recipient?.credited?.(items, bytes)
  }

  /** Ends the channel on this side only: the server knows already that the channel has ended. */
  end(reason: unknown): void {
    if (this.#ended) return
    const { code, data, message } = (reason ?? {}) as { code?: string; data?: unknown; message?: string }
    const closed = new ChannelClosed(textOf(message ?? reason ?? "the channel has ended"), "unknown", code, data)
    closed.cause = reason
    this.#ended = { error: code === FINISHED.code ? undefined : reason instanceof Error ? reason : closed }
    this.#signal?.removeEventListener("abort", this.#onAbort)
    this.#owner.channelEnded(this, closed)
    this.#recipient?.channelEnded(this.#ended.error)
    this.#resolve(this.#ended.error)
  }
}
