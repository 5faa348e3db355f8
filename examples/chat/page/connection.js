// The connection to the server: a client for each name that the user takes.

import { Client, ConnectionLost } from "./wsrpc/client.js"
import { msgpack } from "./wsrpc/msgpack.js"

/** Whether a call has failed only because its session ended, or is about to end: the next session starts over. */
export const isLoss = (error) => error instanceof ConnectionLost || error.code === "wsrpc.draining"

/** For `catch`. */
export function ignoreLoss(error) {
  if (!isLoss(error)) throw error
}

/** Emits "state" when `state` changes, and "session" when a session begins, of which the server knows nothing yet. */
export class Connection extends EventTarget {
  state = "connecting" // then "open", or "offline" while the client connects again
  session // the present session, for comparison. It outlives dropped connections. Undefined if there is none
  client
  #handlers

  /** `handlers` are those of the server's events, by their names. */
  constructor(handlers) {
    super()
    this.#handlers = Object.entries(handlers)
  }

  get isOpen() {
    return this.state === "open"
  }

  /** Connects under a name. What is pending under another one fails with `ConnectionLost`. */
  connect(name) {
    this.client?.close()
    // No timeout: a request waits for its answer as long as its session lives, and the client notices a dead one.
    const options = { codec: msgpack, requestTimeout: 0 }
    const client = (this.client = new Client(`/ws?name=${encodeURIComponent(name)}`, options))
    for (const [event, handler] of this.#handlers) client.on(event, handler)
    client.status.subscribe((...change) => client === this.client && this.#changed(...change))
    this.#become("connecting")
  }

  #changed(status, resumed) {
    const isNew = status === "open" && !resumed
    if (isNew) this.session = {}
    else if (status === "connecting" || status === "closed") this.session = undefined
    this.#become(status === "open" || status === "draining" ? "open" : "offline")
    if (isNew) this.dispatchEvent(new Event("session"))
  }

  #become(state) {
    this.state = state
    this.dispatchEvent(new Event("state"))
  }
}
