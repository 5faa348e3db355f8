// A ws-wrapper peer in either role, driven by JSON lines. The commands are described in ../agents.py.
//
//   node agent.mjs --library ws-wrapper | ws-server-wrapper | ws-wrapper-4 | plain-4

import { createInterface } from "node:readline"
import { parseArgs } from "node:util"

import { WebSocket, WebSocketServer } from "ws"

import { Answers } from "./answers.mjs"
import { abilities, commandsOf } from "./commands.mjs"
import { Journal } from "./journal.mjs"
import { loadLibrary } from "./library.mjs"
import { Peers } from "./peers.mjs"
import { describe } from "./values.mjs"

const WIRE = { perMessageDeflate: false }

const { values: options } = parseArgs({ options: { library: { type: "string" } } })

const write = (line, then) => process.stdout.write(JSON.stringify(line) + "\n", then)

// A library that loses a rejection is something to see in a test, not the end of the agent.
process.on("unhandledRejection", (reason) => write({ log: "unhandled rejection", reason: describe(reason) }))

function dial(url, { protocols, sync = true }) {
  const socket = new WebSocket(url, protocols, { allowSynchronousEvents: sync, ...WIRE })
  const opened = new Promise((resolve, reject) => {
    socket.once("open", resolve)
    socket.once("error", reject)
  })
  return { socket, opened }
}

const library = await loadLibrary(options.library)
const journal = new Journal()
const answers = new Answers()
const peers = new Peers(library, journal, answers, dial)

const commands = {
  ...commandsOf({ library, journal, answers, peers }),

  async listen({ port = 0, path, keep = false }) {
    const server = new WebSocketServer({ host: "127.0.0.1", port, path, ...WIRE })
    await new Promise((resolve, reject) => {
      server.once("listening", resolve)
      server.once("error", reject)
    })
    if (library.ServerWrapper) {
      if (keep) throw new Error(`${library.name} makes its wrappers itself`)
      peers.take(new library.ServerWrapper(server, peers.options))
    } else {
      let kept
      server.on("connection", (socket) => {
        if (kept) return kept.bind(socket)
        const wrapper = peers.wrap(socket)
        if (keep) kept = wrapper
      })
    }
    const bound = server.address().port
    return { port: bound, url: `ws://127.0.0.1:${bound}${path ?? ""}` }
  },

  terminate({ peer }) {
    peers.get(peer).socket.terminate()
  },
}

async function obey(line) {
  const { id, command, ...fields } = JSON.parse(line)
  if (command === "exit") return write({ id, ok: null }, () => process.exit(0))
  try {
    if (!Object.hasOwn(commands, command)) throw new Error(`no command '${command}'`)
    write({ id, ok: (await commands[command](fields)) ?? null })
  } catch (error) {
    write({ id, error: describe(error) })
  }
}

const input = createInterface({ input: process.stdin, crlfDelay: Infinity })
input.on("line", obey)
input.on("close", () => process.exit(0))
write({ ready: { library: library.name, version: library.version, can: abilities(library) } })
