// The page of docs(): it shows the description that the server gives to its reader, and calls the events.
// What comes from the server is added as text only, never as HTML.

import { Client } from "./client.js"

const KEPT = 200 // items that stay on the page
const LONGEST = { result: 50_000, item: 2_000 } // characters that are shown
const PAUSE = 60 // milliseconds between two updates of what arrives

const find = (id) => document.getElementById(id)
const el = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties)
  made.append(...children)
  return made
}
const json = (value, indent) => JSON.stringify(value, undefined, indent) ?? "null"
const clipped = (text, most) => (text.length > most ? `${text.slice(0, most)}… (${text.length} characters)` : text)
const button = (textContent, onclick, more) => el("button", { type: "button", textContent, onclick, ...more })
const onSubmit = (id, run) => (find(id).onsubmit = (event) => (event.preventDefault(), run(event.target.elements)))

// ------------------------------------------------------------ the connection

const { websocket } = document.body.dataset
let token = ""
let definitions = {}
let shown = "" // the description on the page
const client = new Client(() => (token ? { url: websocket, token } : websocket))
const channelOf = (name) => (name == null ? client : client.of(name))

const complain = (text) => Object.assign(find("problem"), { textContent: text, hidden: !text })

/** Sends a request with the token, which no link sends. */
const get = (url) => fetch(url, { headers: token ? { authorization: `Bearer ${token}` } : {} })
for (const link of document.querySelectorAll("nav a")) {
  const save = async () => {
    const href = URL.createObjectURL(await (await get(link.href)).blob())
    el("a", { href, download: link.textContent }).click()
  }
  link.onclick = (event) => token && (event.preventDefault(), save())
}

/** Shows who the reader is for the server, or why it refuses the reader, which a WebSocket does not tell. */
async function showLogin() {
  const response = await get("login.json")
  const { principal, error } = await response.json()
  find("principal").textContent = principal == null ? "" : `as ${principal}`
  if (error && client.status.get() !== "open") complain(`${response.status}: ${error.message}`)
}

async function load() {
  const found = { event: [], emits: [], definition: [] }
  try {
    for (let after = []; after; ) {
      const { items, next } = await client.of("wsrpc").request("describe", ...after)
      for (const [part, value] of items.flatMap(Object.entries)) found[part]?.push(value)
      after = next && [next]
    }
  } catch (error) {
    if (error.code === "wsrpc.description_changed") return load()
    return complain(`The server does not describe itself to you: ${error.message}`)
  }
  complain("")
  if (json(found) !== shown) show(found) // else the reader would lose what is open
  shown = json(found)
}

client.status.subscribe((state, resumed) => {
  find("status").textContent = find("status").className = state
  if (client.error || resumed) complain(client.error ? `Not connected: ${client.error.message}` : "")
  if (state === "open" && !resumed) load()
  if (state !== "detached") showLogin().catch(() => {}) // the network is away
})
onSubmit("login", (fields) => {
  token = fields.token.value
  client.close()
  client.connect()
})

// ------------------------------------------------------------ schemas

const FORMATS = { date: "2026-01-31", "date-time": "2026-01-31T12:00:00Z", uuid: "123e4567-e89b-12d3-a456-426614174000" }
const nameOf = (schema) => schema.$ref.slice("#/$defs/".length)
const resolved = (schema) => (schema?.$ref ? resolved(definitions[nameOf(schema)]) : schema)
const variantsOf = (schema) => schema?.anyOf ?? schema?.oneOf

function typeOf(schema) {
  if (schema?.$ref) return nameOf(schema)
  const choices = schema?.const === undefined ? schema?.enum : [schema.const]
  if (choices) return choices.map((each) => json(each)).join(" | ")
  if (variantsOf(schema)) return variantsOf(schema).map(typeOf).join(" | ")
  if (schema?.prefixItems) return `[${schema.prefixItems.map(typeOf).join(", ")}]`
  if (schema?.type === "array") return `Array<${typeOf(schema.items)}>`
  return schema?.contentEncoding ?? [schema?.type ?? "any"].flat().join(" | ")
}

