// A page that reads a stream, and notes the states of its client and the events of the page.
// Reconnecting takes hours, unless something wakes the client.

import { Client } from "/wsrpc/client.js"

export async function begin() {
  const client = new Client("/ws")
  const noted = { states: [], items: [], events: [], end: null }
  client.status.subscribe((state) => state !== noted.states.at(-1) && noted.states.push(state))
  for (const type of ["freeze", "resume"]) document.addEventListener(type, () => noted.events.push(type))
  addEventListener("pageshow", ({ persisted }) => persisted && noted.events.push("restored"))
  const read = async () => {
    for await (const item of client.stream("steps")) noted.items.push(item)
  }
  read().catch((error) => (noted.end = [error.name, error.outcome]))
  await client.request("ready")
  Math.random = () => 10_000
  Object.assign(globalThis, { client, noted })
}
