// Sessions of a page's client, on connections that this program plays. Time passes only as far as the steps say.
//
//   node page_session.mjs SESSION '[[[null, "open"], [9, "welcome"], …], …]'
//
// SESSION is a module with the class `Session`. Each row has steps, with the second at which each is taken, or null for
// at once. Prints as JSON what was seen in each row; see ../session_pages.py.

let time = 0
let ahead = 0
const timers = new Map()
globalThis.setTimeout = (run, ms = 0, ...args) => {
  const timer = { due: time + ms, run: () => run(...args) }
  timers.set(timer, timer)
  return timer
}
globalThis.clearTimeout = (timer) => timers.delete(timer)
performance.now = () => time
Date.now = () => time + ahead
Math.random = () => 0.5 // delays are in the middle of what they may be
const page = new EventTarget()
globalThis.addEventListener = page.addEventListener.bind(page)
globalThis.document = Object.assign(new EventTarget(), { baseURI: "http://server/" })
const { listenToPage, Session } = await import(process.argv[2])

const uncaught = []
process.on("uncaughtException", (error) => uncaught.push(String(error)))

let began, seen, session, wires, taken, opens, refuses, mute
/** As `WebSocket.readyState`, by `SessionState`. */
const STATES = [0, 1, 1, 1, 1, 1, 2, 3]

function logged(what) {
  if (!mute) seen.log.push(`${Math.round((time - began) / 100) / 10} ${what}`)
}

function happened(event) {
  if (!mute) seen.events.push(event)
  if (!event.startsWith("message")) logged(event.startsWith("close") ? "close" : event)
}

function shown(data) {
  if (!data.startsWith('{"ws-wrapper":false,"wsrpc"')) return data
  const { wsrpc } = JSON.parse(data)
  if (wsrpc.t === "resume") seen.resumes.push([wsrpc.sid, wsrpc.token, wsrpc.gen, wsrpc.rx])
  return wsrpc.t === "ack" ? `ack:${wsrpc.n}` : wsrpc.t
}

class Wire {
  readyState = 0
  bufferedAmount = 0
  got = []
  constructor(url, offers) {
    logged("dial")
    seen.offers.push(offers.join())
    wires.push(this)
    if (refuses) queueMicrotask(() => this.drop())
    else if (opens) queueMicrotask(() => this.open())
  }
  open() {
    if (this.readyState === 0) {
      this.readyState = 1
      this.onopen?.({})
    }
  }
  drop() {
    this.readyState = 3
    this.onclose?.({ code: 1006, reason: "" })
  }
  shut(code) {
    this.got.push(`(${code})`)
    this.readyState = 3
    this.onclose?.({ code, reason: "" })
  }
  send(data) {
    if (mute) return
    const text = shown(data)
    this.got.push(text)
    logged(text)
  }
  close(code, reason = "") {
    if (this.readyState === 1) this.got.push(`(${code})`)
    if (this.readyState < 2) logged(`close ${code}`)
    this.readyState = 3
    queueMicrotask(() => this.onclose?.({ code, reason }))
  }
  arrives(data) {
    this.onmessage?.({ data })
  }
  says(t, fields) {
    this.arrives(JSON.stringify({ "ws-wrapper": false, wsrpc: { t, ...fields } }))
  }
}

/** The connection that is open, or the last one that was. */
const wire = () => {
  const opened = wires.filter(({ got }) => got.length)
  return opened.findLast(({ readyState }) => readyState === 1) ?? opened.at(-1)
}
const welcome = { features: ["resume", "probe"], sid: "s", token: "t", ttl: 60, limits: {} }
const WELCOMES = {
  none: { features: [], sid: null },
  probe: { features: ["probe"], sid: null },
  noprobe: { features: ["resume"] },
}

function see(visibilityState) {
  document.visibilityState = visibilityState
  document.dispatchEvent(new Event("visibilitychange"))
}

const settled = () => new Promise((done) => setImmediate(done))

/** Runs the timers that are due until then. */
async function passes(until, holds = () => false) {
  for (;;) {
    await settled()
    if (holds()) return
    const [next] = [...timers.keys()].filter(({ due }) => due <= until).sort((one, other) => one.due - other.due)
    if (!next) break
    timers.delete(next)
    time = Math.max(time, next.due)
    next.run()
  }
  if (until === Infinity) seen.events.push("it does not come")
  else time = until
}

