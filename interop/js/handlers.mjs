// The handlers that every peer of the agent has, on the main channel, on "math" and on anonymous channels.

import { takeItems } from "./by_hand.mjs"
import { describe, encode } from "./values.mjs"

/**
 * Handlers for one channel. `label` is how the channel is called in the journal. `back` is the channel on
 * which "ask" requests; without it, it is the handler's `this`, since ws-server-wrapper shares one handler
 * among all connections. (An anonymous channel must be named: 4.x refuses requests through `this` there.)
 */
export function builtins({ library, journal, answers, label, back, adoptChannel }) {
  const handlers = {
    echo: (value) => value,
    args: (...args) => args,
    add: (a, b) => a + b,
    nothing: () => undefined,
    nil: () => null,
    blob: (n) => "x".repeat(n),
    size: (text) => text.length,
    fail,

    log(...args) {
      journal.add({ kind: "event", peer: this.get("index"), channel: label, event: "log", args: encode(args) })
    },

    hang() {
      const peer = this.get("index")
      journal.add({ kind: "started", peer, channel: label, event: "hang" })
      return new Promise((_, reject) => {
        // In 3.x, and in a plain event, there is no signal: `this.signal` is then undefined or a method.
        if (!(this.signal instanceof AbortSignal)) return
        const { signal } = this
        signal.addEventListener("abort", () => {
          journal.add({ kind: "aborted", peer, channel: label, event: "hang", reason: describe(signal.reason) })
          reject(new Error("hang was aborted"))
        })
      })
    },

    async wait(key, kind) {
      const peer = this.get("index")
      const made = kind === "channel" ? this.channel() : undefined
      if (made) adoptChannel(made, peer)
      journal.add({ kind: "started", peer, channel: label, event: "wait" })
      await answers.to(key)
      return made ?? key
    },

    ask(event, ...args) {
      // A channel is nothing that could be passed on.
      return (back ?? this).request(event, ...args).then((value) => (value?.isAnonymous ? "a channel" : value))
    },

    askMany(event, n) {
      const channel = back ?? this
      return Promise.all(Array.from({ length: n }, (_, k) => channel.request(event, k, 1)))
    },
  }
  if (library.anonymous) {
    handlers.channel_make = function () {
      const channel = this.channel()
      adoptChannel(channel, this.get("index"))
      return channel
    }
    handlers.channel_talk = function (n) {
      const channel = this.channel()
      adoptChannel(channel, this.get("index"))
      queueMicrotask(() => {
        for (let k = 0; k < n; k++) channel.emit("line", k)
      })
      return channel
    }
    handlers.count = library.iterableHandler(function (n) {
      return streamed(journal, this.get("index"), async function* () {
        for (let k = 0; k < n; k++) yield k
      })
    })
    handlers.ticks = library.iterableHandler(function (ms) {
      return streamed(journal, this.get("index"), async function* () {
        for (let k = 0; ; k++) {
          yield k
          await new Promise((resolve) => setTimeout(resolve, ms))
        }
      })
    })
    handlers.steps = library.iterableHandler(function (keys) {
      return streamed(journal, this.get("index"), async function* () {
        for (const key of keys) yield await answers.to(key)
      })
    })
    handlers.count_list = library.iterableHandler((n) => Array.from({ length: n }, (_, k) => k))
    // Sums up what it is sent. It wants no more once it has `enough`, and fails at the item `wrong`.
    handlers.total = function ({ enough = Infinity, wrong, abort = false } = {}) {
      const peer = this.get("index")
      const channel = this.channel()
      let total = 0
      const take = (value) => {
        if (total >= enough) return // it was on its way
        journal.add({ kind: "taken", peer, item: encode(value) })
        if (value === wrong) {
          if (abort) return channel.abort(new Error("the sum is wrong"))
          throw new Error("the sum is wrong")
        }
        total += value
        if (total >= enough) channel.emit("stop")
      }
      adoptChannel(channel, peer)
      return takeItems(channel, take, () => total)
    }
    // Answers each item that it is sent with an item of its own.
    handlers.doubled = function () {
      const channel = this.channel()
      adoptChannel(channel, this.get("index"))
      const take = (value) => channel.emit("next", { value: 2 * value, done: false })
      return takeItems(channel, take, () => channel.emit("next", { done: true }))
    }
    handlers.count_then_fail = library.iterableHandler(function (n) {
      return streamed(journal, this.get("index"), async function* () {
        for (let k = 0; k < n; k++) yield k
        throw new Error("the stream failed")
      })
    })
  }
  return handlers
}

function fail(kind) {
  switch (kind) {
    case "type":
      throw new TypeError("wrong type")
    case "string":
      throw "just text"
    case "object":
      throw { reason: "because", attempt: 1 }
    case "null":
      throw null
    case "undefined":
      throw undefined
    case "async":
      return Promise.reject(new Error("failed later"))
    default:
      throw Object.assign(new Error("it failed"), { code: "E_FAIL", detail: { attempt: 1 } })
  }
}

/** The generator, with a note in the journal when it ends, however it ends. */
async function* streamed(journal, peer, items) {
  let sent = 0
  try {
    for await (const item of items()) {
      sent++
      yield item
    }
  } finally {
    journal.add({ kind: "stream_ended", peer, sent })
  }
}