/** Returns a value that most likely fits a schema. */
function example(given, depth = 0) {
  const schema = resolved(given) ?? {}
  const inner = (each) => example(each, depth + 1)
  const values = [given?.default, schema.default, schema.examples?.[0], schema.const, schema.enum?.[0]]
  const value = values.find((each) => each !== undefined)
  if (value !== undefined || depth > 12) return value ?? null
  const some = variantsOf(schema) ?? schema.allOf // null, if the type contains itself
  if (some) return inner(some.find((each) => (each.type === "null") === depth > 2) ?? some[0])
  if (schema.prefixItems) return schema.prefixItems.map(inner)
  const { properties = {}, required = [], exclusiveMinimum = 0, minimum = exclusiveMinimum + 1, maximum = minimum } = schema
  const names = Object.keys(properties).filter((name) => depth < 3 || required.includes(name))
  const type = [schema.type].flat()[0]
  if (type === "object") return Object.fromEntries(names.map((name) => [name, inner(properties[name])]))
  if (type === "array") return depth < 3 || schema.minItems ? [inner(schema.items)] : []
  if (type === "string") return FORMATS[schema.format] ?? "text".padEnd(schema.minLength, "t").slice(0, schema.maxLength)
  if (type === "integer" || type === "number") return Math.min(minimum, maximum)
  return type === "boolean" ? false : null
}

// ------------------------------------------------------------ forms and output

function parsed(text, label) {
  try {
    return text.trim() ? JSON.parse(text) : undefined
  } catch (error) {
    throw new Error(`${label}: ${error.message}`)
  }
}
const parsedLines = (text, label) => text.split("\n").map((line) => parsed(line, label)).filter((item) => item !== undefined)
const text = (value, placeholder = "") => el("input", { value, placeholder })
const area = (value, placeholder = "") => el("textarea", { value, placeholder, rows: 1, spellcheck: false })

/** Returns a row of a form. `read` returns undefined if the field is empty. */
function field(label, about, input, parse = (text) => text) {
  const names = el("span", {}, el("code", { textContent: label }), el("small", { textContent: about }))
  return { row: el("label", { className: "field" }, names, input), read: () => parse(input.value, label) }
}

function parameterField({ name, schema, optional, rest }) {
  const { type, enum: choices = type === "boolean" && [false, true] } = resolved(schema) ?? {}
  const about = `${typeOf(schema)}${rest ? ", any number of them" : optional ? ", optional" : ""}`
  if (rest) return field(name, about, area("[]"), parsed)
  const options = [...(optional ? [""] : []), ...(choices || []).map((each) => json(each))]
  if (choices) return field(name, about, el("select", {}, ...options.map((each) => new Option(each))), parsed)
  const value = type === "string" ? example(schema) : json(example(schema), 1)
  const input = ["string", "integer", "number"].includes(type) ? text : area
  const parse = type === "string" ? (given) => (given || !optional ? given : undefined) : parsed
  return field(name, about, optional ? input("", value) : input(value), parse)
}

/** Returns the arguments in the fields. Those that are left out at the end are not sent. */
function argumentsIn(parameters, fields) {
  const values = fields.map(({ read }) => read())
  const count = values.findLastIndex((value) => value !== undefined) + 1
  return parameters.slice(0, count).flatMap(({ name, schema, rest }, index) => {
    const value = values[index] === undefined ? schema.default : values[index]
    if (value === undefined) throw new Error(`${name}: a later argument needs this one`)
    return rest ? value : [value]
  })
}

/** What has arrived. The last items are shown, from time to time. */
class Output {
  state = el("p", { className: "state" })
  text = el("pre", { hidden: true, tabIndex: 0 })
  node = el("output", {}, this.state, this.text)
  lines = []
  count = 0

  say(state, isError = false) {
    this.state.textContent = state
    this.state.classList.toggle("failed", isError)
  }

  show(text) {
    Object.assign(this.text, { textContent: clipped(text, LONGEST.result), hidden: !text })
  }

  begin() {
    Object.assign(this, { lines: [], count: 0 })
    this.show("")
    this.say("running …")
  }

  add(line) {
    this.lines = [...this.lines, clipped(line, LONGEST.item)].slice(-KEPT)
    this.count++
    this.due ??= setTimeout(() => {
      const earlier = this.count - this.lines.length
      this.show((earlier ? [`… ${earlier} earlier`] : []).concat(this.lines).join("\n"))
      this.text.scrollTop = this.text.scrollHeight
      this.due = undefined
    }, PAUSE)
  }

  fail = ({ name, code, message, outcome, data }) => {
    this.say(`${name}${code == null ? "" : ` [${code}]`}: ${message}${outcome ? ` (outcome: ${outcome})` : ""}`, true)
    if (data != null) this.add(`data: ${json(data)}`)
  }
}

// ------------------------------------------------------------ calls

/** Returns a handler that shows an event. It answers no request: an invented answer could approve something. */
function showing(name, out) {
  return function (...args) {
    const words = [new Date().toLocaleTimeString("en-GB"), name, ...args.map((each) => json(each))]
    out.add([...words, ...(this.room ? [`(in ${this.room})`] : [])].join(" "))
    if (this.id !== undefined) throw new Error("a page of docs() answers no requests")
  }
}

