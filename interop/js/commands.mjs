// The commands of the agent that Node and a browser have in common. They are described in ../agents.py.

import { streamCommands } from "./streams.mjs"
import { decode, describe, encode } from "./values.mjs"

/** What not all libraries can, as the driver is told. */
export const abilities = (library) => [
  "middleware",
  "fields",
  "foreign",
  "codes",
  ...(typeof document === "undefined" ? ["binary"] : []),
  ...["cancels", "anonymous"].filter((ability) => library[ability]),
]

/** Functions by the name of the command; each is called with its fields. */
export function commandsOf({ library, journal, answers, peers }) {
  const cancellers = new Map() // ref of a request → its AbortController
  const toJson = (value) => encode(value, (item) => peers.channelKey(item))

  /** Sends one request; throws as the library does. */
  async function send({ peer, channel, event, timeout_ms, signal, cancel }, args) {
    const target = peers.channel(peer, channel)
    if (timeout_ms !== undefined) target.timeout(timeout_ms)
    if (signal) target.signal(signal)
    const controller = new AbortController()
    if (cancel !== undefined) target.signal(controller.signal)
    const answer = target.request(event, ...args)
    if (cancel !== undefined) controller.abort(cancel)
    return peers.adoptAnswer(await answer)
  }

  return {
    connect: ({ url, ...options }) => peers.connect(url, options),

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

    answer({ keys, fail = false }) {
      for (const key of keys) answers.give(key, fail)
    },

    ...streamCommands({ library, journal, peers, send, toJson }),

    abort_channel(command) {
      const { peer, channel } = command
      peers.channel(peer, channel).abort("reason" in command ? decode(command.reason) : undefined)
    },

    send_raw({ peer, data, binary = false }) {
      peers.get(peer).send(binary ? new TextEncoder().encode(data) : data)
    },

    close({ peer, code, reason }) {
      peers.get(peer).disconnect(code, reason)
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

    set(settings) {
      for (const name of Object.keys(settings)) {
        if (!(name in peers.settings)) throw new Error(`no setting '${name}'`)
      }
      Object.assign(peers.settings, settings)
    },
  }
}
