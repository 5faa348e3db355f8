// A page's `Client` in the place of the recorded ws-wrapper, for one recording: page_client_vectors.mjs imports this
// module anew for each.

import { decode } from "./values.mjs"

// Time passes only when a recording says so.
let now = 0
const timers = new Map()
let lastTimer = 0
globalThis.setTimeout = (run, ms = 0, ...args) => {
  timers.set(++lastTimer, { due: now + ms, run: () => run(...args) })
  return lastTimer
}
globalThis.clearTimeout = (timer) => timers.delete(timer)
const { Client } = await import("../../wsrpc/browser/client.js")

let socket
class Socket {
  readyState = 1
  protocol = ""
  bufferedAmount = 0
  constructor() {
    socket = this
    queueMicrotask(() => this.onopen({}))
  }
  send(text) {
    if (!text.startsWith('{"ws-wrapper":false')) sent.push(text)
  }
  close() {}
}

let sent = []
let outcomes = []
const log = (type, fields) => outcomes.push({ type, ...fields })
export const fault = (name, error) => log(name, { error: String(error) })

let client
const channels = new Map()
const signals = new Map()
const deferred = new Map()
const removers = new Map()
const pending = new Set()

const find = (channel) =>
  channel === null || channel === undefined ? client : typeof channel === "string" ? client.of(channel) : channels.get(channel.ref)

/** A thrown or received value in the notation of the recordings. */
function observed(value) {
  if (value === undefined) return { $undefined: true }
  if (!(value instanceof Error)) return value
  if (value.name === "AbortError" && "outcome" in value) {
    return { $error: { class: "", name: "RequestAbortedError", message: "Request aborted", reason: observed(value.cause) } }
  }
  if (value.name === "AbortError") return { $error: { class: "DOMException", name: value.name, message: value.message } }
  if (value.name === "RequestTimeout") return { $error: { class: "", name: "RequestTimeoutError", message: "Request timed out" } }
  if (value.name === "RemoteError") {
    const { value: arrived, message } = value
    if (message !== (arrived?.message ?? "") || typeof arrived !== "object") return arrived
    const { message: _, name = "Error", code, ...props } = arrived
    if (code !== undefined && !String(code).startsWith("wsrpc.")) props.code = code
    return { $error: { class: "", name, message, ...(Object.keys(props).length ? { props } : {}) } }
  }
  if (value.name === "ChannelClosed") return observed(value.cause)
  const { name, message, ...props } = value
  return { $error: { class: name, name: value.name, message: value.message, ...(Object.keys(props).length ? { props } : {}) } }
}

function valueOf(recorded) {
  if (recorded?.$error) {
    const { message, props, class: ofClass, name = ofClass } = recorded.$error
    const error = Object.assign(new Error(message), props)
    Object.defineProperty(error, "name", { value: name, enumerable: false })
    return error
  }
  if (recorded?.$bigint) return BigInt(recorded.$bigint)
  if (recorded?.$date) return new Date(recorded.$date)
  if (recorded?.$bytes) return new Uint8Array(Buffer.from(recorded.$bytes, "base64"))
  if (recorded?.$function) return () => {}
  if (recorded?.$map) return new Map()
  if (recorded?.$circular) {
    const circle = {}
    circle.self = circle
    return circle
  }
  return decode(recorded)
}

function know(ref, channel) {
  channels.set(ref, channel)
  channel.closed.then((error) => log("channel_closed", { channel: ref, reason: observed(error) }))
  return channel
}

