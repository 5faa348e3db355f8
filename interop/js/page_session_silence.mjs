// What a session of a page's client sends while something, or nothing, arrives and leaves. Time passes only as far as a row says.
//
//   node page_session_silence.mjs SESSION '[[[0, "welcome"], [30, "end"]], …]'
//
// SESSION is a module with the class `Session`. Prints what has happened in each row, as JSON: `5 probe` is a probe after 5 seconds.

let time = 0
const timers = new Map()
globalThis.setTimeout = (run, ms = 0, ...args) => {
  const timer = { due: time + ms, run: () => run(...args) }
  timers.set(timer, timer)
  return timer
}
globalThis.clearTimeout = (timer) => timers.delete(timer)
Date.now = performance.now = () => time
Math.random = () => 0.5
globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible", baseURI: "http://server/" })
const { Session } = await import(process.argv[2])

let began = 0
let log = []
const note = (what) => log.push(`${Math.round((time - began) / 100) / 10} ${what}`)

let wire
let opens = true
let refuses = false
class Wire {
  readyState = 0
  bufferedAmount = 0
  constructor() {
    note("dial")
    if (refuses) queueMicrotask(() => this.drops())
    else if (opens) queueMicrotask(() => this.open())
  }
  drops() {
    this.onclose?.({ code: 1006, reason: "" })
  }
  open() {
    wire = this
    this.readyState = 1
    this.onopen?.({})
  }
  send(data) {
    note(JSON.parse(data).wsrpc.t)
  }
  close(code) {
    this.readyState = 3
    note(`close ${code}`)
  }
  arrives(data) {
    this.onmessage?.({ data: JSON.stringify(data) })
  }
  says(t, fields) {
    this.arrives({ "ws-wrapper": false, wsrpc: { t, ...fields } })
  }
}

function see(visibilityState) {
  document.visibilityState = visibilityState
  document.dispatchEvent(new Event("visibilitychange"))
}

const steps = {
  welcome: () => wire.says("welcome", { features: ["resume", "probe"], sid: "s", token: "t", ttl: 60 }),
  plain: () => wire.says("welcome", { features: ["probe"] }),
  resumed: () => wire.says("resumed", { rx: 0, bytes: 0, token: "t" }),
  alive: () => wire.says("alive"),
  message: () => wire.arrives({ a: ["note"] }),
  unsent: (bytes) => (wire.bufferedAmount = bytes),
  deaf: () => (opens = false), // other connections do not open
  refuse: () => (refuses = true), // they end at once
  allow: () => (refuses = false),
  drop: () => wire.drops(),
  thaw: () => document.dispatchEvent(new Event("resume")),
  hide: () => see("hidden"),
  show: () => see("visible"),
  wakes: () => see("visible"),
  end() {},
}

const settled = () => new Promise((done) => setImmediate(done))

/** Runs the timers that are due until then. */
async function passes(until) {
  for (;;) {
    await settled()
    const [next] = [...timers.keys()].filter(({ due }) => due <= until).sort((one, other) => one.due - other.due)
    if (!next) break
    timers.delete(next)
    time = Math.max(time, next.due)
    next.run()
  }
  time = until
}

const rows = []
for (const row of JSON.parse(process.argv[3])) {
  began = time
  opens = true
  refuses = false
  document.visibilityState = "visible"
  let isDetached = false
  const session = new Session("ws://server", { WebSocket: Wire }, {
    features: [],
    isBusy: false,
    opened() {},
    receive() {},
    receiveControl() {},
    sessionDetached() {
      if (!isDetached) note("detached")
      isDetached = true
    },
    resumed() {
      isDetached = false
      note("resumed")
    },
    sessionOver: () => note("close"),
  })
  for (const [at, step, ...args] of row) {
    if (step === "wakes") time = began + 1000 * at // no timer has fired meanwhile
    else await passes(began + 1000 * at)
    steps[step](...args)
  }
  await settled()
  rows.push(log)
  log = []
  session.close()
  await settled()
  timers.clear()
  log = []
}
process.stdout.write(JSON.stringify(rows))
