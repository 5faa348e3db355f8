// src/codec.ts
function refuseBytes(value) {
  if (typeof value !== "object" || value === null) return;
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
    throw new TypeError("bytes need the codec of the entry point msgpack");
  }
  if (typeof value.toJSON === "function") return;
  if (Array.isArray(value)) value.forEach(refuseBytes);
  else for (const key in value) refuseBytes(value[key]);
}
var json = {
  encode(message) {
    const text = JSON.stringify(message);
    refuseBytes(message);
    return text;
  },
  decode(data) {
    if (typeof data !== "string" || !data.startsWith("{")) return void 0;
    const message = JSON.parse(data);
    return message["ws-wrapper"] === false ? void 0 : message;
  }
};

// src/msgpack.ts
var encoder = new TextEncoder();
var decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
var MAX_DEPTH = 512;
var SMALLEST = -(2 ** 63);
var TOO_LARGE = 2 ** 64;
function bytesOf(value) {
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  return value instanceof ArrayBuffer ? new Uint8Array(value) : void 0;
}
function withBase64(key, value) {
  const bytes = bytesOf(this[key]);
  if (!bytes) return value;
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}
var SHORT = 4096;
var scratch = new Uint8Array(3 * SHORT);
var LARGE = 64 * 1024;
var spare;
var Writer = class {
  #bytes = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  #end = 0;
  /** Adds room for some bytes, and returns their offset. */
  #reserve(size) {
    const offset = this.#end;
    this.#end += size;
    if (this.#end > this.#bytes.length) {
      const bytes = new Uint8Array(Math.max(this.#end, 2 * this.#bytes.length));
      bytes.set(this.#bytes);
      this.#bytes = bytes;
      this.#view = new DataView(bytes.buffer);
    }
    return offset;
  }
  /** Returns the bytes of a value. */
  encode(value) {
    this.#end = 0;
    this.write(value);
    return this.#bytes.buffer.slice(0, this.#end);
  }
  get isLarge() {
    return this.#bytes.length > LARGE;
  }
  #byte(byte) {
    const offset = this.#reserve(1);
    this.#bytes[offset] = byte;
  }
  /**
   * Writes the length of a string, an array, a map or bytes.
   *
   * @param fixed undefined if there is no form with the length in the code
   * @param short undefined if there is no form with the length in one byte
   */
  #length(length, fixed, short, code16) {
    if (fixed && length <= fixed[1]) this.#byte(fixed[0] | length);
    else if (short !== void 0 && length < 256) {
      this.#byte(short);
      this.#byte(length);
    } else if (length < 65536) {
      this.#byte(code16);
      const offset = this.#reserve(2);
      this.#view.setUint16(offset, length);
    } else {
      this.#byte(code16 + 1);
      const offset = this.#reserve(4);
      this.#view.setUint32(offset, length);
    }
  }
  #text(text) {
    const isShort = text.length <= SHORT;
    const bytes = isShort ? scratch.subarray(0, encoder.encodeInto(text, scratch).written) : encoder.encode(text);
    this.#length(bytes.length, [160, 31], 217, 218);
    const offset = this.#reserve(bytes.length);
    this.#bytes.set(bytes, offset);
  }
  #number(value) {
    if (!Number.isInteger(value) || value < SMALLEST || value >= TOO_LARGE || Object.is(value, -0)) {
      if (!Number.isFinite(value)) return this.#byte(192);
      this.#byte(203);
      const offset = this.#reserve(8);
      this.#view.setFloat64(offset, value);
    } else if (value >= -32 && value < 128) this.#byte(value & 255);
    else if (value >= -2147483648 && value < 2147483648) {
      this.#byte(210);
      const offset = this.#reserve(4);
      this.#view.setInt32(offset, value);
    } else {
      this.#byte(value > 0 ? 207 : 211);
      const offset = this.#reserve(8);
      this.#view[value > 0 ? "setBigUint64" : "setBigInt64"](offset, BigInt(value));
    }
  }
  write(value, depth = 0) {
    if (depth > MAX_DEPTH) throw new TypeError(`a value is nested more than ${MAX_DEPTH} levels deep, or contains itself`);
    const bytes = bytesOf(value);
    if (bytes) {
      this.#length(bytes.length, void 0, 196, 197);
      const offset = this.#reserve(bytes.length);
      this.#bytes.set(bytes, offset);
      return;
    }
    if (typeof value?.toJSON === "function") value = value.toJSON();
    if (value === null || value === void 0) this.#byte(192);
    else if (typeof value === "string") this.#text(value);
    else if (typeof value === "number") this.#number(value);
    else if (typeof value === "boolean") this.#byte(value ? 195 : 194);
    else if (Array.isArray(value)) {
      this.#length(value.length, [144, 15], void 0, 220);
      for (const item of value) this.write(item, depth + 1);
    } else if (typeof value === "object") {
      const entries = Object.entries(value).filter(([, field]) => field !== void 0 && typeof field !== "function");
      this.#length(entries.length, [128, 15], void 0, 222);
      for (const [key, field] of entries) {
        this.#text(key);
        this.write(field, depth + 1);
      }
    } else throw new TypeError(`a ${typeof value} cannot be sent`);
  }
};
var Reader = class {
  #bytes;
  #view;
  #position = 0;
  /** The number of values that lists and maps have announced, and that were not read. Each has at least one byte. */
  #expected = 0;
  constructor(data) {
    this.#bytes = new Uint8Array(data);
    this.#view = new DataView(data);
  }
  get isAtEnd() {
    return this.#position === this.#bytes.length;
  }
  /** Reads an unsigned integer of 1, 2 or 4 bytes. */
  #uint(size) {
    const offset = this.#skip(size);
    if (size === 1) return this.#view.getUint8(offset);
    return size === 2 ? this.#view.getUint16(offset) : this.#view.getUint32(offset);
  }
  /** Skips some bytes, and returns their offset. */
  #skip(size) {
    const offset = this.#position;
    this.#position += size;
    if (this.#position > this.#bytes.length) throw new RangeError("the message is too short");
    return offset;
  }
  #next(size) {
    const offset = this.#skip(size);
    return this.#bytes.subarray(offset, this.#position);
  }
  #text(size) {
    return decoder.decode(this.#next(size));
  }
  /** Refuses a list that announces more values than the message can have, before memory is reserved for the list. */
  #expect(values) {
    this.#expected += values;
    if (this.#expected > this.#bytes.length - this.#position) throw new RangeError("the message is too short");
  }
  #list(length, depth) {
    this.#expect(length);
    return Array.from({ length }, () => this.#item(depth));
  }
  #map(length, depth) {
    this.#expect(2 * length);
    const map = {};
    for (let number = 0; number < length; number++) {
      const key = String(this.#item(depth));
      const value = this.#item(depth);
      if (key === "__proto__") Object.defineProperty(map, key, { value, enumerable: true, writable: true, configurable: true });
      else map[key] = value;
    }
    return map;
  }
  #item(depth) {
    this.#expected--;
    return this.read(depth + 1);
  }
  read(depth = 0) {
    if (depth > MAX_DEPTH) throw new RangeError("the message is nested too deep");
    const code = this.#uint(1);
    if (code < 128) return code;
    if (code < 144) return this.#map(code & 15, depth);
    if (code < 160) return this.#list(code & 15, depth);
    if (code < 192) return this.#text(code & 31);
    if (code >= 224) return code - 256;
    switch (code) {
      case 192:
        return null;
      case 194:
      case 195:
        return code === 195;
      case 196:
      case 197:
      case 198:
        return this.#next(this.#uint(1 << code - 196)).slice();
      case 202:
        return this.#view.getFloat32(this.#skip(4));
      case 203:
        return this.#view.getFloat64(this.#skip(8));
      case 204:
      case 205:
      case 206:
        return this.#uint(1 << code - 204);
      case 207:
        return Number(this.#view.getBigUint64(this.#skip(8)));
      // rounded, as in JSON
      case 208:
        return this.#view.getInt8(this.#skip(1));
      case 209:
        return this.#view.getInt16(this.#skip(2));
      case 210:
        return this.#view.getInt32(this.#skip(4));
      case 211:
        return Number(this.#view.getBigInt64(this.#skip(8)));
      case 217:
      case 218:
      case 219:
        return this.#text(this.#uint(1 << code - 217));
      case 220:
      case 221:
        return this.#list(this.#uint(2 << code - 220), depth);
      case 222:
      case 223:
        return this.#map(this.#uint(2 << code - 222), depth);
    }
    throw new RangeError(`MessagePack type ${code} is not used here`);
  }
};
var msgpack = {
  feature: "msgpack",
  encode(message, isKnown) {
    if (!isKnown) return JSON.stringify(message, withBase64);
    const writer = spare ?? new Writer();
    spare = void 0;
    const bytes = writer.encode(message);
    if (!writer.isLarge) spare = writer;
    return bytes;
  },
  decode(data) {
    if (!(data instanceof ArrayBuffer)) return json.decode(data);
    const reader = new Reader(data);
    const message = reader.read();
    return reader.isAtEnd && typeof message === "object" && message !== null ? message : void 0;
  }
};
export {
  msgpack
};
