// What a connection carries, and its size.

export type Data = string | ArrayBuffer | Blob

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
