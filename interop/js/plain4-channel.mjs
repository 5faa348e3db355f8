// The channels of plain4.mjs, the calls that handlers answer, and the iterator protocol.

export class RequestAbortedError extends Error {
  name = "RequestAbortedError"

  constructor() {
    super("Request aborted")
  }
}

export class RequestTimeoutError extends Error {
  name = "RequestTimeoutError"

  constructor() {
    super("Request timed out")
  }
}

/** The main channel, a named one or an anonymous one, by its address: {}, {c: name} or {h: id}. */
export class Channel {
  #line // the connection, for a channel that is not the connection itself
  #listeners = new Map()
  #closing = new AbortController()
  #options = {} // of the next request
  middleware = []

  constructor(line, address) {
    this.#line = line
    this.address = address
  }

  get line() {
    return this.#line ?? this
  }

  get name() {
    const { c, h } = this.address
    return h !== undefined ? String(h) : (c ?? null)
  }

  get isAnonymous() {
    return this.address.h !== undefined
  }

  get closeSignal() {
    return this.#closing.signal
  }

  on(event, listener) {
    this.#listeners.set(event, listener)
    return this
  }

  off(event, listener) {
    if (this.#listeners.get(event) === listener) this.#listeners.delete(event)
  }

  listener(event) {
    return this.#listeners.get(String(event)) // names that are no text are made one
  }

  /** A local event: open, close, error. */
  fire(event, ...args) {
    this.#listeners.get(event)?.apply(this, args)
  }

  use(middleware) {
    this.middleware.push(middleware)
  }

  get(key) {
    return this.line.get(key)
  }

  emit(...a) {
    this.#check("emit")
    this.line.post({ a, ...this.address })
  }

  request(...a) {
    const options = this.#options
    this.#options = {}
    this.#check("send request")
    return this.line.ask({ a, ...this.address }, options)
  }

  timeout(timeout) {
    this.#options.timeout = timeout
    return this
  }

  signal(signal) {
    this.#options.signal = signal
    return this
  }

  /** Ends it here; tells nobody. */
  close(reason) {
    if (this.closeSignal.aborted) return
    if (this.line.anonymous.get(this.address.h) === this) this.line.anonymous.delete(this.address.h)
    this.#listeners.clear()
    this.middleware = []
    this.#closing.abort(reason)
  }

  /** Ends it on both sides. */
  abort(reason) {
    if (this.isAnonymous && !this.closeSignal.aborted) {
      this.line.answer({ ...this.address, ...this.line.thrown("x", reason ?? new RequestAbortedError()) })
    }
    this.close(reason)
  }

  [Symbol.asyncIterator]() {
    return new Items(this)
  }

  #check(what) {
    const open = !this.isAnonymous || this.line.anonymous.get(this.address.h) === this
    if (!open) throw new Error(`Cannot ${what} on a closed channel`)
  }
}

/** One event or request that a handler answers; handlers have it as `this`. */
export class Call {
  #line
  #id // -1 for an event
  #made = null // the anonymous channel, if the handler wants one

