// One ws-wrapper for the life of the page, bound to a new WebSocket after each drop. Handlers are registered once.

import WebSocketWrapper from "ws-wrapper"

const FIRST_WAIT = 1000 // milliseconds at most, doubled after each failed attempt
const LONGEST_WAIT = 30_000
const PATIENCE = 15_000 // milliseconds that an answer may take

/** There is no answer because there is no connection. The request can be sent again on the next one. */
export class ConnectionLost extends Error {
  message = "the connection is lost"
}

/** For `catch`, where the next connection starts over anyway. */
export function ignoreLoss(error) {
  if (!(error instanceof ConnectionLost)) throw error
}

/** Emits "state" when `state` ("connecting", "open", "waiting"), `nextAttempt` or `count` (of connections) changes. */
export class Connection extends EventTarget {
  state = "waiting"
  count = 0
  nextAttempt = 0 // when it dials again, while "waiting"
  #url
  #failed = 0
  #timer
  #wrapper = new WebSocketWrapper(undefined, { requestTimeout: PATIENCE })

  /** `url` is a function that is called before each attempt. */
  constructor(url) {
    super()
    this.#url = url
    this.#wrapper.on("open", () => {
      this.#failed = 0
      this.count++
      this.#become("open")
    })
    this.#wrapper.on("close", () => this.#lost())
    // The network is back: dial now.
    addEventListener("online", () => this.state === "waiting" && this.dial())
  }

  get isOpen() {
    return this.state === "open"
  }

  /** Whether requests can return streams, which ws-wrapper has since version 4. */
  get hasStreams() {
    return Symbol.asyncIterator in this.#wrapper
  }

  /** Dials now, and replaces the present connection if there is one. */
  dial() {
    clearTimeout(this.#timer)
    this.#wrapper.disconnect()
    this.#wrapper.abort()
    this.#become("connecting")
    this.#wrapper.bind(new WebSocket(this.#url()))
  }

  on(event, handler) {
    this.#wrapper.on(event, (...args) => {
      try {
        return handler(...args)
      } catch (error) {
        reportError(error) // ws-wrapper 3 would keep it for itself
      }
    })
  }

  /** Emits an event that is not worth sending later: it is dropped if there is no connection. */
  emit(...args) {
    if (this.isOpen) this.#wrapper.emit(...args)
  }

  /**
   * Sends a request and returns the answer. Throws `ConnectionLost` if there is no connection or it is lost meanwhile
   * (ws-wrapper would queue up to ten messages), and the server's error if that refuses.
   */
  async request(...args) {
    if (!this.isOpen) throw new ConnectionLost()
    return this.answer(this.#wrapper.request(...args))
  }

  /** Returns the answer to a request that was sent on a channel, and throws as `request` does. */
  async answer(request) {
    const { socket } = this.#wrapper
    try {
      return await request
    } catch (error) {
      // A dead connection looks open, and browsers cannot ping. A missing answer shows it.
      if (error.message === "Request timed out") this.dial()
      const isOver = socket !== this.#wrapper.socket || !this.isOpen
      throw isOver || error.code === "wsrpc.draining" ? new ConnectionLost() : error
    }
  }

  #lost() {
    this.#wrapper.abort() // pending requests get no answer any more, and ws-wrapper would let them wait
    // A random time, so that the pages of a restarted server do not dial all at once.
    const wait = Math.random() * Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.#failed++)
    this.nextAttempt = Date.now() + wait
    this.#timer = setTimeout(() => this.dial(), wait)
    this.#become("waiting")
  }

  #become(state) {
    this.state = state
    this.dispatchEvent(new Event("state"))
  }
}
