// The agent's commands on streams and uploads.

import { readItems, sendItems } from "./by_hand.mjs"
import { decode, describe } from "./values.mjs"

/** `send(fields, args)` sends a request; `toJson(value)` is for what the driver is told. */
export function streamCommands({ library, journal, peers, send, toJson }) {
  const gates = new Map() // name → what opens it

  const open = async (fields, args) => {
    if (!library.anonymous) throw new Error(`${library.name} ${library.version} has no streams`)
    return send(fields, decode(args))
  }

  const held = (hold, peer, item) =>
    new Promise((resolve) => {
      gates.set(hold, resolve)
      journal.add({ kind: "held", peer, item: toJson(item) })
    })

  return {
    async iterate({ args = [], take, leave = "abort", reason = { $error: { message: "enough" } }, hold, ask, ...rest }) {
      const items = []
      const named = rest.event === undefined
      let channel, peer
      try {
        channel = named ? peers.channel(rest.peer, rest.channel) : await open(rest, args)
        peer = channel.get("index")
        for await (const item of channel) {
          items.push(toJson(item))
          if (hold !== undefined) await held(hold, peer, item)
          if (ask !== undefined) await peers.get(peer).request(ask, item, 1)
          if (items.length === take) break
        }
      } catch (error) {
        return { items, rejected: describe(error) }
      }
      // Neither coming to the end nor breaking off closes a channel in this library; its documentation says to.
      if (named) return { items }
      if (items.length !== take) channel.close()
      else if (leave === "abort") channel.abort(decode(reason))
      return { items }
    },

    async read({ args = [], take, hold, ask, ...rest }) {
      const items = []
      try {
        const channel = await open(rest, args)
        const peer = channel.get("index")
        await readItems(channel, async (item) => {
          items.push(toJson(item))
          if (hold !== undefined) await held(hold, peer, item)
          if (ask !== undefined) await peers.get(peer).request(ask, item, 1)
          if (items.length === take) throw new Error("enough")
        })
      } catch (error) {
        return { items, rejected: describe(error) }
      }
      return { items }
    },

    produce({ peer, channel, n }) {
      const place = peers.channel(peer, channel)
      place.on("start", () => {
        for (let k = 0; k < n; k++) place.emit("next", { value: k, done: false })
        place.emit("next", { done: true })
      })
    },

    release({ hold }) {
      if (!gates.has(hold)) throw new Error(`nothing is held by '${hold}'`)
      gates.get(hold)()
      gates.delete(hold)
    },

    async upload({ args = [], n, ...rest }) {
      const channel = await open(rest, args)
      const peer = channel.get("index")
      let sent = 0
      const numbers = function* () {
        while (n === undefined || sent < n) {
          journal.add({ kind: "sent", peer, item: sent })
          yield sent++
        }
      }
      try {
        return { resolved: toJson(await sendItems(channel, numbers())), sent }
      } catch (error) {
        return { rejected: describe(error), sent }
      } finally {
        channel.close()
      }
    },

    async exchange({ args = [], n, ...rest }) {
      const channel = await open(rest, args)
      const sending = sendItems(channel, Array(n).keys())
      const items = []
      try {
        for await (const item of channel) items.push(toJson(item))
        await sending
        return { items }
      } catch (error) {
        return { items, rejected: describe(error) }
      } finally {
        channel.close()
      }
    },
  }
}