/** Sends and receives items, on the channel of an exchange. */
function exchange(channel, items, out) {
  const grant = () => channel.hasCredit && channel.grant(out.count + 512, 2 ** 50)
  channel.on("next", (item) => {
    for (const each of Array.isArray(item) ? item : item.done ? [] : [item.value]) out.add(json(each))
    if (item.done) channel.close()
    else grant()
  })
  const send = async () => {
    for (const value of items) await channel.request("next", { value, done: false })
    await channel.request("next", { done: true })
  }
  channel.on("start", () => send().catch(() => {})) // the handler has enough, or the channel has ended
  grant()
  channel.emit("start")
}

/** Shows the events of a conversation, and a form that sends others, until it ends. */
function converse(channel, [first], names, out) {
  for (const name of names) channel.on(name, showing(name, out))
  const given = json((first?.parameters ?? []).filter(({ rest }) => !rest).map(({ schema }) => example(schema)))
  const event = field("event", "to send", text(first?.event ?? ""))
  const args = field("arguments", "a JSON array", area(given), parsed)
  const send = async () => channel.emit(event.read(), ...args.read())
  const request = async () => out.add(`${event.read()} → ${json(await channel.request(event.read(), ...args.read()))}`)
  const buttons = [button("Send", () => send().catch(out.fail)), button("Request", () => request().catch(out.fail))]
  buttons.push(button("End", () => channel.close()))
  const talk = el("div", {}, event.row, args.row, el("div", { className: "buttons" }, ...buttons))
  out.node.before(talk)
  channel.closed.then(() => talk.remove())
}

const VERBS = { value: "Call", stream: "Follow", upload: "Upload", exchange: "Start", conversation: "Open" }

/** Returns the form of an event, and what becomes of its calls. */
function bodyOf({ event, kind, channel, parameters = [], sends, keep, doc, notes = [], deprecated, events = [], emits = [] }) {
  const body = el("div", { className: "body" })
  const out = new Output()
  const texts = [doc, deprecated && `Deprecated: ${deprecated}`, ...notes].filter(Boolean)
  body.append(...texts.map((textContent) => el("p", { textContent })))
  const add = (made) => (body.append(made.row), made)
  const fields = parameters.map((each) => add(parameterField(each)))
  const type = sends && typeOf(sends)
  const uploads = kind === "upload" || kind === "exchange"
  const key = keep && add(field("key", "a call with this key runs once", text(Math.random().toString(36).slice(2, 10))))
  const after = keep && kind === "stream" && add(field("after", "a position, or a number of items", text("", "from the first item")))
  const items = uploads && add(field("items", `JSON, one ${type} a line`, area(`${json(example(sends))}\n`), parsedLines))
  const heard = kind === "conversation" && add(field("show", "names of events", text(emits.map((each) => each.event).join(" "))))
  const message = type && !uploads && add(field("message", `${type}, for the run`, area(json(example(sends))), parsed))
  const callerOf = (more) => channelOf(channel).with({ timeout: 0, ...(key && { key: key.read() }), ...more })
  let ending, reading
  const run = async (act) => {
    const position = after ? after.read() : ""
    const place = position && { after: /^\d+$/.test(position) ? Number(position) : position }
    const caller = callerOf({ signal: ending.signal, ...place })
    const args = argumentsIn(parameters, fields)
    if (act === "emit") return caller.emit(event, ...args)
    if (kind === "value") return out.show(json(await caller.request(event, ...args), 2))
    const given = items && items.read()
    if (kind === "upload") return out.show(json(await caller.upload(event, given, ...args), 2))
    if (kind === "stream") {
      reading = key ? caller.follow(event, ...args) : caller.stream(event, ...args)
      for await (const item of reading) out.add(json(item))
      return
    }
    const opened = await caller.open(event, ...args)
    if (kind === "exchange") exchange(opened, given, out)
    else converse(opened, events, heard.read().split(/[\s,]+/).filter(Boolean), out)
    const error = await opened.closed
    if (error) throw error
  }
  const call = (act) => async () => {
    const began = performance.now()
    ending = new AbortController()
    start.disabled = !(cancel.disabled = false)
    out.begin()
    try {
      await run(act)
      const position = reading?.position ? `, at ${reading.position}` : ""
      out.say(`done after ${Math.round(performance.now() - began)} ms${out.count ? `, ${out.count} items` : ""}${position}`)
    } catch (error) {
      out.fail(error)
    }
    start.disabled = !(cancel.disabled = true)
  }
  const start = button(VERBS[kind], call("call"), { className: "start" })
  const cancel = button("Cancel", () => ending.abort(), { disabled: true })
  const send = async () => callerOf().stream(event, ...argumentsIn(parameters, fields)).send(message.read())
  const buttons = [start, cancel]
  if (kind === "value" && !key) buttons.push(button("Send as event", call("emit")))
  if (after) buttons.push(button("Stop run", () => reading?.stop().catch(out.fail)))
  if (message) buttons.push(button("Send message", () => send().catch(out.fail)))
  body.append(el("div", { className: "buttons" }, ...buttons), out.node)
  return body
}

