// `SessionSocket`: a WebSocket that survives drops.

import type { Data } from "./data.js"
import { Session, type SessionEnd } from "./session.js"
import { SessionState } from "./states.js"
import type { Address, SocketOptions, Target, WebSocketClass, WebSocketLike } from "./target.js"

export type { Address, SocketOptions, Target, WebSocketClass, WebSocketLike }

export interface SessionSocketEventMap {
  readonly open: Event
  readonly message: MessageEvent
  readonly error: Event
  readonly close: CloseEvent
  /** The connection has dropped, and the session waits for another one. */
  readonly detached: Event
  /** The session goes on over another connection. */
  readonly resumed: Event
}
type Listener<K extends keyof SessionSocketEventMap> = (this: WebSocket, event: SessionSocketEventMap[K]) => unknown

/**
 * A session with a wsrpc server, with the interface of a `WebSocket`. When its connection drops, it connects again, and
 * both sides send what has not arrived. Meanwhile it stays `OPEN`, and what is sent waits.
 *
 * In addition to the events of a WebSocket there are `detached` and `resumed`. When the session is lost, there is one
 * `close`, and the object stays `CLOSED`. With a server that has no sessions, it is an ordinary WebSocket.
 */
export class SessionSocket extends EventTarget implements WebSocket {
  static readonly CONNECTING = 0
  static readonly OPEN = 1
  static readonly CLOSING = 2
  static readonly CLOSED = 3
  readonly CONNECTING = 0
  readonly OPEN = 1
  readonly CLOSING = 2
  readonly CLOSED = 3

  /** The subprotocol that the server has chosen among those of the page. */
  protocol = ""
  readonly extensions = ""
  readonly #session: Session

  /**
   * @param target where to connect. If it is a function, it is called for each attempt
   * @param protocols subprotocols to offer
   * @throws SyntaxError if the address is not valid, as for a WebSocket
   */
  constructor(target: Target, protocols: string | string[] = [], options: SocketOptions = {}) {
    super()
    // They come before the listeners that are added later.
    for (const type of ["open", "message", "error", "close", "detached", "resumed"] as const) {
      this[`on${type}`] = null
      this.addEventListener(type, (event) => this[`on${type}`]?.(event as never))
    }
    const offers = typeof protocols === "string" ? [protocols] : [...protocols]
    const dispatch = (type: string) => this.dispatchEvent(new Event(type))
    this.#session = new Session(target, offers, options, {
      features: [],
      isBusy: false,
      opened: ({ protocol }) => {
        if (offers.includes(protocol)) this.protocol = protocol
        dispatch("open")
      },
      receive: (data, _size, origin) => this.dispatchEvent(new MessageEvent("message", { data, origin })),
      control() {},
      detached: (_code, _reason, dropped) => dropped && dispatch("detached"),
      resumed: () => dispatch("resumed"),
      over: (end, was) => {
        if (was === SessionState.New) dispatch("error")
        this.dispatchEvent(closeEvent(end))
      },
    })
  }

  get url(): string {
    return this.#session.dialing.url
  }

  get readyState(): 0 | 1 | 2 | 3 {
    const { state } = this.#session
    return state === SessionState.New ? 0 : state === SessionState.Closing ? 2 : state === SessionState.Over ? 3 : 1
  }

  get binaryType(): BinaryType {
    return this.#session.binaryType
  }

  set binaryType(type: BinaryType) {
    if (type !== "blob" && type !== "arraybuffer") return // as a WebSocket does
    this.#session.binaryType = type
    if (this.#session.connection) this.#session.connection.binaryType = type
  }

  /** Bytes that no connection has written so far. While the session is detached, all bytes that are kept. */
  get bufferedAmount(): number {
    return this.#session.unsent
  }

  /**
   * Sends a message, or keeps it for the next connection.
   *
   * @throws InvalidStateError while the first connection is being made
   */
  send(data: string | ArrayBuffer | ArrayBufferView | Blob): void {
    if (!this.readyState) throw new DOMException("the connection is not open yet", "InvalidStateError")
    this.#session.send(snapshot(data))
  }

  /**
   * Ends the session. If there is a connection, the server is told, and frees the session at once.
   *
   * @throws InvalidAccessError if the code is neither 1000 nor one from 3000 to 4999
   * @throws SyntaxError if the reason has more than 123 bytes
   */
  close(code?: number, reason?: string): void {
    this.#session.close(code, reason)
  }
}

/** What TypeScript needs to know of its events. */
export interface SessionSocket {
  onopen: Listener<"open"> | null
  onmessage: Listener<"message"> | null
  onerror: Listener<"error"> | null
  onclose: Listener<"close"> | null
  ondetached: Listener<"detached"> | null
  onresumed: Listener<"resumed"> | null
  addEventListener<K extends keyof SessionSocketEventMap>(
    type: K,
    listener: Listener<K>,
    options?: boolean | AddEventListenerOptions,
  ): void
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void
  removeEventListener<K extends keyof SessionSocketEventMap>(
    type: K,
    listener: Listener<K>,
    options?: boolean | EventListenerOptions,
  ): void
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void
}

function closeEvent(fields: SessionEnd): Event {
  if (globalThis.CloseEvent) return new CloseEvent("close", fields)
  return Object.assign(new Event("close"), fields) // in Node 20 and 22
}

/** Returns what is to be sent. Bytes are copied, because the caller may change them before they are sent again. */
function snapshot(data: unknown): Data {
  if (typeof data === "string" || data instanceof Blob) return data
  // Not `instanceof`: the buffer of another frame is no instance of this one's class.
  const { buffer = data, byteOffset, byteLength } = Object(data)
  return byteLength === undefined ? String(data) : new Uint8Array(buffer, byteOffset, byteLength).slice().buffer
}
