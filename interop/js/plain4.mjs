// A small peer over `ws` that says what ws-wrapper 4.x says, for machines where that library is not to be had.
// Written from its documented messages (PROTOCOL.md); where those leave something open, it does what 4.3.1 was seen
// to do, its mistakes included, which the comments name. It has as much of the library's face as the agent uses.

import { Call, Channel, RequestAbortedError, RequestTimeoutError } from "./plain4-channel.mjs"

export { iterableHandler } from "./plain4-channel.mjs"

export const VERSION = "4.3.1" // whom it plays

const RESERVED = new Set(["open", "connect", "message", "error", "close", "disconnect"])
const OPEN = 1
const MAX_QUEUE = 10

/** One connection: its sockets, one after the other, and the tables by which messages find their place. */
export default class Connection extends Channel {
  #socket = null
  #queue = []
  #lastId = 0
  #data = new Map()
  #errorToJSON
  named = new Map()
  anonymous = new Map() // one table for the channels of both sides, as in 4.x: ids that meet would be confused
  pending = new Map()
  active = new Map()

  constructor(socket, { errorToJSON } = {}) {
    super(null, {})
    this.#errorToJSON = errorToJSON ?? (({ message }) => JSON.stringify({ message }))
    if (socket) this.bind(socket)
  }

  // ---------------------------------------------------------------- the library's face

  bind(socket) {
    if (this.#socket) this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null
    this.#socket = socket
    socket.onopen = () => {
      for (const text of this.#queue.splice(0)) socket.send(text)
      this.fire("open")
    }
    socket.onmessage = (event) => {
      this.fire("message", event, event.data)
      this.#receive(event.data)
    }
    socket.onclose = (event) => this.fire("close", event)
    socket.onerror = (event) => this.fire("error", event)
    if (this.isConnected) socket.onopen()
    return this
  }

  get socket() {
    return this.#socket
  }

  get isConnected() {
    return this.#socket?.readyState === OPEN
  }

  get pendingRequestCount() {
    return this.pending.size
  }

  get activeRequestCount() {
    return this.active.size
  }

  of(name) {
    if (name === null) return this
    if (!this.named.has(name)) this.named.set(name, new Channel(this, { c: name }))
    return this.named.get(name)
  }

  get(key) {
    return this.#data.get(key)
  }

  set(key, value) {
    this.#data.set(key, value)
  }

  disconnect(...args) {
    this.#socket?.close(...args)
  }

  /** Rejects what is pending, and tells nobody. */
  abort(error = new RequestAbortedError()) {
    for (const i of [...this.pending.keys()]) this.#settle(i).reject(error)
    this.#queue = []
  }

  // ---------------------------------------------------------------- what is sent

  send(text, isAnswer = false) {
    if (this.isConnected) this.#socket.send(text)
    else if (isAnswer || this.#queue.length < MAX_QUEUE) this.#queue.push(text)
    else throw new Error("WebSocket is not connected and send queue is full")
  }

  post(message) {
    this.send(JSON.stringify(message))
  }

  /** Sends a request and returns the promise of its answer. */
  ask(message, { timeout, signal }) {
    const i = ++this.#lastId
    return new Promise((resolve, reject) => {
      const giveUp = (error, reason) => {
        this.#settle(i)
        this.answer({ i, ...this.thrown("x", reason ?? new RequestAbortedError()) })
        reject(error)
      }
      const aborted = () => giveUp(new RequestAbortedError(), signal.reason)
      const timer = timeout > 0 ? setTimeout(() => giveUp(new RequestTimeoutError()), timeout) : undefined
      signal?.addEventListener("abort", aborted)
      const release = () => {
        clearTimeout(timer)
        signal?.removeEventListener("abort", aborted)
      }
      this.pending.set(i, { resolve, reject, release, signal })
      this.post({ i, ...message })
    })
  }

  /** `x` or `e` of a message: an error is flagged, anything else travels as it is. */
  thrown(key, value) {
    const error = value ?? new Error("Error")
    return error instanceof Error ? { [key]: JSON.parse(this.#errorToJSON(error)), _: 1 } : { [key]: error }
  }

  answer(message) {
    this.send(JSON.stringify(message), true)
  }

  // ---------------------------------------------------------------- what arrives

  #receive(text) {
    let message
    try {
      message = JSON.parse(text)
    } catch {
      return
    }
    if (message === null || typeof message !== "object" || message["ws-wrapper"] === false) return
    // What is no number is no id, and `h` is whatever number can be made of it.
    const i = typeof message.i === "number" ? message.i : -1
    const h = message.h == null ? null : Number(message.h)
    const { a, c, x } = message
    if (Array.isArray(a) && a.length > 0 && (c || h || !RESERVED.has(a[0]))) this.#called(i, c, h, a)
    else if (x !== undefined && h === null && this.active.has(i)) {
      const canceller = this.active.get(i)
      this.active.delete(i)
      canceller.abort(rebuilt(x, message._))
    } else if (x !== undefined && h !== null) this.anonymous.get(h)?.close(rebuilt(x, message._))
    // By mistake, a cancellation that comes too late gets here, too, if one of our own requests has that id; and so
    // does a request for a reserved name.
    else if (this.pending.has(i)) this.#answered(i, h, message)
  }

  #called(i, c, h, a) {
    const channel = h !== null ? this.anonymous.get(h) : c != null ? this.named.get(c) : this
    if (channel) return new Call(this, channel, i).run(a)
    const what = h !== null ? `Anonymous channel '${h}'` : `Channel '${c}'`
    const error = new Error(`${what} does not exist`)
    if (h !== null) this.answer({ h, ...this.thrown("x", error) })
    if (i > 0) this.answer({ i, ...this.thrown("e", error) })
  }

  #answered(i, h, { d, e, _ }) {
    const { resolve, reject, signal } = this.#settle(i)
    if (e !== undefined) return reject(rebuilt(e, _))
    if (h === null) return resolve(d)
    const channel = new Channel(this, { h: i })
    this.anonymous.set(i, channel)
    // Who gave the request a signal aborts its channel by that.
    const abort = () => channel.abort(signal.reason)
    signal?.addEventListener("abort", abort, { signal: channel.closeSignal })
    resolve(channel)
  }

  #settle(i) {
    const request = this.pending.get(i)
    this.pending.delete(i)
    request.release()
    return request
  }
}

/** An error, if the flag says so; by mistake also of what is no object, which loses its text. */
function rebuilt(value, flag) {
  return flag && value ? Object.assign(new Error(value.message), value) : value
}
