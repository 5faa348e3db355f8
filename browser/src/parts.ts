// `Parts`: large messages in parts, which are counted and acknowledged like other messages. So each part shows that the
// connection is alive, and after a drop only the parts that have not arrived are sent again.

import { encoder, type Data } from "./data.js"
import type { Outgoing } from "./replay.js"

/** The first byte of a part. No message in MessagePack begins with it. */
const MARK = 0xc1
/** The second byte of a part: others follow, or it is the last part of a text, or of bytes. */
enum Kind { More, Text, Binary }
/** Bytes of a part before those of the message. */
const HEAD = 2
/**
 * Bytes of the largest part, and of the largest message that is sent whole: 0.8 seconds at 20 kB/s. When twice as long,
 * often none arrived before a connection dropped that had begun behind the full queue of the one before.
 */
const LARGEST = 16 * 1024

/** Cuts sent messages, and joins the parts that arrive in one session, on one connection after another. */
export class Parts {
  /** What has arrived of a message. */
  readonly #contents: Uint8Array[] = []

  /** Returns the parts of a message that is sent, or only the message if it is not large. */
  cut(message: Outgoing): Outgoing[] {
    const { data, sent, size } = message
    if (size <= LARGEST) return [message]
    const isText = typeof data === "string"
    const bytes = new Uint8Array(HEAD + size)
    bytes.set(isText ? encoder.encode(data) : new Uint8Array(data), HEAD)
    const parts: Outgoing[] = []
    for (let at = 0; at < size; at += LARGEST - HEAD) {
      const part = bytes.slice(at, at + LARGEST)
      part.set([MARK, at + LARGEST < bytes.length ? Kind.More : isText ? Kind.Text : Kind.Binary])
      parts.push({ data: part.buffer, sent, size: part.length })
    }
    return parts
  }

  /** Returns the message that is complete with this part, or undefined. Returns what is not a part as it is. */
  join(data: Data): Data | undefined {
    if (typeof data === "string") return data
    const part = new Uint8Array(data)
    if (part[0] !== MARK) return data
    this.#contents.push(part.subarray(HEAD))
    if (part[1] === Kind.More) return undefined
    const contents = this.#contents.splice(0)
    const joined = new Uint8Array(contents.reduce((at, { length }) => at + length, 0))
    contents.reduce((at, content) => (joined.set(content, at), at + content.length), 0)
    return part[1] === Kind.Text ? new TextDecoder().decode(joined) : joined.buffer
  }
}
