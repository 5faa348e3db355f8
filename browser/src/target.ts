// The address of a server, and the class of connections. These types also fit programs without the types of a page.

/** What a session needs of a WebSocket: that of the browser, of Node, or of the package `ws`. */
export interface WebSocketLike {
  readonly readyState: number
  readonly bufferedAmount: number
  binaryType: string
  onopen: ((event: any) => void) | null
  onmessage: ((event: any) => void) | null
  onerror: ((event: any) => void) | null
  onclose: ((event: any) => void) | null
  send(data: any): void
  close(code?: number, reason?: string): void
  /** Drops the connection. Only the package `ws` has it. */
  terminate?(): void
}
/** A class of WebSockets. */
export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike

/** Where to connect, and with which credentials. */
export interface Address {
  /** Relative to the page; `http` and `https` stand for `ws` and `wss`. */
  readonly url: string | URL
  /** A bearer token, for `Handshake.bearer_token` on the server. */
  readonly token?: string
}

/** An address, or a function that is called for each attempt to connect, so that credentials are fresh. */
export type Target = string | URL | Address | (() => string | URL | Address | Promise<string | URL | Address>)

/** Options of connections. */
export interface SocketOptions {
  /** The class of connections. Default: the global `WebSocket`. */
  readonly WebSocket?: WebSocketClass
  /**
   * What may carry a connection. HTTP is used where a proxy does not pass WebSockets on; the module `http.js` is loaded
   * then. WebSocket is tried again from time to time, and takes over. The session resumes, so calls go on. Default: both,
   * or only `websocket` if the option `WebSocket` is given.
   */
  readonly transports?: readonly ("websocket" | "http")[]
  /**
   * Bytes that may wait to be sent or, in a session, for an acknowledgement or a connection, about. When more wait, the
   * next message ends the session with code 4408. The calls and events of a `Client` wait when it is half full.
   * Default: 16 MiB.
   */
  readonly buffer?: number
  /** What the page runs, such as "board/2.3.0": at most 64 printable ASCII characters. The server's `peer.program`. */
  readonly program?: string
}
