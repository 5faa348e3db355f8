// `Codec`: how messages are encoded. `json`: the default codec.

import type { CallContext } from "./call_context.js"
import type { Data } from "./data.js"

/** A message of ws-wrapper's protocol, in either direction. */
export interface Message {
  /** The name of an event or a request, and its arguments. */
  a?: unknown[]
  /** What goes with an event or a request besides its arguments. */
  ctx?: CallContext | undefined
  /** The named channel. */
  c?: string
  /** The anonymous channel. In a response, 1 opens the channel that has the id of the request. */
  h?: number
  /** The id of a request, a response or a cancellation. */
  i?: number
  /** The result. */
  d?: unknown
  /** The error of a rejection. */
  e?: unknown
  /** The reason of a cancellation or an abort. */
  x?: unknown
  /** Whether `e` or `x` is an error object. */
  _?: number | boolean
}

/** How messages are encoded. */
export interface Codec {
  /** The feature that the server must announce before this codec is used. None for JSON. */
  readonly feature?: string
  /**
   * @param isKnown whether the server has announced the feature
   * @throws TypeError if an argument or a result cannot be encoded
   */
  encode(message: Message, isKnown: boolean): Data
  /** @throws if the data is not a message of this codec */
  decode(data: Data): Message | undefined
}

/**
 * Refuses bytes, which would silently become an object of numbers. This takes half the time of a function that
 * `JSON.stringify` calls for each value.
 */
function refuseBytes(value: any): void {
  if (typeof value !== "object" || value === null) return
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
    throw new TypeError("bytes need the codec of the entry point msgpack")
  }
  if (typeof value.toJSON === "function") return
  if (Array.isArray(value)) value.forEach(refuseBytes)
  else for (const key in value) refuseBytes(value[key])
}

/** Sends JSON. */
export const json: Codec = {
  encode(message) {
    const text = JSON.stringify(message) // refuses a value that contains itself
    refuseBytes(message)
    return text
  },
  decode(data) {
    if (typeof data !== "string" || !data.startsWith("{")) return undefined
    const message: Message & { "ws-wrapper"?: unknown } = JSON.parse(data)
    return message["ws-wrapper"] === false ? undefined : message
  },
}
