// The messages of a session, counted in the same way on both sides: those sent, which are kept until they have arrived,
// and the number of those received.

export type Data = string | ArrayBuffer | Blob

/** A message that was sent, or waits to be. */
export interface Kept {
  readonly data: Data
  readonly size: number
  /** Whether it was passed to a connection, so that it may have arrived. */
  sent: boolean
}

const ACK_MESSAGES = 256
const ACK_BYTES = 64 * 1024
/** Bytes of memory that a message or an item takes besides its payload, about. */
export const MESSAGE = 64

const encoder = new TextEncoder()
/** Texts of this length are counted without garbage, which is most of what counting takes. */
const SHORT = 4096
const counted = new Uint8Array(3 * SHORT)

/** Bytes of a message in a WebSocket. Half a surrogate pair is sent as U+FFFD, which has three bytes. */
export function sizeOf(data: Data): number {
  if (typeof data === "string") {
    return data.length > SHORT ? encoder.encode(data).length : encoder.encodeInto(data, counted).written
  }
  return data instanceof Blob ? data.size : data.byteLength
}

/** The messages that this side has sent in one session, of which it keeps those that may not have arrived. */
export class Sent {
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

/** Counts what was received, and says when to acknowledge it. */
export class Received {
  n = 0
  bytes = 0
  #told = 0
  #toldBytes = 0

  /** Counts a message. Returns whether so much has come since the last acknowledgement that one is due now. */
  count(size: number): boolean {
    this.n++
    this.bytes += size
    return this.n - this.#told >= ACK_MESSAGES || this.bytes - this.#toldBytes >= ACK_BYTES
  }

  /** Returns the fields of an acknowledgement, which is about to be sent. */
  tell(): { n: number; bytes: number } {
    this.#told = this.n
    this.#toldBytes = this.bytes
    return { n: this.n, bytes: this.bytes }
  }
}
