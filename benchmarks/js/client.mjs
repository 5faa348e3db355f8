// A client on Node: `node client.mjs KIND PORT`. Each line on stdin, {warm, seconds}, is answered by a line with what it
// has measured in so many seconds, with 64 requests pending at any time.
import { createRequire } from "node:module"
import { createInterface } from "node:readline"
import { pathToFileURL } from "node:url"

const PENDING = 64
const require = createRequire(new URL("../../interop/js/package.json", import.meta.url))
const ours = (name) => import(new URL(`../../wsrpc/browser/${name}.js`, import.meta.url))
const { WebSocket } = require("ws")
const [kind, port] = process.argv.slice(2)
const url = `ws://127.0.0.1:${port}/`

class Plain extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { perMessageDeflate: false })
  }
}

async function client(options) {
  const { Client } = await ours("client")
  const client = new Client(url, { WebSocket: Plain, ...options })
  return () => client.request("add", 1, 2)
}

async function wrapper(socket) {
  const { default: WebSocketWrapper } = await import(pathToFileURL(require.resolve("ws-wrapper")))
  const wrapper = new WebSocketWrapper(socket)
  return () => wrapper.request("add", 1, 2)
}

/** Each connects, and returns a function that sends a request. */
const KINDS = {
  client: () => client({}),
  "client-msgpack": async () => client({ codec: (await ours("msgpack")).msgpack }),
  "ws-wrapper": () => wrapper(new Plain(url)),
  async "socket.io"() {
    const { io } = require("socket.io-client")
    const socket = io(`http://127.0.0.1:${port}`, { transports: ["websocket"] })
    await new Promise((resolve) => socket.on("connect", resolve))
    return () => socket.emitWithAck("add", 1, 2)
  },
}

const add = await KINDS[kind]()
if ((await add()) !== 3) throw new Error("a wrong answer")

async function measure({ warm, seconds }) {
  let answers = 0
  let wrong = 0
  let over = false
  const work = async () => {
    while (!over) {
      if ((await add()) !== 3) wrong++
      answers++
    }
  }
  const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds))
  const workers = Array.from({ length: PENDING }, work)
  await sleep(warm)
  const [before, began, cpu] = [answers, performance.now(), process.cpuUsage()]
  await sleep(seconds)
  while (answers === before) await sleep(0.01) // a machine that is busy answers later
  const { user, system } = process.cpuUsage(cpu)
  const sample = { answers: answers - before, seconds: (performance.now() - began) / 1000, cpu: (user + system) / 1e6 }
  over = true
  await Promise.all(workers)
  return { ...sample, wrong }
}

const lines = createInterface({ input: process.stdin })
lines.on("line", async (line) => console.log(JSON.stringify(await measure(JSON.parse(line)))))
// The end of stdin means that the program that started this has gone.
lines.on("close", () => process.exit(0))
console.log("ready")
