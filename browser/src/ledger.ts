// The messages of a session, counted in the same way on both sides: those sent, which are kept until they have arrived,
// and the number of those received.

import type { Control } from "./control.js"
import { MESSAGE, type Data } from "./data.js"

/** A message that was sent, or waits to be. */
export interface Kept {
  readonly data: Data
  readonly size: number
  /** Whether it was passed to a connection, so that it may have arrived. */
  sent: boolean
}

/** So many messages or bytes are acknowledged at once. */
const ACK_MESSAGES = 256
const ACK_BYTES = 64 * 1024
/** Milliseconds after which any number is acknowledged. */
const ACK = 1_000

/** The messages that this side has sent in one session, of which it keeps those that may not have arrived. */
export class ReplayBuffer {
  #kept: Kept[] = []
  #arrived = 0
  #arrivedBytes = 0
  /** Bytes that are kept. */
  bytes = 0

  /** Bytes of memory that the kept messages take, about. */
  get memory(): number {
    return this.bytes + MESSAGE * this.#kept.length
  }

  keep(data: Data, size: number, sent: boolean): Kept {
    const kept = { data, size, sent }
    this.#kept.push(kept)
    this.bytes += size
    return kept
  }

  /** Takes a message back, which must not have been sent. */
  takeBack(kept: Kept): void {
    this.#kept.splice(this.#kept.lastIndexOf(kept), 1)
    this.bytes -= kept.size
  }

  /**
   * Drops the first `n` messages of the session, which have `bytes` bytes in all. Returns false if that cannot be: the
   * server may have said anything.
   */
  acknowledge(n: unknown, bytes: unknown): boolean {
    const arrived = this.#kept.slice(0, Math.max(0, Number(n) - this.#arrived))
    const size = arrived.reduce((sum, kept) => sum + kept.size, 0)
    const holds = n === this.#arrived + arrived.length && bytes === this.#arrivedBytes + size
    if (!holds || arrived.at(-1)?.sent === false) return false
    this.#kept.splice(0, arrived.length)
    this.#arrived += arrived.length
    this.#arrivedBytes += size
    this.bytes -= size
    return true
  }

  /** Sends everything that is kept. */
  sendAll(send: (data: Data) => void): void {
    for (const kept of this.#kept) {
      send(kept.data)
      kept.sent = true
    }
  }
}

/** Counts the messages that were received, and acknowledges them. */
export class Acknowledger {
  readonly #send: (ack: Control) => void
  #n = 0
  #bytes = 0
  #told = 0
  #toldBytes = 0
  #timer: ReturnType<typeof setTimeout> | undefined

  /** @param send sends an acknowledgement */
  constructor(send: (ack: Control) => void) {
    this.#send = send
  }

  /** Counts a message. It is acknowledged soon, and at once if much has come since the last acknowledgement. */
  count(size: number): void {
    this.#n++
    this.#bytes += size
    const isDue = this.#n - this.#told >= ACK_MESSAGES || this.#bytes - this.#toldBytes >= ACK_BYTES
    if (isDue) this.#acknowledge()
    else this.#timer ??= setTimeout(() => this.#acknowledge(), ACK)
  }

  #acknowledge(): void {
    this.stop()
    this.#send({ t: "ack", ...this.tell() })
  }

  /** Returns the counts, which the server is about to get. */
  tell(): { n: number; bytes: number } {
    this.#told = this.#n
    this.#toldBytes = this.#bytes
    return { n: this.#n, bytes: this.#bytes }
  }

  /** Sends no acknowledgement before the next message arrives. */
  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}
