// `ReplayBuffer`: the messages that this side has sent in a session. `Acknowledger`: counts the messages that have
// arrived. Both sides count the same messages.

import type { Control } from "./control.js"
import { OVERHEAD, type Data } from "./data.js"

/** A message that was sent, or waits to be sent. */
export interface Outgoing {
  readonly data: Data
  readonly size: number
  /** Whether a connection has got the message, so that it may have arrived. */
  sent: boolean
}

/** An acknowledgement is sent at once after so many messages or bytes. */
const ACK_MESSAGES = 256
const ACK_BYTES = 64 * 1024
/** Milliseconds after which any number of messages is acknowledged. */
const ACK_DELAY = 1_000

/** The messages that this side has sent in one session, and that the server has not acknowledged. */
export class ReplayBuffer {
  #messages: Outgoing[] = []
  /** The number of acknowledged messages, and their bytes. */
  #arrived = 0
  #arrivedBytes = 0
  /** Bytes of the messages in the buffer. */
  #bytes = 0
  /** Cuts large messages. Undefined unless both sides have the feature `parts`. */
  declare parts: { cut(message: Outgoing): Outgoing[] } | undefined

  /** Bytes of memory that the messages occupy, approximately. */
  get memory(): number {
    return this.#bytes + OVERHEAD * this.#messages.length
  }

  /** Adds a message. If it is sent now, it may be cut. Returns what is to be sent. */
  add(message: Outgoing): readonly Outgoing[] {
    const parts = (message.sent && this.parts?.cut(message)) || [message]
    this.#messages.push(...parts)
    for (const { size } of parts) this.#bytes += size
    return parts
  }

  /** Removes a message. Returns false if a connection has got it already. */
  drop(message: Outgoing): boolean {
    if (message.sent) return false
    this.#messages.splice(this.#messages.lastIndexOf(message), 1)
    this.#bytes -= message.size
    return true
  }

  /**
   * Removes the acknowledged messages.
   *
   * @param n the number of messages that have arrived in the session, or NaN
   * @param bytes their bytes, or NaN
   * @returns false if the server cannot have received these messages
   */
  acknowledge(n: number, bytes: number): boolean {
    const arrived = this.#messages.slice(0, Math.max(0, n - this.#arrived))
    const size = arrived.reduce((sum, message) => sum + message.size, 0)
    const isPossible = n === this.#arrived + arrived.length && bytes === this.#arrivedBytes + size
    if (!isPossible || arrived.at(-1)?.sent === false) return false
    this.#messages.splice(0, arrived.length)
    this.#arrived += arrived.length
    this.#arrivedBytes += size
    this.#bytes -= size
    return true
  }

  /** Sends all messages in the buffer. Those that have not arrived can be cut although they were sent. */
  sendAll(send: (data: Data) => void): void {
    this.#bytes = 0
    for (const message of this.#messages.splice(0)) {
      message.sent = true
      for (const { data } of this.add(message)) send(data)
    }
  }
}

/** Counts the messages that have arrived in one session, and acknowledges them. */
export class Acknowledger {
  readonly #send: (ack: Control) => void
  #n = 0
  #bytes = 0
  /** The counts that the server knows. */
  #acknowledged = 0
  #acknowledgedBytes = 0
  #timer: ReturnType<typeof setTimeout> | undefined

  /** @param send sends an acknowledgement */
  constructor(send: (ack: Control) => void) {
    this.#send = send
  }

  /** Counts a message. It is acknowledged soon, or at once if many messages or bytes are not acknowledged. */
  count(size: number): void {
    this.#n++
    this.#bytes += size
    const isDue = this.#n - this.#acknowledged >= ACK_MESSAGES || this.#bytes - this.#acknowledgedBytes >= ACK_BYTES
    if (isDue) this.#sendAck()
    else this.#timer ??= setTimeout(() => this.#sendAck(), ACK_DELAY)
  }

  #sendAck(): void {
    this.stop()
    this.#send({ t: "ack", ...this.acknowledge() })
  }

  /** Returns the counts for the server, and records that the server knows them. */
  acknowledge(): { n: number; bytes: number } {
    this.#acknowledged = this.#n
    this.#acknowledgedBytes = this.#bytes
    return { n: this.#n, bytes: this.#bytes }
  }

  /** Sends no acknowledgement before the next message has arrived. */
  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}
