// What a page does on bad networks, in Node and in a browser: ../bad_networks.py says what each use has to come to.

const random = Math.random

function* pieces(size) {
  for (let sent = 0; sent < size; sent += 10_000) yield new Uint8Array(10_000)
}

async function rows(items) {
  const numbers = []
  for await (const row of items) numbers.push(parseInt(row))
  return numbers
}

/** Returns all numbers that the page has heard. */
async function hear(client, heard, sent, many) {
  const numbers = []
  const complete = new Promise((resolve) => client.on(heard, (n) => numbers.push(n) >= many && resolve()))
  for (let n = 0; n < many; n++) client.emit(sent, n)
  await complete
  await USES.first_call(client) // what was doubled has arrived before the answer
  return numbers
}

const USES = {
  first_call: (client) => client.request("add", -1, 1),
  async small_calls(client, { many }) {
    const sums = []
    for (let n = 0; n < many / 5; n++) sums.push(await client.request("add", n, 1))
    return sums
  },
  large_result: async (client, { large }) => (await client.request("get", large)).length,
  large_argument: (client, { large }) => client.request("take", "x".repeat(large)),
  upload: (client, { upload }) => client.upload("store", pieces(upload)),
  stream: (client, { many }) => rows(client.stream("rows", many)),
  events: (client, { many }) => hear(client, "told", "tell", many),
  keyed_stream: (client, { many }) => rows(client.with({ key: "k" }).stream("rows", many)),
  async room(client, { many }) {
    const room = client.room("lobby")
    while (room.position === undefined) await new Promise((resolve) => setTimeout(resolve, 10))
    const numbers = await hear(client, "said", "say", many)
    return numbers.sort((a, b) => a - b) // the handlers of `say` run at the same time
  },
}

/**
 * Plays the uses that have URLs at the same time. Returns what each caller has seen, and the seconds that it took.
 *
 * @param greets whether a session begins with a request that may be repeated
 * @param faster how much less than usual the client waits before it dials
 */
export async function play(Client, msgpack, { urls, greets, faster, WebSocket, ...sizes }) {
  Math.random = () => random() / faster
  const one = async ([use, url]) => {
    const began = performance.now()
    const codec = use === "upload" ? { codec: msgpack } : {}
    const client = new Client(url, { requestTimeout: 0, ...codec, ...(WebSocket && { WebSocket }) })
    if (greets) await client.with({ retry: "idempotent" }).request("greet")
    const seen = await USES[use](client, sizes)
    const seconds = (performance.now() - began) / 1000
    client.close()
    return [use, [seen, seconds]]
  }
  return Object.fromEntries(await Promise.all(Object.entries(urls).map(one)))
}