const steps = {
  // ---- the page
  open(options = {}) {
    const { token, fails, hangs, ...others } = options
    let target = token === undefined ? "ws://server" : { url: "ws://server", token }
    let calls = 0
    if (fails !== undefined) target = () => (++calls > fails ? Promise.reject(new Error("no token")) : "ws://server")
    if (hangs) target = () => (++calls > 1 ? new Promise(() => {}) : "ws://server")
    let isDetached = false
    const listening = new AbortController()
    session = new Session(target, { WebSocket: Wire, ...others }, {
      features: [],
      isBusy: false,
      opened: () => happened("open"),
      receive: (data) => happened(`message ${data}`),
      receiveControl() {},
      sessionDetached() {
        if (!isDetached) happened("detached") // not for each attempt that fails
        isDetached = true
      },
      resumed() {
        isDetached = false
        happened("resumed")
      },
      sessionOver(code, reason) {
        listening.abort()
        happened(`close ${code} ${reason}`.trim())
      },
    })
    listenToPage(session, listening.signal) // as a client does
  },
  send: (data) => session.send(data),
  many(count, size) {
    for (let k = 0; k < count; k++) session.send("x".repeat(size))
  },
  close: (...args) => session.close(...args),
  throws(...args) {
    try {
      session.close(...args)
    } catch ({ name }) {
      seen.events.push(name)
    }
  },
  clock: (seconds) => (ahead += 1000 * seconds),
  wake: (type) => page.dispatchEvent(new Event(type)),
  freeze: () => document.dispatchEvent(new Event("freeze")),
  thaw: () => document.dispatchEvent(new Event("resume")),
  hide: () => see("hidden"),
  show: () => see("visible"),
  wakes: () => see("visible"), // and no timer has fired meanwhile
  leave: () => page.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: false })),
  keep: () => page.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: true })),
  // ---- the server and the network
  welcome: (which) => wire().says("welcome", { ...welcome, ...(which > 0 ? { ttl: which } : WELCOMES[which]) }),
  resumed: (rx = 0, bytes = 0, token = "t") => wire().says("resumed", { rx, bytes, token, sid: "other", limits: {} }),
  ack: (n, bytes) => wire().says("ack", { n, bytes }),
  gone: (why = "expired") => wire().says("gone", { why }),
  say: (t) => wire().says(t, {}),
  odd(t, field) {
    wire().says(t, { ...welcome, bytes: 0, rx: 0, n: 0, [field]: { toString: 1, valueOf: 1 } })
  },
  text: (text) => wire().arrives(text),
  unsent: (bytes) => (wire().bufferedAmount = bytes),
  drop: () => wire().drop(),
  shut: (code) => wire().shut(code),
  hold: () => (opens = false), // connections do not open
  release() {
    opens = true
    for (const each of wires) each.open()
  },
  refuse: () => (refuses = true), // they end at once
  allow: () => (refuses = false),
  // ---- memory
  heap() {
    globalThis.gc()
    seen.heaps.push(process.memoryUsage().heapUsed)
  },
  /** Control messages of each kind, and some of 1 MB, which are too large to be control messages. */
  flood(count) {
    mute = true
    const odd = { h: 1, n: 2 ** 53, bytes: -1, features: Array(50).fill("resume"), why: "x".repeat(500) }
    for (const t of ["alive", "welcome", "gone", "resumed", "hello", "credit", "limits", "drain", "new"]) {
      for (let k = 0; k < count; k++) wire().says(t, odd)
    }
    for (let k = 0; k < 8; k++) wire().says("credit", { pad: "x".repeat(1_000_000) })
    mute = false
  },
  /** Messages in both directions, which both sides acknowledge. */
  exchange(from, to) {
    mute = true
    for (let n = from + 1; n <= to; n++) {
      session.send("x".repeat(100))
      wire().arrives("x".repeat(100))
      if (n % 1000 === 0) wire().says("ack", { n, bytes: 100 * n })
    }
    mute = false
  },
  end() {},
}

/** Steps that wait for something, whenever it comes. */
const waits = {
  /** Another connection has opened. */
  next: () => ((count) => () => wires.filter(({ got }) => got.length).length >= count)(++taken),
  dialed: () => ((count) => () => wires.length > count)(wires.length),
  got: (text) => () => wire().got.some((each) => each.startsWith(text)),
  until: (event) => () => seen.events.some((each) => each.startsWith(event)),
}

const rows = []
for (const row of JSON.parse(process.argv[3])) {
  began = time
  seen = { events: [], log: [], resumes: [], offers: [], heaps: [] }
  wires = []
  taken = 1
  opens = true
  refuses = mute = false
  document.visibilityState = "visible"
  for (const [at, step, ...args] of row) {
    if (step === "wakes") time = began + 1000 * at
    else if (at !== null) await passes(began + 1000 * at)
    if (step in waits) await passes(Infinity, waits[step](...args))
    else steps[step.replace("+", "")](...args)
    if (!step.endsWith("+")) await settled()
  }
  const { events, log, resumes, offers, heaps } = seen
  const wired = wires.map(({ got }) => got.join(" ")).filter(Boolean).join(" | ")
  const state = STATES[session.state]
  rows.push({ events: events.join(", "), wired, log: log.join(", "), state, resumes, offers, heaps })
  session.close()
  await passes(time + 11_000) // a connection that has not opened is closed later
  rows.at(-1).left = timers.size
  timers.clear()
}
process.stdout.write(JSON.stringify({ rows, uncaught }))