function handlerOf(spec) {
  const handler = function (...args) {
    log("handler_called", { handler: spec.id, args, signal: this.id !== undefined })
    const makes = spec.kind.endsWith("channel") || "channel_ref" in spec || "channel_on" in spec
    const channel = makes ? this.channel() : undefined
    for (const { event, handler } of spec.channel_on ?? []) channel.on(event, handlerOf(handler))
    if (channel && spec.channel_ref) know(spec.channel_ref, channel)
    for (const operation of spec.do ?? []) operate(operation)
    switch (spec.kind) {
      case "none":
        return undefined
      case "return":
        return valueOf(spec.value)
      case "async_return":
        return Promise.resolve(valueOf(spec.value))
      case "throw":
        throw valueOf(spec.value)
      case "async_throw":
        return Promise.reject(valueOf(spec.value))
      case "return_args":
        return args
      case "return_arg":
        return args[spec.index]
      case "channel":
      case "async_channel":
        return channel.closed // the channel ends with its handler
      case "iterable":
        return spec.iterable.async ? Promise.resolve().then(() => source(spec)) : source(spec)
      case "deferred":
        this.signal.addEventListener("abort", () =>
          log("handler_signal_aborted", { handler: spec.id, reason: observed(this.signal.reason) }),
        )
        return new Promise((resolve, reject) => deferred.set(spec.ref, { resolve, reject }))
    }
    throw new Error(`unknown kind of handler: ${spec.kind}`)
  }
  return handler
}

function source({ id, iterable }) {
  const { kind, items = [] } = iterable
  if (kind === "throw") throw valueOf(iterable.value)
  if (kind === "list") return items.map(valueOf).values() // a list itself would be one result
  return (function* () {
    try {
      yield* items.map(valueOf)
      if ("then_throw" in iterable) throw valueOf(iterable.then_throw)
    } finally {
      log("generator_finalized", { handler: id })
    }
  })()
}

const operations = {
  create({ request_timeout_ms: requestTimeout = 0 }) {
    client = new Client("ws://recorded", { WebSocket: Socket, requestTimeout })
  },
  on({ channel, event, handler }) {
    removers.set(`${channel} ${event} ${handler.id}`, find(channel).on(event, handlerOf(handler)))
  },
  off: ({ channel, event, handler }) => removers.get(`${channel} ${event} ${handler}`)(),
  of: ({ channel }) => void client.of(channel),
  emit: ({ channel, event, args }) => find(channel).emit(event, ...args.map(valueOf)),
  request({ channel, event, args, ref, timeout_ms: timeout, signal, opens }) {
    pending.add(ref)
    const ended = () => pending.delete(ref)
    const found = find(channel)
    const options = { signal: signals.get(signal)?.signal, ...(timeout === undefined ? {} : { timeout }) }
    const caller = found.with?.(options) ?? found
    const asked = opens ? caller.open(event, ...args.map(valueOf)) : caller.request(event, ...args.map(valueOf))
    asked.finally(ended).then(
      (value) => {
        if (opens) know(ref, value)
        log("resolved", { ref, value: opens ? { $channel: ref } : observed(value) })
      },
      (error) => log("rejected", { ref, error: observed(error) }),
    )
  },
  new_signal: ({ ref }) => signals.set(ref, new AbortController()),
  abort_signal: ({ ref, ...reason }) => signals.get(ref).abort("reason" in reason ? valueOf(reason.reason) : undefined),
  settle({ ref, ...result }) {
    if ("resolve" in result) deferred.get(ref)?.resolve(valueOf(result.resolve))
    else deferred.get(ref)?.reject(valueOf(result.reject))
  },
  abort_channel: ({ channel, reason }) => find(channel).abort(reason === undefined ? undefined : valueOf(reason)),
  inspect() {},
  wait({ ms }) {
    now += ms
    for (const [timer, { due, run }] of [...timers]) {
      if (due <= now && timers.delete(timer)) run()
    }
  },
}

function operate({ op, ...fields }) {
  try {
    operations[op](fields)
  } catch (error) {
    log("threw", { op, error: { TypeError: "NotEncodable" }[error.name] ?? error.name })
  }
}

const stimuli = {
  do: operate,
  feed: (text) => socket.onmessage({ data: text }),
  feed_burst: (texts) => texts.forEach((data) => socket.onmessage({ data })),
  feed_binary: (text) => socket.onmessage({ data: Uint8Array.from(Buffer.from(text, "base64")).buffer }),
}

/** What the client has sent, and what its user has seen, until nothing was left to do. */
export async function play(kind, value) {
  if (kind === "pending") [...pending].forEach((ref) => log("pending", { ref }))
  else stimuli[kind](value)
  for (let turn = 0; turn < 5; turn++) await new Promise((done) => setImmediate(done))
  const told = { sent, outcomes }
  sent = []
  outcomes = []
  return told
}
