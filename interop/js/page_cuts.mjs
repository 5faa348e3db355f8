// The page of ../test_page_cuts.py: a `Client` that calls and is called, while its connection is cut.
//
//   node --expose-gc page_cuts.mjs URL json|msgpack SEED
//
// Commands are lines of JSON on stdin, `{command, id, ...}`, each answered by `{id, ok}`. Other lines tell of what
// happens: `{attempt, via}` to connect, `{status}`, `{fault}` that nobody has caught. The program ends by itself after
// `close`.

import { createInterface } from "node:readline"

import { WebSocket } from "ws"

import { Client } from "../../wsrpc/browser/client.js"
import { msgpack } from "../../wsrpc/browser/msgpack.js"
import { Dice } from "./page_cuts_dice.mjs"
import { Callers, Handled, turns } from "./page_cuts_traffic.mjs"

const [url, codec, seed] = process.argv.slice(2)
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n")
process.on("unhandledRejection", (error) => say({ fault: String(error?.stack ?? error) }))
process.on("uncaughtException", (error) => say({ fault: String(error?.stack ?? error) }))

// Node has no events of a page. With these, a test can say that the network is back. (It is no `EventTarget`: Node's may
// forget, after a garbage collection, which listeners a signal removes.)
const online = new Set()
globalThis.addEventListener = (type, listener, { signal }) => {
  if (type !== "online") return
  online.add(listener)
  signal.addEventListener("abort", () => online.delete(listener))
}

const dice = new Dice(Number(seed))
// The client waits a random part of a time that grows with each failure: here at most 12 ms.
Math.random = () => dice.next() * 0.0004

let via = url
let attempts = 0

async function target() {
  const attempt = ++attempts
  const way = via
  say({ attempt, via: way })
  if (dice.below(2)) await turns(dice.below(3))
  return { url: `${way}?attempt=${attempt}`, token: `token-${attempt}` }
}

const client = new Client(target, {
  WebSocket,
  offline: 100_000,
  requestTimeout: 0,
  ...(codec === "msgpack" ? { codec: msgpack } : {}),
})
client.status.subscribe((status) => say({ status }))
const handled = new Handled(client, dice)
const callers = new Callers(client, dice, () => attempts)

let ticks = 0
client.on("echo", (text) => text)
client.on("tick", () => void ticks++)

/** Calls and emits, with so many messages, of which 64 are on their way; or fewer, if there are only so many a second. */
async function flood(messages, perSecond = Infinity) {
  const began = performance.now()
  let sent = 0
  const work = async () => {
    while (sent < messages) {
      const number = sent++
      const early = (1000 * number) / perSecond - (performance.now() - began)
      if (early > 0) await new Promise((resolve) => setTimeout(resolve, early))
      if (number % 4 === 0) client.emit("tick", number)
      else if ((await client.request("echo", `text ${number}`)) !== `text ${number}`) throw new Error("a wrong answer")
    }
  }
  await Promise.all(Array.from({ length: 64 }, work))
}

const commands = {
  /** The network is back: the page leaves the connection that it has. */
  wake({ url: next }) {
    via = next ?? via
    for (const listener of [...online]) listener()
  },
  /** Begins to call, with so many callers. */
  call({ callers: number }) {
    handled.calm = callers.calm = false
    callers.start(number)
  },
  /** End what has no end of its own. */
  release: () => handled.release(),
  /** Begins nothing more, and waits until everything has ended. */
  async calm() {
    handled.calm = callers.calm = true
    handled.release()
    await callers.ended()
  },
  /** One event, which is the last, and one request. */
  last: () => callers.last(),
  /** What has happened since the last time, as the application saw it. */
  seen: () => ({ ...callers.take(), ...handled.take(), ignored: client.ignored }),
  /**
   * How many calls of either direction, and channels, something still refers to, and how many listen to the page. The
   * client and its socket do.
   */
  async left() {
    for (let round = 0; round < 3; round++) {
      await turns(3)
      gc()
    }
    return callers.alive() + handled.alive() + online.size
  },
  flood: ({ messages, per_second }) => flood(messages, per_second),
  ticks: () => ticks,
  /** Bytes of the heap, without garbage. */
  async heap() {
    for (let round = 0; round < 4; round++) {
      await turns(3)
      gc()
    }
    return process.memoryUsage().heapUsed
  },
  close() {
    client.close()
    process.stdin.unref() // nothing is left that keeps the program alive
  },
}

const input = createInterface({ input: process.stdin })
input.on("line", async (line) => {
  const { command, id, ...fields } = JSON.parse(line)
  try {
    say({ id, ok: (await commands[command](fields)) ?? null })
  } catch (error) {
    say({ id, error: { message: String(error?.stack ?? error) } })
  }
})
input.on("close", () => client.close())
