// `SessionSocket`: a WebSocket that survives drops.

import type { Data } from "./data.js"
import { Session, type SessionEnd } from "./session.js"
import { SessionState } from "./session_states.js"
import type { Address, SocketOptions, Target, WebSocketClass, WebSocketLike } from "./target.js"

export type { Address, SocketOptions, Target, WebSocketClass, WebSocketLike }

/** The events of a `SessionSocket`, for `addEventListener`. */
export interface SessionSocketEventMap {
  readonly open: Event
  readonly message: MessageEvent
  readonly error: Event
  readonly close: CloseEvent
  /** The connection has dropped, and the session waits for another one. */
  readonly detached: Event
  /** The session continues on another connection, after `detached` or in the place of one that was silent. */
  readonly resumed: Event
}
type Listener<K extends keyof SessionSocketEventMap> = (this: WebSocket, event: SessionSocketEventMap[K]) => unknown

/**
 * A session with a wsrpc server, with the interface of a `WebSocket`. When the connection drops, the socket connects
 * again, and both sides resend the messages that have not arrived. Meanwhile it stays `OPEN`, and messages wait.
 *
 * In addition to the events of a WebSocket there are `detached` and `resumed`. When the session is lost, there is one
 * `close` event, and the socket stays `CLOSED`. With a server that has no sessions, it is an ordinary WebSocket.
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
   * @param target the address, or a function that is called for each attempt to connect
   * @param protocols subprotocols to offer
   * @throws SyntaxError if the address is not valid, as for a WebSocket
   */
  constructor(target: Target, protocols: string | string[] = [], options: SocketOptions = {}) {
    super()
    // The functions in `onopen` and the like are called before the listeners that users add.
    for (const type of ["open", "message", "error", "close", "detached", "resumed"] as const) {
      this[`on${type}`] = null
      this.addEventListener(type, (event) => this[`on${type}`]?.(event as never))
    }
    const offers = typeof protocols === "string" ? [protocols] : [...protocols]
    let isDetached: boolean | undefined
    const dispatch = (type: string) => this.dispatchEvent(new Event(type))
    this.#session = new Session(target, offers, options, {
      features: [],
      isBusy: false,
      opened: ({ protocol }) => {
        if (offers.includes(protocol)) this.protocol = protocol
        dispatch("open")
      },
      receive: (data, _size, origin) => this.dispatchEvent(new MessageEvent("message", { data, origin })),
      receiveControl() {},
      sessionDetached: () => (isDetached ||= dispatch("detached")),
      resumed: () => (isDetached = !dispatch("resumed")), // an event that cannot be cancelled returns true
      sessionOver: (end, before) => {
        if (before === SessionState.New) dispatch("error")
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

  /** Bytes that no connection has written so far. While the session is detached: all bytes that may be sent again. */
  get bufferedAmount(): number {
    return this.#session.unsent
  }

  /**
   * Sends a message, or keeps it for the next connection.
   *
   * @throws InvalidStateError while the first connection is being made
   */
  send(data: string | ArrayBuffer | ArrayBufferView | Blob): void {
    if (!this.readyState) throw new DOMException("not open yet", "InvalidStateError")
    this.#session.send(snapshot(data))
  }

  /**
   * Ends the session. The server learns this if there is a connection, and then ends the session at once, too.
   *
   * @throws InvalidAccessError if the code is neither 1000 nor one from 3000 to 4999
   * @throws SyntaxError if the reason has more than 123 bytes
   */
  close(code?: number, reason?: string): void {
    this.#session.close(code, reason)
  }
}

/** The properties and listeners for the events. */
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

/** Returns the data to send. Bytes are copied, because the caller may change them before the message is sent again. */
function snapshot(data: unknown): Data {
  if (typeof data === "string" || data instanceof Blob) return data
  // Not `instanceof`: a buffer from another frame of the page has another class.
  const { buffer = data, byteOffset, byteLength } = Object(data)
  return byteLength === undefined ? String(data) : new Uint8Array(buffer, byteOffset, byteLength).slice().buffer
}