  constructor(line, channel, id) {
    this.#line = line
    this.callee = channel
    this.#id = id
    if (!(id > 0)) return
    const canceller = new AbortController()
    const { signal } = canceller
    line.active.set(id, canceller)
    this.signal = signal
    this.channel = () => {
      if (!this.#made) {
        const made = (this.#made = new Channel(line, { h: id }))
        signal.addEventListener("abort", () => made.close(), { signal: made.closeSignal })
      }
      return this.#made
    }
  }

  get(key) {
    return this.#line.get(key)
  }

  request(...args) {
    return this.callee.request(...args)
  }

  async run([event, ...args]) {
    // By mistake a channel that was closed before its handler returned it is in the table, and answers nothing.
    if (this.callee.closeSignal.aborted) return
    try {
      for (const middleware of this.callee.middleware) {
        middleware(event, args, (error) => {
          if (error) throw error
        })
      }
      const listener = this.callee.listener(event)
      const { name } = this.callee
      if (!listener) throw new Error(`No event listener for '${event}'${name ? ` on channel '${name}'` : ""}`)
      await this.#answer(listener, args)
    } catch (error) {
      // By mistake the request stays among those that run, and with an id of 0 it is answered once it has a handler.
      if (this.#id > 0) this.#reject(error)
    }
  }

  /** What is no promise is answered in this turn, before the next message is looked at. */
  async #answer(listener, args) {
    try {
      const result = listener.apply(this, args)
      if (!(result instanceof Promise)) this.#resolve(result)
      else {
        const value = await result
        if (this.#id >= 0) this.#resolve(value)
      }
    } catch (error) {
      if (this.#id >= 0) this.#reject(error)
    } finally {
      this.#line.active.delete(this.#id)
    }
  }

  #resolve(result) {
    // By mistake, null is answered as if it were a channel: it equals the one that the handler did not ask for. So is
    // what an event's handler returns.
    if (result === this.#made) {
      this.#line.anonymous.set(this.#id, result)
      this.#line.answer({ i: this.#id, h: 1 })
    } else if (this.#id >= 0) {
      this.#line.answer({ i: this.#id, d: result })
    }
  }

  #reject(error) {
    this.#line.answer({ i: this.#id, ...this.#line.thrown("e", error) })
  }
}

/** Reads `next` events, one by one. It holds a single item for its reader; the next one is too much (observed). */
class Items {
  #channel
  #started = false
  #waiting = null
  #held = [] // one result, or one error, or both none
  #over

  constructor(channel) {
    this.#channel = channel
    this.#over = channel.closeSignal.aborted
    channel.on("next", this.#arrived)
    channel.closeSignal.addEventListener("abort", this.#closed)
  }

  #arrived = (item) => {
    const result = { value: item?.value, done: Boolean(item?.done) }
    if (this.#waiting === null && this.#held.length > 0) {
      // The item that was held is lost as well.
      this.#held = []
      this.#end(new Error("async iterator buffer overflow; consumer is too slow"))
      return
    }
    if (result.done) this.#leave()
    this.#give(Promise.resolve(result))
  }

  #closed = () => {
    this.#held = []
    this.#end(new Error("channel closed before iteration completed"))
  }

  #end(error) {
    this.#leave()
    const rejection = Promise.reject(error)
    rejection.catch(() => {}) // the reader may never come for it
    this.#give(rejection)
  }

  #give(result) {
    if (this.#waiting) this.#waiting(result)
    else this.#held.push(result)
    this.#waiting = null
  }

  #leave() {
    this.#over = true
    this.#channel.off("next", this.#arrived)
    this.#channel.closeSignal.removeEventListener("abort", this.#closed)
  }

  next() {
    if (!this.#started && !this.#over) this.#channel.emit("start")
    this.#started = true
    if (this.#held.length > 0) return this.#held.shift()
    if (this.#over) return Promise.resolve({ value: undefined, done: true })
    return new Promise((resolve) => {
      this.#waiting = resolve
    })
  }

  /** Breaking off: the channel stays open, and a `next` that still comes finds no listener. */
  return(value) {
    this.#held = []
    if (!this.#over) this.#leave()
    return Promise.resolve({ value, done: true })
  }

  [Symbol.asyncIterator]() {
    return this
  }
}

/** A handler that streams what the iterable yields that `handler` returns. It waits for nobody (observed). */
export function iterableHandler(handler) {
  return async function (...args) {
    const items = await handler.apply(this, args)
    const channel = this.channel()
    return channel.on("start", () => pour(items, channel))
  }
}

async function pour(items, channel) {
  const { closeSignal } = channel
  try {
    for await (const value of items) {
      if (closeSignal.aborted) break
      channel.emit("next", { value, done: false })
    }
  } catch (error) {
    channel.abort(error)
  }
  if (closeSignal.aborted) return
  channel.emit("next", { done: true })
  channel.close()
}
