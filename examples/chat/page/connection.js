// One ws-wrapper for the life of the page, bound to one WebSocket after another: handlers are registered once.

import WebSocketWrapper from "ws-wrapper"

const FIRST_WAIT = 1000 // milliseconds, at most; doubled after each attempt that fails
const LONGEST_WAIT = 30_000
const PATIENCE = 15_000 // milliseconds that an answer may take

/** No answer, for want of a connection: what was asked for is worth another try on the next one. */
export class ConnectionLost extends Error {
  message = "the connection is lost"
}

/** For `catch`, where the next connection begins anew anyway. */
export function ignoreLoss(error) {
  if (!(error instanceof ConnectionLost)) throw error
}

/** Events: "state", for `state` ("connecting", "open", "waiting"), `nextAttempt` and `count`, of connections so far. */
export class Connection extends EventTarget {
  state = "waiting"
  count = 0
  nextAttempt = 0 // when it dials again, while "waiting"
  #url
  #failed = 0
  #timer
  #wrapper = new WebSocketWrapper(undefined, { requestTimeout: PATIENCE })

  /** `url` is a function: it is asked before each attempt. */
  constructor(url) {
    super()
    this.#url = url
    this.#wrapper.on("open", () => {
      this.#failed = 0
      this.count++
      this.#become("open")
    })
    this.#wrapper.on("close", () => this.#lost())
    // The network is back: no need to wait any longer.
    addEventListener("online", () => this.state === "waiting" && this.dial())
  }

  get isOpen() {
    return this.state === "open"
  }

  /** Whether requests can bring streams: ws-wrapper has them since version 4. */
  get hasStreams() {
    return Symbol.asyncIterator in this.#wrapper
  }

  /** Dials now, in place of the connection that there is, if there is one. */
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

  /** An event, if there is a connection to send it on: what is not worth sending later. */
  emit(...args) {
    if (this.isOpen) this.#wrapper.emit(...args)
  }

  /**
   * What the server answers. Throws `ConnectionLost` where there is no connection (ws-wrapper would queue up to ten
   * messages), or no longer; otherwise what the server refused with.
   */
  async request(...args) {
    if (!this.isOpen) throw new ConnectionLost()
    return this.answer(this.#wrapper.request(...args))
  }

  /** The same for a request that was made on a channel. */
  async answer(request) {
    const { socket } = this.#wrapper
    try {
      return await request
    } catch (error) {
      // A line that has gone silent looks open. Browsers cannot ping, so this is how it is noticed.
      if (error.message === "Request timed out") this.dial()
      const isOver = socket !== this.#wrapper.socket || !this.isOpen
      throw isOver || error.code === "wsrpc.draining" ? new ConnectionLost() : error
    }
  }

  #lost() {
    this.#wrapper.abort() // requests that wait get no answer any more: ws-wrapper would let them wait
    // Anywhere between at once and the bound, so that the pages of a server that restarts do not come all together.
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
