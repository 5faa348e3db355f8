// `HttpSocket`: a connection that HTTP requests carry, in place of a WebSocket. It is a module of its own, which the
// client loads when a WebSocket cannot be opened. The frames are those of `wsrpc/_http/http_transport.py`.

import type { Network } from "./dialing.js"
import type { Address, Target, WebSocketLike } from "./target.js"

/** The kinds of frames. */
const [TEXT, BINARY, CLOSE, PING, PONG, OPENED] = [0, 1, 2, 3, 4, 5]
/** Bit of the kind: the message continues in the next frame. */
const MORE = 0x80
/** The most bytes of the payload of a frame. */
const PIECE = 32 * 1024
/** About the most bytes of the body of a request. The first has `PIECE`; they double while bodies go through quickly. */
const MAX_BODY = 256 * 1024
/** Milliseconds within which a body has gone through quickly. */
const QUICK = 1_000
/** Milliseconds without bytes of a response that goes on, after which one that ends is asked for, too. */
const HELD_BACK = 1_500
/**
 * Milliseconds without an answer to a request, after which the browser may have no connection for it: there are six to a
 * host, and the response of each tab takes one. The opening took as long on a slow network.
 */
const CROWDED = 1_500
/** Milliseconds between a large body and the next one, at most. What the server grants for it comes just after it. */
const PAUSE = 50
/** Bytes of a body that leave in a millisecond on a slow network. */
const SLOWEST = 8
/** Milliseconds that the server has to confirm the end of the connection. */
const CLOSE_TIMEOUT = 10_000
/** Milliseconds in which the server may answer the last request, which confirms its end of the connection. */
const LAST = 1_000
/** Milliseconds after which an attempt with a WebSocket has failed. */
const ATTEMPT_TIMEOUT = 10_000
/** The longest of these times, and the milliseconds for which responses that end are used at once. */
const REMEMBERED = 600_000

/** The status of the response to a request that must be sent again. */
const NO_ROOM = 425

/** The close codes for the statuses with which the server itself refuses. Others are as without an answer. */
const REFUSED: Record<number, number> = { 401: 3000, 403: 3003, 429: 1013 }

/** Milliseconds for which HTTP is tried first where a WebSocket has failed. They double with each failure. */
let blocked = 60_000

/** Until when responses that end are used at once, by the address. */
const heldBack = new Map<string, number>()
/** Until when responses end soon, because other tabs need the browser's connections. */
let crowdedUntil = 0

const HINT = "wsrpc.resume"
const PROBE = '{"ws-wrapper":false,"wsrpc":{"t":"probe"}}'
const decoder = new TextDecoder()

function frame(kind: number, payload: Uint8Array): Uint8Array[] {
  const head = new DataView(new ArrayBuffer(5))
  head.setUint8(0, kind)
  head.setUint32(1, payload.length)
  return [new Uint8Array(head.buffer), payload]
}

