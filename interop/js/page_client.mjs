// The page of ../page_client.py: a `Client` that makes and handles one call after another, step by step.
//
// Commands are lines of JSON on stdin, `{command, id, ...}`. Each is answered by `{id, ok}` or `{id, error}`. Other
// lines tell of what happens: `{note}`, and `{fault}` of what nobody has caught, or what was written on the console.

import { createInterface } from "node:readline"

import { WebSocket } from "ws"

import { Client } from "../../wsrpc/browser/client.js"
import { msgpack } from "../../wsrpc/browser/msgpack.js"

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n")
const note = (text) => say({ note: text })
for (const name of ["unhandledRejection", "uncaughtException"]) {
  process.on(name, (error) => say({ fault: `${name}: ${error?.stack ?? error}` }))
}
for (const name of ["log", "info", "warn", "error"]) console[name] = (...args) => say({ fault: `console: ${args}` })
process.on("warning", (warning) => say({ fault: `warning: ${warning}` }))

// The client waits a random part of a time that grows with each failure.
Math.random = () => 0.01

let client
let url
let attempts = 0
const calls = new Map() // ref → {controller, outcome}
let gates = []

// ------------------------------------------------------------ what happens to a call

const NAMES = ["name", "message", "code", "data", "outcome"]
const shown = (error) =>
  error instanceof Error
    ? { error: Object.fromEntries(NAMES.map((name) => [name, error[name]])) }
    : { error: { name: "value", message: String(error) } }

/** Waits until the test says how the handler goes on. */
async function act(call) {
  note("began")
  const how = await new Promise((resolve, reject) => {
    gates.push(resolve)
    const stop = () => reject(call.signal.reason)
    if (call.signal.aborted) stop()
    else call.signal.addEventListener("abort", stop)
  })
  if (how === "raise") throw Object.assign(new Error("no"), { code: "limit", data: { most: 1 } })
  if (how === "fail") throw new TypeError("a mistake")
  if (how === "value") throw "just text"
  if (how === "unencodable") throw Object.assign(new Error("no"), { data: 1n })
  return how === "bigint" ? 1n : undefined
}

/** Runs a handler, and tells how it has ended. */
async function handled(call, run) {
  try {
    return await run()
  } finally {
    note(call.signal.aborted ? "stop" : "done")
  }
}

const handlers = {
  request() {
    return handled(this, async () => (await act(this)) ?? "result")
  },
  async *stream() {
    let ended = false
    try {
      yield 1
      yield (await act(this)) ?? 2
      ended = true
    } catch (error) {
      ended = !this.signal.aborted
      throw error
    } finally {
      note(ended ? "done" : "stop")
    }
  },
  upload() {
    return handled(this, async () => {
      const items = this.items()
      let sum = (await items.next()).value
      const odd = await act(this)
      for await (const item of items) sum += item
      return odd ?? sum
    })
  },
  conversation() {
    return handled(this, async () => {
      const channel = this.channel()
      channel.emit("line", 1)
      channel.emit("line", (await act(this)) ?? 2)
    })
  },
  event() {
    note("began")
  },
  hang() {
    return handled(this, () => act(this))
  },
  /** Answers after the server has given up, with what would open a channel. */
  async late() {
    await act(this).catch(() => {})
    return {
      [Symbol.asyncIterator]() {
        return this
      },
      next: () => ({ done: true }),
      return: () => note("source closed"),
    }
  },
  /** Reads nothing of an upload. */
  careless() {
    this.items()
    return "unread"
  },
  /** Wants one item. */
  async first() {
    for await (const item of this.items()) return item
  },
  /** Leaves while it waits for an item. */
  hurried() {
    const items = this.items()
    items.next()
    items.return()
    return "left"
  },
  /** Throws before it reads. */
  hasty() {
    this.items()
    throw Object.assign(new Error("no"), { code: "limit", data: { most: 1 } })
  },
  values(value) {
    return value
  },
}

/** Items of an upload. The second one, like all that follow, waits until the test wants it. */
async function* source(hangs) {
  try {
    yield 1
    if (hangs) await new Promise(() => {})
    for (let item = 2; item < 4; item++) yield item
  } finally {
    note("source closed")
  }
}

const callers = {
  request: (caller, name, args) => caller.request(name, ...args),
  async stream(caller, name, args, { hold }) {
    const items = []
    for await (const item of caller.stream(name, ...args)) {
      items.push(item)
      note(`item ${item}`)
      if (hold && items.length === hold) break
    }
    return items
  },
  upload: (caller, name, args, { hangs }) => caller.upload(name, source(hangs), ...args),
  async conversation(caller, name, args) {
    const channel = await caller.open(name, ...args)
    const lines = []
    channel.on("line", (line) => {
      lines.push(line)
      note(`item ${line}`)
    })
    const error = await channel.closed
    if (error) throw error
    return lines
  },
  event(caller, name, args) {
    caller.emit(name, ...args)
  },
}

const commands = {
  /** A new client. Each attempt to connect is noted, and has a token of its own unless the server knows none. */
  open({ at, codec, options = {}, statuses, tokens = true }) {
    url = at
    attempts = 0
    const target = () => {
      note(`attempt ${++attempts}`)
      return tokens ? { url, token: `token-${attempts}` } : url
    }
    const more = codec === "msgpack" ? { codec: msgpack } : {}
    client = new Client(target, { WebSocket, requestTimeout: 0, ...more, ...options })
    if (statuses) note(client.status.get())
    let last = client.status.get()
    client.status.subscribe((status) => status !== last && note((last = status)))
    for (const [name, handler] of Object.entries(handlers)) {
      client.on(name, handler)
      client.of("named").on(name, handler)
    }
  },

  /** Begins a call, whose end is noted. */
  call({ ref, kind, name = kind, channel, args = [], timeout, retry, key, aborted, ...how }) {
    const controller = new AbortController()
    calls.set(ref, controller)
    if (aborted) controller.abort(new Error("changed my mind"))
    let caller = channel ? client.of(channel) : client
    caller = caller.with({ signal: controller.signal, retry, key, ...(timeout ? { timeout } : {}) })
    const run = async () => ({ ok: await callers[kind](caller, name, args, how) })
    run().catch(shown).then((outcome) => say({ ended: ref, ...outcome }))
  },

  /** Aborts the signal of a call; without a reason, with that of the runtime. */
  abort({ ref, reason }) {
    const reasons = { circular: {}, text: "enough" }
    reasons.circular.self = reasons.circular
    calls.get(ref).abort(reason ? reasons[reason] : new Error("changed my mind"))
  },

  /** Lets the handlers that wait go on. */
  release({ how }) {
    for (const go of gates.splice(0)) go(how)
  },

  /** What a request brings, and the types of the bytes in it. */
  async ask({ name, args = [], channel }) {
    return await (channel ? client.of(channel) : client).request(name, ...args).catch(shown)
  },

  /** Runs a function of this side with the client. */
  async run({ code }) {
    const scope = { client, note, shown, Client, WebSocket }
    return await new Function(...Object.keys(scope), `return (async () => {${code}})()`)(...Object.values(scope))
  },

  go({ at }) {
    url = at
  },
  contract: () => client.contract,
  ignored: () => client.ignored,
  status: () => client.status.get(),
  close: ({ code, reason }) => client.close(code, reason),
}

createInterface({ input: process.stdin }).on("line", async (line) => {
  const { command, id, ...fields } = JSON.parse(line)
  try {
    say({ id, ok: (await commands[command](fields)) ?? null })
  } catch (error) {
    say({ id, ...shown(error) })
  }
})