// ------------------------------------------------------------ the list, rooms and events

function signatureOf({ parameters = [], kind, sends, items, result }) {
  const inside = parameters.map(({ name, rest, optional, schema }) => `${rest ? "..." : ""}${name}${optional ? "?" : ""}: ${typeOf(schema)}`)
  if (kind === "upload" || kind === "exchange") inside.push(`items: Items<${typeOf(sends)}>`)
  const given = items === undefined ? result && typeOf(result) : `Items<${typeOf(items)}>`
  return `(${inside.join(", ")})${given ? ` → ${given}` : ""}`
}

function show({ event: events, emits, definition }) {
  definitions = Object.fromEntries(definition.map(({ name, schema }) => [name, schema]))
  const groups = new Map()
  const add = (title, kind, name, signature, words, content) => {
    const parts = Object.entries({ kind, name, signature }).map(([className, textContent]) => el("code", { className, textContent }))
    const entry = el("details", { className: `event ${kind}`, words: `${title} ${name} ${words}`.toLowerCase() })
    entry.append(el("summary", {}, ...parts))
    entry.addEventListener("toggle", () => entry.append(content()), { once: true })
    if (!groups.has(title)) groups.set(title, el("section", {}, el("h2", { textContent: title })))
    groups.get(title).append(entry)
  }
  const place = ({ channel }) => (channel == null ? "the main channel" : `channel ${channel}`)
  for (const each of events) {
    add(`On ${place(each)}`, each.kind, each.event, signatureOf(each), each.doc, () => bodyOf(each))
  }
  for (const each of emits) {
    const kind = each.kind === "value" && each.result == null ? "event" : each.kind
    const about = () => el("p", { className: "body", textContent: each.doc || "The server sends this." })
    add(`Sent by the server on ${place(each)}`, kind, each.event, signatureOf(each), each.doc, about)
    listen(each.channel, each.event)
  }
  for (const { name, schema } of definition) {
    add("Types", "type", name, schema.description ?? "", "", () => el("pre", { textContent: json(schema, 2) }))
  }
  find("events").replaceChildren(...groups.values())
  search()
}

function search() {
  const words = find("search").value.toLowerCase().split(/\s+/)
  for (const entry of document.querySelectorAll(".event")) entry.hidden = !words.every((word) => entry.words.includes(word))
}
find("search").oninput = search

const log = new Output()
const heard = new Set()
find("log").append(log.node)

function listen(channel, event) {
  const name = channel == null ? event : `${channel}:${event}`
  if (heard.has(name)) return
  log.say([...heard.add(name)].join(", "))
  channelOf(channel).on(event, showing(name, log))
}
onSubmit("listen", ({ event: { value } }) => {
  const at = value.lastIndexOf(":")
  listen(at < 0 ? undefined : value.slice(0, at), value.slice(at + 1))
})

const rooms = new Set()
onSubmit("join", ({ room: { value: name }, last }) => {
  if (rooms.has(name)) return
  rooms.add(name)
  const room = client.room(name, { last: Number(last.value) || undefined })
  const out = new Output()
  const draw = () => {
    const users = room.present.get().map(({ user, state }) => `${user} (${state})`)
    const parts = [room.live ? "live" : "joining", room.position && `at ${room.position}`, !room.complete && "events are missing"]
    if (room.error) out.fail(room.error)
    else out.say(`${parts.filter(Boolean).join(", ")}\nPresent: ${users.join(", ") || "not shown"}`)
  }
  const leave = () => (room.leave(), rooms.delete(name), node.remove())
  const title = el("div", { className: "title" }, el("code", { textContent: name }), button("Leave", leave))
  const node = el("div", { className: "room" }, title, out.node)
  find("rooms").append(node)
  room.on("state", (state) => out.show(json(state, 2)))
  for (const event of ["live", "missed"]) room.on(event, draw)
  room.present.subscribe(draw)
  room.ready.then(draw, draw)
})
