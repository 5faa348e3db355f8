// The connections of one agent, whichever side opened them, and their channels.

import { builtins } from "./handlers.mjs"
import { describe } from "./values.mjs"

export class Peers {
  settings = { middleware: null, error_props: false, messages: false, calls: false }
  #wrappers = []
  #anonymous = [] // channels; the position is the key

  /** `dial(url, options)` gives {socket, opened}: a WebSocket as Node or a browser has it, and a promise. */
  constructor(library, journal, answers, dial) {
    this.dial = dial
    this.library = library
    this.journal = journal
    this.answers = answers
    this.options = {
      // The servers' own defaults would end requests and connections by the clock.
      heartbeatInterval: 0,
      requestTimeout: 0,
      errorToJSON: (error) =>
        JSON.stringify({ message: error.message, ...(this.settings.error_props ? error : {}) }),
    }
  }

  get count() {
    return this.#wrappers.length
  }

  /** A wrapper of the agent's own for a connection. */
  wrap(socket) {
    const wrapper = new this.library.Wrapper(socket, this.options)
    this.#attach(wrapper, null)
    this.#attach(wrapper.of("math"), "math")
    this.#adopt(wrapper)
    return wrapper
  }

  /** A server that makes its wrappers itself. */
  take(server) {
    this.#attach(server, null)
    this.#attach(server.of("math"), "math")
    server.on("connection", (wrapper) => this.#adopt(wrapper))
  }

  /** Dials; with `peer`, an earlier connection's wrapper is bound to the new socket. */
  async connect(url, { protocols = [], peer, sync }) {
    const { Wrapper, name } = this.library
    if (!Wrapper) throw new Error(`${name} only serves`)
    const { socket, opened } = this.dial(url, { protocols, sync })
    const wrapper = peer === undefined ? this.wrap(socket) : this.get(peer).bind(socket)
    await opened
    return { peer: wrapper.get("index"), protocol: socket.protocol }
  }

  /** The wrapper with that index, or the newest. */
  get(peer = this.count - 1) {
    const wrapper = this.#wrappers[peer]
    if (!wrapper) throw new Error(this.count ? `no peer ${peer}` : "no connection yet")
    return wrapper
  }

  /** The main channel (null), a named one (text) or an anonymous one ({"$channel": key}). */
  channel(peer, channel = null) {
    if (channel !== null && typeof channel === "object") {
      const found = this.#anonymous[channel.$channel]
      if (!found) throw new Error(`no anonymous channel ${JSON.stringify(channel)}`)
      return found
    }
    return this.get(peer).of(channel)
  }

  /** The key of an anonymous channel, or undefined if `value` is not one. */
  channelKey(value) {
    const key = this.#anonymous.indexOf(value)
    return key < 0 ? undefined : key
  }

  /** How many of the anonymous channels that a peer of the agent requested or made are open. */
  openChannels(peer) {
    return this.#anonymous.filter((channel) => !channel.closeSignal.aborted && channel.get("index") === peer).length
  }

  /** Gives an anonymous channel its key, its handlers and its place in the journal. */
  adoptChannel(channel, peer) {
    const key = this.#anonymous.push(channel) - 1
    const label = { $channel: key }
    this.journal.add({ kind: "channel", peer, channel: label })
    this.#attach(channel, label, channel)
    channel.use((...call) => this.#middleware(...call))
    const { closeSignal } = channel
    closeSignal.addEventListener("abort", () => {
      const reason = describe(closeSignal.reason)
      this.journal.add({ kind: "channel_closed", peer, channel: label, reason })
    })
    return key
  }

  /**
   * What a request brought; a channel gets its handlers here, which is as early as any user of the library
   * can do it, and yet too late for events that arrived in the same read as the channel.
   */
  adoptAnswer(value) {
    if (value !== null && typeof value === "object" && value.isAnonymous === true && value.closeSignal) {
      this.adoptChannel(value, value.get("index"))
    }
    return value
  }

  #adopt(wrapper) {
    const { journal } = this
    const peer = this.#wrappers.push(wrapper) - 1
    wrapper.set("index", peer)
    const opened = () => journal.add({ kind: "open", peer })
    // An accepted socket is open before anyone can listen for it.
    if (wrapper.isConnected) opened()
    wrapper.on("open", opened)
    wrapper.on("close", ({ code, reason, wasClean }) => {
      journal.add({ kind: "close", peer, code, reason, clean: wasClean })
    })
    wrapper.on("message", (_, data) => {
      if (this.settings.messages) journal.add({ kind: "message", peer, data: String(data) })
    })
    wrapper.on("error", (event) => journal.add({ kind: "error", peer, message: event.message }))
    for (const channel of [wrapper, wrapper.of("math")]) {
      channel.use((...call) => this.#middleware(...call))
    }
  }

  #attach(channel, label, back) {
    const { library, journal, answers } = this
    const adoptChannel = (made, peer) => this.adoptChannel(made, peer)
    const handlers = builtins({ library, journal, answers, label, back, adoptChannel })
    for (const [event, handler] of Object.entries(handlers)) {
      channel.on(event, this.#telling(channel, label, event, handler))
    }
  }

  /** The handler; with the setting `calls`, the other side is told of each call by an event `called`. */
  #telling(channel, label, event, handler) {
    const peers = this
    return function (...args) {
      if (peers.settings.calls) {
        const where = channel.isAnonymous ? { h: Number(channel.name) } : label
        peers.get(this.get("index")).emit("called", where, event, args)
      }
      return handler.apply(this, args)
    }
  }

  #middleware(event, args, next) {
    const { middleware } = this.settings
    if (middleware === "refuse") return next(new Error(`middleware refused '${event}'`))
    next()
  }
}
