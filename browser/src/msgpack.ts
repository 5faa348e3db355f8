// `msgpack`: a codec that sends bytes without base64.
// Source: https://github.com/msgpack/msgpack/blob/master/spec.md

import { json, type Codec, type Message } from "./codec.js"
import type { Data } from "./data.js"

const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
/** The deepest nesting of arrays and maps, as in wsrpc's other codecs. */
const MAX_DEPTH = 512
/** Integers from `SMALLEST` to below `TOO_LARGE` are sent as integers. Other integers have too many bits. */
const SMALLEST = -(2 ** 63)
const TOO_LARGE = 2 ** 64

/** Returns the bytes of an `ArrayBuffer` or a view of one. */
function bytesOf(value: unknown): Uint8Array | undefined {
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
  return value instanceof ArrayBuffer ? new Uint8Array(value) : undefined
}

/** Replaces bytes by base64. For Node's `Buffer`, `value` is the result of `toJSON`, so this reads the value itself. */
function withBase64(this: any, key: string, value: unknown): unknown {
  const bytes = bytesOf(this[key])
  if (!bytes) return value
  let text = ""
  for (const byte of bytes) text += String.fromCharCode(byte)
  return btoa(text)
}

/** Texts up to this length are encoded without garbage. */
const SHORT = 4096
const scratch = new Uint8Array(3 * SHORT)
/** A writer with more bytes is used only once. */
const LARGE = 64 * 1024
let spare: Writer | undefined

class Writer {
  #bytes = new Uint8Array(256)
  #view = new DataView(this.#bytes.buffer)
  #end = 0

  /** Adds room for some bytes, and returns their offset. */
  #reserve(size: number): number {
    const offset = this.#end
    this.#end += size
    if (this.#end > this.#bytes.length) {
      const bytes = new Uint8Array(Math.max(this.#end, 2 * this.#bytes.length))
      bytes.set(this.#bytes)
      this.#bytes = bytes
      this.#view = new DataView(bytes.buffer)
    }
    return offset
  }

  /** Returns the bytes of a value. */
  encode(value: unknown): ArrayBuffer {
    this.#end = 0
    this.write(value)
    return this.#bytes.buffer.slice(0, this.#end)
  }

  get isLarge(): boolean {
    return this.#bytes.length > LARGE
  }

  #byte(byte: number): void {
    const offset = this.#reserve(1) // which may replace the bytes
    this.#bytes[offset] = byte
  }

  /**
   * Writes the length of a string, an array, a map or bytes.
   *
   * @param fixed undefined if there is no form with the length in the code
   * @param short undefined if there is no form with the length in one byte
   */
  #length(length: number, fixed: [code: number, most: number] | undefined, short: number | undefined, code16: number) {
    if (fixed && length <= fixed[1]) this.#byte(fixed[0] | length)
    else if (short !== undefined && length < 0x100) {
      this.#byte(short)
      this.#byte(length)
    } else if (length < 0x10000) {
      this.#byte(code16)
      const offset = this.#reserve(2)
      this.#view.setUint16(offset, length)
    } else {
      this.#byte(code16 + 1)
      const offset = this.#reserve(4)
      this.#view.setUint32(offset, length)
    }
  }

  #text(text: string): void {
    const isShort = text.length <= SHORT
    const bytes = isShort ? scratch.subarray(0, encoder.encodeInto(text, scratch).written) : encoder.encode(text)
    this.#length(bytes.length, [0xa0, 31], 0xd9, 0xda)
    const offset = this.#reserve(bytes.length)
    this.#bytes.set(bytes, offset)
  }

  #number(value: number): void {
    if (!Number.isInteger(value) || value < SMALLEST || value >= TOO_LARGE || Object.is(value, -0)) {
      if (!Number.isFinite(value)) return this.#byte(0xc0) // null, as in JSON
      this.#byte(0xcb)
      const offset = this.#reserve(8)
      this.#view.setFloat64(offset, value)
    } else if (value >= -32 && value < 128) this.#byte(value & 0xff)
    else if (value >= -0x80000000 && value < 0x80000000) {
      this.#byte(0xd2)
      const offset = this.#reserve(4)
      this.#view.setInt32(offset, value)
    } else {
      this.#byte(value > 0 ? 0xcf : 0xd3)
      const offset = this.#reserve(8)
      this.#view[value > 0 ? "setBigUint64" : "setBigInt64"](offset, BigInt(value))
    }
  }

  write(value: any, depth = 0): void {
    if (depth > MAX_DEPTH) throw new TypeError(`a value is nested more than ${MAX_DEPTH} levels deep, or contains itself`)
    const bytes = bytesOf(value)
    if (bytes) {
      this.#length(bytes.length, undefined, 0xc4, 0xc5)
      const offset = this.#reserve(bytes.length)
      this.#bytes.set(bytes, offset)
      return
    }
    if (typeof value?.toJSON === "function") value = value.toJSON()
    if (value === null || value === undefined) this.#byte(0xc0)
    else if (typeof value === "string") this.#text(value)
    else if (typeof value === "number") this.#number(value)
    else if (typeof value === "boolean") this.#byte(value ? 0xc3 : 0xc2)
    else if (Array.isArray(value)) {
      this.#length(value.length, [0x90, 15], undefined, 0xdc)
      for (const item of value) this.write(item, depth + 1)
    } else if (typeof value === "object") {
      const entries = Object.entries(value).filter(([, field]) => field !== undefined && typeof field !== "function")
      this.#length(entries.length, [0x80, 15], undefined, 0xde)
      for (const [key, field] of entries) {
        this.#text(key)
        this.write(field, depth + 1)
      }
    } else throw new TypeError(`a ${typeof value} cannot be sent`)
  }
}

