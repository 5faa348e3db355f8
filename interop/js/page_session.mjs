// Sessions of a page's client, without what is above them, played by lines of JSON on stdin. It tells on stdout what
// they do. The first argument is a module with the class `Session`.
//
//   {"id": 1, "session": "a", "do": [["open", "ws://..."], ["send", "x"], ["close", 4001, "bye"]]}   one after another
//   {"id": 1, "state": 1}                                            whether it is connecting, open, closing or closed
//   {"session": "a", "event": "close", "detail": "1006"}             what a session tells its owner
//
// With --page, there are `document` and the events of a page, for ["wake", "online"] and so on.

import { createInterface } from "node:readline"
import WebSocket from "ws"

const tell = (line) => process.stdout.write(JSON.stringify(line) + "\n")
process.on("uncaughtException", (error) => tell({ uncaught: String(error) }))

if (process.argv.includes("--page")) {
  const page = new EventTarget()
  globalThis.addEventListener = page.addEventListener.bind(page)
  globalThis.dispatchEvent = page.dispatchEvent.bind(page)
  globalThis.document = Object.assign(new EventTarget(), {
    visibilityState: "visible",
    baseURI: "http://127.0.0.1/folder/",
  })
}
// Delays are in the middle of what they may be.
Math.random = () => 0.5
const { Session } = await import(process.argv[2])

const sessions = new Map()
/** As `WebSocket.readyState`, by `SessionState`. */
const STATES = [0, 1, 1, 1, 1, 1, 2, 3]

const steps = {
  open(name, url, options = {}) {
    const { token, fails, hangs, ...others } = options
    let target = token === undefined ? url : { url, token }
    let calls = 0
    if (fails !== undefined) target = () => (++calls > fails ? Promise.reject(new Error("no token")) : url)
    if (hangs) target = () => (++calls > 1 ? new Promise(() => {}) : url)
    const note = (event, detail) => tell({ session: name, event, detail })
    let isDetached = false
    const session = new Session(target, { WebSocket, ...others }, {
      features: [],
      isBusy: false,
      opened: () => note("open"),
      receive: (data) => note("message", data),
      receiveControl() {},
      sessionDetached() {
        if (!isDetached) note("detached") // not for each attempt that fails
        isDetached = true
      },
      resumed() {
        isDetached = false
        note("resumed")
      },
      sessionOver: ({ code, reason }) => note("close", `${code} ${reason}`),
    })
    sessions.set(name, session)
  },
  send: (name, data) => sessions.get(name).send(data),
  many(name, count, size) {
    for (let k = 0; k < count; k++) sessions.get(name).send("x".repeat(size))
  },
  close: (name, ...args) => sessions.get(name).close(...args),
  clock(_, seconds) {
    const before = Date.now
    Date.now = () => before() + 1000 * seconds
  },
  wake: (_, type) => dispatchEvent(new Event(type)),
  freeze: () => document.dispatchEvent(new Event("freeze")),
  thaw: () => document.dispatchEvent(new Event("resume")),
  see(_, visibilityState) {
    document.visibilityState = visibilityState
    document.dispatchEvent(new Event("visibilitychange"))
  },
  leave: (_, persisted) => dispatchEvent(Object.assign(new Event("pagehide"), { persisted })),
  gc: () => globalThis.gc(),
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, session: name, do: doing } = JSON.parse(line)
  let error
  try {
    for (const [step, ...args] of doing) steps[step](name, ...args)
  } catch (caught) {
    error = `${caught.name}: ${caught.message}`
  }
  tell({ id, error, state: STATES[sessions.get(name)?.state], heap: process.memoryUsage().heapUsed })
}
// Stdin has ended: the process ends by itself if nothing is left.
