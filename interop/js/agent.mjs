// A ws-wrapper peer in either role, driven by JSON lines. The commands are described in ../node.py.
//
//   node agent.mjs --library ws-wrapper | ws-server-wrapper | ws-wrapper-4 | plain-4

import { createInterface } from "node:readline"
import { parseArgs } from "node:util"

import { Answers } from "./answers.mjs"
import { Journal } from "./journal.mjs"
import { loadLibrary } from "./library.mjs"
import { loadCommand } from "./load.mjs"
import { Peers } from "./peers.mjs"
import { streamCommands } from "./streams.mjs"
import { decode, describe, encode } from "./values.mjs"

const { values: options } = parseArgs({ options: { library: { type: "string" } } })

const write = (line, then) => process.stdout.write(JSON.stringify(line) + "\n", then)

// A library that loses a rejection is something to see in a test, not the end of the agent.
process.on("unhandledRejection", (reason) => write({ log: "unhandled rejection", reason: describe(reason) }))

const library = await loadLibrary(options.library)
const journal = new Journal()
const answers = new Answers()
const peers = new Peers(library, journal, answers)
const cancellers = new Map() // ref of a request → its AbortController
const toJson = (value) => encode(value, (item) => peers.channelKey(item))

/** Sends one request; throws as the library does. */
async function send({ peer, channel, event, timeout_ms, signal }, args) {
  const target = peers.channel(peer, channel)
  if (timeout_ms !== undefined) target.timeout(timeout_ms)
  if (signal) target.signal(signal)
  return peers.adoptAnswer(await target.request(event, ...args))
}

const commands = {
  async listen({ port = 0, path, keep = false }) {
    const bound = await peers.listen(port, path, keep)
    return { port: bound, url: `ws://127.0.0.1:${bound}${path ?? ""}` }
  },

  connect: ({ url, headers, protocols, peer }) => peers.connect(url, { headers, protocols, peer }),

  emit({ peer, channel, event, args = [] }) {
    peers.channel(peer, channel).emit(event, ...decode(args))
  },

  async request({ args = [], ref, ...rest }) {
    const decoded = decode(args)
    const canceller = library.cancels && ref !== undefined ? new AbortController() : null
    if (canceller) cancellers.set(ref, canceller)
    try {
      const value = await send({ ...rest, signal: canceller?.signal }, decoded)
      return { resolved: value === undefined ? null : toJson(value), undefined: value === undefined }
    } catch (error) {
      return { rejected: describe(error) }
    } finally {
      if (canceller) cancellers.delete(ref)
    }
  },

  cancel(command) {
    if (!library.cancels) throw new Error(`${library.name} ${library.version} cannot cancel`)
    const canceller = cancellers.get(command.ref)
    if (!canceller) throw new Error(`no request under way with ref ${command.ref}`)
    canceller.abort("reason" in command ? decode(command.reason) : undefined)
  },

  async burst({ n, event = "add", concurrency = n, ...rest }) {
    const counts = { right: 0, wrong: 0, failed: 0, first_error: null }
    let next = 0
    const worker = async () => {
      while (next < n) {
        const k = next++
        try {
          const adds = event === "add"
          const answer = await send({ ...rest, event }, adds ? [k, 1] : [k])
          if (answer === (adds ? k + 1 : k)) counts.right++
          else counts.wrong++
        } catch (error) {
          counts.failed++
          counts.first_error ??= describe(error)
        }
      }
    }
    await Promise.all(Array.from({ length: Math.min(n, concurrency) }, worker))
    return counts
  },

  load: loadCommand(peers),

  answer({ keys, fail = false }) {
    for (const key of keys) answers.give(key, fail)
  },

  ...streamCommands({ library, journal, peers, send, toJson }),

  abort_channel(command) {
    const { peer, channel } = command
    peers.channel(peer, channel).abort("reason" in command ? decode(command.reason) : undefined)
  },

  close_channel({ peer, channel }) {
    peers.channel(peer, channel).close()
  },

  send_raw({ peer, data, binary = false }) {
    peers.get(peer).send(binary ? Buffer.from(data) : data)
  },

  close({ peer, code, reason }) {
    peers.get(peer).disconnect(code, reason)
  },

  terminate({ peer }) {
    peers.get(peer).socket.terminate()
  },

  state({ peer }) {
    if (peers.count === 0) return { peers: 0, connected: false, pending: null, active: null, channels: 0 }
    const wrapper = peers.get(peer)
    return {
      peers: peers.count,
      connected: Boolean(wrapper.isConnected),
      pending: wrapper.pendingRequestCount ?? null,
      active: wrapper.activeRequestCount ?? null,
      channels: peers.openChannels(wrapper.get("index")),
    }
  },

  events: ({ kind, peer, at_least }) => journal.take({ kind, peer, atLeast: at_least }),

  record({ event, channel, anonymous }) {
    peers.record(event, channel, anonymous)
  },

  set(settings) {
    for (const name of Object.keys(settings)) {
      if (!(name in peers.settings)) throw new Error(`no setting '${name}'`)
    }
    Object.assign(peers.settings, settings)
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
const can = ["cancels", "anonymous"].filter((ability) => library[ability])
write({ ready: { library: library.name, version: library.version, can } })
