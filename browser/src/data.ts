// The data of a message on a connection, and its size.

export type Data = string | ArrayBuffer

/** Bytes of memory that a message or an item occupies besides its payload, approximately. */
export const OVERHEAD = 64

export const encoder = new TextEncoder()
/** Texts up to this length are counted without garbage, because garbage takes most of the time. */
const SHORT = 4096
const counted = new Uint8Array(3 * SHORT)

/** Returns the bytes of a message on a WebSocket. Half a surrogate pair is sent as U+FFFD, which has three bytes. */
export function sizeOf(data: Data): number {
  if (typeof data === "string") {
    return data.length > SHORT ? encoder.encode(data).length : encoder.encodeInto(data, counted).written
  }
  return data.byteLength
}