function joined(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(parts.reduce((size, part) => size + part.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

/** Has the interface of a WebSocket: of its URL, of `bearer.` and of `wsrpc.resume` among the subprotocols, too. */
export class HttpSocket implements WebSocketLike {
  readyState = 0
  bufferedAmount = 0
  binaryType = ""
  onopen: WebSocketLike["onopen"] = null
  onmessage: WebSocketLike["onmessage"] = null
  onerror: WebSocketLike["onerror"] = null
  onclose: WebSocketLike["onclose"] = null
  /** Gets a WebSocket that works, and takes the place of this connection. Without it, none is tried. */
  onreplace: ((connection: WebSocketLike) => void) | null = null
  readonly #url: string
  readonly #target: Target
  readonly #network: Network
  readonly #headers: Record<string, string> = {}
  readonly #ending = new AbortController()
  readonly #startedAt = Date.now()
  /** Milliseconds until the connection was open. */
  #openedAfter = 0
  /** Ends the response that takes what the server sends, so that another request gets its connection. */
  #present: AbortController | undefined
  #id = ""
  /** The number of requests that may open the connection. */
  #opening = 0
  #number = 0
  /** Bytes that have arrived. */
  #received = 0
  /** The frames that no request carries yet. */
  #waiting: Uint8Array[] = []
  #posting: Promise<void> | undefined
  /** The part of a frame that has arrived. */
  #rest = new Uint8Array()
  /** The part of a message that has arrived. */
  #pieces: Uint8Array[] = []
  /** About the most bytes of the next body. */
  #most = PIECE

  constructor(url: string, protocols: string[], target: Target, network: Network) {
    this.#url = url.replace(/^ws/, "http")
    this.#target = target
    this.#network = network
    for (const name of protocols) {
      if (name.startsWith("bearer.")) this.#headers.authorization = "Bearer " + name.slice(7)
      if (name === HINT) this.#headers["wsrpc-resume"] = "1"
    }
    const stream = new AbortController()
    const poll = new AbortController()
    const startPolling = () => this.readyState || this.#open("poll", poll, stream)
    if (Math.max(heldBack.get(this.#url) ?? 0, crowdedUntil) > Date.now()) {
      stream.abort()
      startPolling()
    } else {
      this.#open("stream", stream, poll)
      setTimeout(startPolling, HELD_BACK)
    }
  }

  // ------------------------------------------------------------ what the server sends

  /** Opens the connection, and receives until its end, unless bytes of the rival arrive first. */
  async #open(mode: string, mine: AbortController, rival: AbortController): Promise<void> {
    let present = new AbortController()
    let code = 1006
    let refusal = ""
    this.#opening++
    const receive = async (headers: object) => {
      const signal = AbortSignal.any([mine.signal, present.signal, this.#ending.signal])
      const priority = this.#id ? "low" : "auto" // requests that carry something come first
      const response = await this.#fetch({ headers: { ...this.#headers, ...headers }, signal, priority })
      if (!response.ok) {
        const text = `HTTP ${response.status}`
        if (response.headers.has("wsrpc-refused")) {
          code = REFUSED[response.status] ?? code
          refusal = `${text} ${await response.text()}`.trim()
        }
        throw new Error(text)
      }
      const reader = response.body!.getReader()
      for (let data; (data = (await reader.read()).value); ) {
        signal.throwIfAborted()
        if (mode === "poll" && !rival.signal.aborted) heldBack.set(this.#url, Date.now() + REMEMBERED)
        rival.abort()
        this.#present = present
        this.#received += data.length
        this.#feed(data)
      }
    }
    let why: unknown = "the response has ended"
    let headers: object = { "wsrpc-transport": mode }
    try {
      do {
        await receive(headers).catch((error) => {
          if (!present.signal.aborted) throw error
          mode = "poll" // the response was given up
        })
        this.#present = present = new AbortController()
        const how = crowdedUntil > Date.now() ? "short" : "poll"
        headers = { "wsrpc-transport": how, "wsrpc-connection": this.#id, "wsrpc-number": String(this.#received) }
      } while (mode === "poll")
    } catch (error) {
      why = error
    }
    // The rival may still open, for example with a token that is for one connection. Without an id, something else may
    // have answered, which does not have this transport.
    if (!mine.signal.aborted && (this.#id || !--this.#opening)) this.#end(code, refusal || (this.#id && String(why)))
  }

  #fetch(init: RequestInit): Promise<Response> {
    return fetch(this.#url, { method: "POST", credentials: "include", redirect: "error", ...init })
  }

  #feed(data: Uint8Array): void {
    this.#rest = joined([this.#rest, data])
    let at = 0
    for (let size; at + 5 <= this.#rest.length; at += 5 + size) {
      const view = new DataView(this.#rest.buffer, at)
      size = view.getUint32(1)
      if (size > PIECE) return this.#end(1006, "this is not from a wsrpc server")
      if (at + 5 + size > this.#rest.length) break
      this.#handle(view.getUint8(0), this.#rest.subarray(at + 5, at + 5 + size))
    }
    this.#rest = this.#rest.slice(at)
  }

  #handle(kind: number, payload: Uint8Array): void {
    if ((kind & ~MORE) <= BINARY!) {
      this.#pieces.push(payload.slice())
      if (kind & MORE) return
      const bytes = joined(this.#pieces)
      this.#pieces = []
      this.onmessage?.({ data: kind === TEXT ? decoder.decode(bytes) : bytes.buffer })
    } else if (kind === OPENED) {
      this.#id = decoder.decode(payload)
      this.#openedAfter = Date.now() - this.#startedAt
      this.readyState = 1
      this.onopen?.({})
      this.#webSocketFailed()
    } else if (kind === PING) this.#add(PONG!, payload)
    else if (kind === CLOSE) {
      const code = payload.length ? payload[0]! * 256 + payload[1]! : 1005
      if (this.readyState === 1) this.#add(CLOSE, payload)
      this.readyState = 2
      const end = () => this.#end(code, decoder.decode(payload.subarray(2)))
      void this.#post().then(end)
      setTimeout(end, LAST)
    }
  }

  // ------------------------------------------------------------ what this side sends

  send(data: string | ArrayBuffer | ArrayBufferView): void {
    if (this.readyState !== 1) return
    const isText = typeof data === "string"
    let bytes = isText
      ? new TextEncoder().encode(data)
      : ArrayBuffer.isView(data)
        ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
        : new Uint8Array(data)
    const kind = isText ? TEXT! : BINARY!
    for (; bytes.length > PIECE; bytes = bytes.subarray(PIECE)) this.#add(kind | MORE, bytes.slice(0, PIECE))
    this.#add(kind, bytes.slice())
  }

  #add(kind: number, payload: Uint8Array): void {
    this.#waiting.push(...frame(kind, payload))
    this.bufferedAmount += 5 + payload.length
    this.#post()
  }

  /** Carries the frames that wait, by one request after another. */
  #post(): Promise<void> {
    return (this.#posting ??= Promise.resolve().then(() => this.#postAll()))
  }

  async #postAll(): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined
    try {
      while (this.#waiting.length && this.readyState < 3) {
        let size = 0
        const most = this.#waiting.findIndex((part) => (size += part.length) > this.#most)
        const body = joined(this.#waiting.splice(0, most < 1 ? Infinity : most + 1))
        const headers = { ...this.#headers, "wsrpc-connection": this.#id, "wsrpc-number": String(++this.#number) }
        // A page that is left sends its last request, too.
        const init = { headers, body, keepalive: this.readyState === 2 && body.length < PIECE }
        const startedAt = Date.now()
        let stuck = false
        timer = setTimeout(() => {
          stuck = true
          crowdedUntil = Math.max(crowdedUntil, Date.now() + CROWDED)
          this.#present!.abort()
        }, CROWDED + this.#openedAfter + body.length / SLOWEST)
        let response
        do response = await this.#fetch(init)
        while (response.status === NO_ROOM && this.readyState < 3)
        clearTimeout(timer)
        if (stuck && crowdedUntil > Date.now()) crowdedUntil = Date.now() + REMEMBERED
        if (!response.ok) throw new Error(`HTTP ${response.status}`)
        this.bufferedAmount -= body.length
        const elapsed = Date.now() - startedAt
        if (elapsed > QUICK) this.#most = Math.max(this.#most / 2, PIECE)
        else if (size > this.#most) this.#most = Math.min(this.#most * 2, MAX_BODY)
        if (body.length >= PIECE && this.readyState === 1)
          await new Promise((done) => setTimeout(done, Math.min(PAUSE, elapsed / 16)))
      }
    } catch (error) {
      this.#end(1006, String(error))
    }
    clearTimeout(timer)
    this.#posting = undefined
  }

  // ------------------------------------------------------------ the end

  close(code = 1000, reason = ""): void {
    if (this.readyState === 1) {
      this.#add(CLOSE!, joined([new Uint8Array([code >> 8, code & 255]), new TextEncoder().encode(reason)]))
      this.readyState = 2
      setTimeout(() => this.#end(1006, ""), CLOSE_TIMEOUT)
    } else if (!this.readyState) this.#end(1006, "")
  }

  #end(code: number, reason: string): void {
    if (this.readyState === 3) return
    this.readyState = 3
    this.#ending.abort()
    this.onclose?.({ code, reason })
  }

  /** Opens a WebSocket later, which takes the place of this connection when a message has arrived on it. */
  #webSocketFailed(): void {
    if (this.readyState === 3 || !this.onreplace) return
    const network = this.#network
    if (network.blockedUntil < performance.now()) {
      Object.assign(network, { blockedUntil: performance.now() + blocked, passesUntil: 0 })
      blocked = Math.min(2 * blocked, REMEMBERED)
    }
    const attempt = async () => {
      const address = await (typeof this.#target === "function" ? this.#target() : this.#target)
      const { token } = address as Partial<Address>
      const offers = token === undefined ? [HINT] : [`bearer.${token}`, "wsrpc", HINT]
      const socket = new WebSocket(this.#url.replace(/^http/, "ws"), offers)
      const timer = setTimeout(() => socket.close(), ATTEMPT_TIMEOUT)
      socket.onopen = () => socket.send(PROBE)
      socket.onclose = failed
      socket.onmessage = () => {
        clearTimeout(timer)
        socket.onclose = null
        network.blockedUntil = 0
        if (this.readyState === 1) this.onreplace!(socket)
        else socket.close()
      }
    }
    const failed = () => this.#webSocketFailed()
    const timer = setTimeout(() => attempt().catch(failed), network.blockedUntil - performance.now())
    this.#ending.signal.addEventListener("abort", () => clearTimeout(timer))
  }
}