class Reader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  #position = 0
  /** The number of values that lists and maps have announced, and that were not read. Each has at least one byte. */
  #expected = 0

  constructor(data: ArrayBuffer) {
    this.#bytes = new Uint8Array(data)
    this.#view = new DataView(data)
  }

  get isAtEnd(): boolean {
    return this.#position === this.#bytes.length
  }

  /** Reads an unsigned integer of 1, 2 or 4 bytes. */
  #uint(size: number): number {
    const offset = this.#skip(size)
    if (size === 1) return this.#view.getUint8(offset)
    return size === 2 ? this.#view.getUint16(offset) : this.#view.getUint32(offset)
  }

  /** Skips some bytes, and returns their offset. */
  #skip(size: number): number {
    const offset = this.#position
    this.#position += size
    if (this.#position > this.#bytes.length) throw new RangeError("the message is too short")
    return offset
  }

  #next(size: number): Uint8Array {
    const offset = this.#skip(size)
    return this.#bytes.subarray(offset, this.#position)
  }

  #text(size: number): string {
    return decoder.decode(this.#next(size))
  }

  /** Refuses a list that announces more values than the message can have, before memory is reserved for the list. */
  #expect(values: number): void {
    this.#expected += values
    if (this.#expected > this.#bytes.length - this.#position) throw new RangeError("the message is too short")
  }

  #list(length: number, depth: number): unknown[] {
    this.#expect(length)
    return Array.from({ length }, () => this.#item(depth))
  }

  #map(length: number, depth: number): Record<string, unknown> {
    this.#expect(2 * length)
    const map: Record<string, unknown> = {}
    for (let number = 0; number < length; number++) {
      const key = String(this.#item(depth))
      const value = this.#item(depth)
      // An assignment would set the prototype.
      if (key === "__proto__") Object.defineProperty(map, key, { value, enumerable: true, writable: true, configurable: true })
      else map[key] = value
    }
    return map
  }

  #item(depth: number): unknown {
    this.#expected--
    return this.read(depth + 1)
  }

  read(depth = 0): unknown {
    if (depth > MAX_DEPTH) throw new RangeError("the message is nested too deep")
    const code = this.#uint(1)
    if (code < 0x80) return code
    if (code < 0x90) return this.#map(code & 15, depth)
    if (code < 0xa0) return this.#list(code & 15, depth)
    if (code < 0xc0) return this.#text(code & 31)
    if (code >= 0xe0) return code - 0x100
    switch (code) {
      case 0xc0:
        return null
      case 0xc2:
      case 0xc3:
        return code === 0xc3
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.#next(this.#uint(1 << (code - 0xc4))).slice()
      case 0xca:
        return this.#view.getFloat32(this.#skip(4))
      case 0xcb:
        return this.#view.getFloat64(this.#skip(8))
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.#uint(1 << (code - 0xcc))
      case 0xcf:
        return Number(this.#view.getBigUint64(this.#skip(8))) // rounded, as in JSON
      case 0xd0:
        return this.#view.getInt8(this.#skip(1))
      case 0xd1:
        return this.#view.getInt16(this.#skip(2))
      case 0xd2:
        return this.#view.getInt32(this.#skip(4))
      case 0xd3:
        return Number(this.#view.getBigInt64(this.#skip(8)))
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.#text(this.#uint(1 << (code - 0xd9)))
      case 0xdc:
      case 0xdd:
        return this.#list(this.#uint(2 << (code - 0xdc)), depth)
      case 0xde:
      case 0xdf:
        return this.#map(this.#uint(2 << (code - 0xde)), depth)
    }
    throw new RangeError(`MessagePack type ${code} is not used here`)
  }
}

/**
 * The option `codec` of a client that sends and receives bytes. It sends MessagePack, in which each `ArrayBuffer` and
 * each view of an `ArrayBuffer` are bytes. It sends JSON with base64 strings to servers without MessagePack, and in small
 * messages before the server has sent `welcome`. A parameter with the annotation `bytes` accepts both. Integers are numbers,
 * as in JSON: integers that a number cannot hold are rounded, and a `bigint` cannot be sent.
 */
export const msgpack: Codec = {
  feature: "msgpack",
  encode(message: Message, isKnown: boolean): Data {
    if (!isKnown) return JSON.stringify(message, withBase64)
    const writer = spare ?? new Writer()
    spare = undefined // a `toJSON` may send something, too
    const bytes = writer.encode(message)
    if (!writer.isLarge) spare = writer
    return bytes
  },
  decode(data: Data): Message | undefined {
    if (!(data instanceof ArrayBuffer)) return json.decode(data)
    const reader = new Reader(data)
    const message = reader.read()
    return reader.isAtEnd && typeof message === "object" && message !== null ? (message as Message) : undefined
  },
}
