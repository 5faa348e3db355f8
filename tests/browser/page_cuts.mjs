// Calls of every kind, by the page and by its server, whose connection is cut again and again. Both sides write down
// what they see, and the test compares it.

import { Aborted, Client } from "/wsrpc/client.js"
import { msgpack } from "/wsrpc/msgpack.js"

const CALLERS = 8
const random = Math.random // the client does without: it dials at once

const upTo = (most) => Math.floor(random() * most)
const turn = () => new Promise((resolve) => setTimeout(resolve))

function check(right, text) {
  if (!right) throw new Error(text)
}

async function checkOrder(items) {
  let n = 0
  for await (const item of items) check(item === n++, `item ${item} in place of ${n - 1}`)
  return n
}

function* numbers(count) {
  for (let n = 0; n < count; n++) yield n
}

/** The calls of the page: each returns how it has ended. `n` is the number of the call. */
const KINDS = {
  async request(client, n) {
    const pad = "x".repeat(upTo(2000))
    check((await client.request("later", n, pad)) === n, "a wrong answer")
  },
  async stream(client, n) {
    const size = upTo(2000)
    check((await checkOrder(client.stream("download", n, size))) === size, "a wrong number of items")
  },
  async leave(client, n) {
    for await (const item of client.stream("download", n, 1_000_000)) if (item === 100) break
  },
  async upload(client, n) {
    const size = upTo(2000)
    check((await client.upload("upload", numbers(size), n)) === size, "a wrong number of items")
  },
  async converse(client, n) {
    const channel = await client.open("talk", n)
    let heard = () => {}
    channel.on("echo", (word) => heard(word))
    for (const word of numbers(upTo(20))) {
      const echo = new Promise((resolve) => (heard = resolve))
      channel.emit("word", word)
      check((await echo) === word, "a wrong word")
    }
    check((await channel.request("ask", n)) === n, "a wrong answer on a channel")
    channel.close()
  },
  async cancel(client, n) {
    const controller = new AbortController()
    const parked = client.with({ signal: controller.signal }).request("park", n)
    setTimeout(() => controller.abort(), upTo(20))
    const error = await parked.then(
      () => undefined,
      (error) => error,
    )
    check(error instanceof Aborted, `${error}`)
    return error.outcome
  },
}

/** Begins the traffic. Returns a function that lets it end, and says what the page has seen. */
export async function begin(codec, dialed) {
  const target = () => (dialed(), "/ws")
  const client = new Client(target, { requestTimeout: 0, ...(codec === "msgpack" ? { codec: msgpack } : {}) })
  const seen = { ends: {}, ran: {}, news: 0, notes: 0, failures: [], states: {}, ignored: client.ignored }
  const run = (n) => (seen.ran[n] = (seen.ran[n] ?? 0) + 1)
  let waiting = 0 // notes since the connection dropped: more than 256 would be refused, however long it takes to dial
  client.status.subscribe((state) => {
    seen.states[state] = (seen.states[state] ?? 0) + 1
    waiting = state === "open" ? -Infinity : Math.max(waiting, 0) // an attempt that fails is told, too
  })

  client.on("news", (n) => n === seen.news++ || seen.failures.push(`news ${n} in place of ${seen.news - 1}`))
  client.on("later", async (n) => (run(n), await turn(), n))
  client.on("download", async function* (n, size) {
    run(n)
    for (const item of numbers(size)) {
      if (item % 64 === 0) await turn()
      yield item
    }
  })
  client.on("upload", function (n) {
    run(n)
    return checkOrder(this.items())
  })
  client.on("talk", async function (n) {
    run(n)
    const channel = this.channel()
    channel.on("word", (word) => channel.emit("echo", word))
    channel.on("ask", (value) => value)
    await channel.closed
  })
  client.on("park", function (n) {
    run(n)
    return new Promise((_, reject) => this.signal.addEventListener("abort", () => reject(this.signal.reason)))
  })

  let calm = false
  let calls = 0
  const call = async () => {
    const kinds = Object.keys(KINDS)
    while (!calm) {
      const n = calls++
      const kind = kinds[upTo(kinds.length)]
      await KINDS[kind](client, n).then(
        (end) => (seen.ends[n] = [kind, end ?? "value"]),
        (error) => seen.failures.push(`${kind} ${n}: ${error.stack}`),
      )
    }
  }
  const note = async () => {
    for (; !calm; await turn())
      for (let k = upTo(4); k && waiting++ < 100; k--) client.emit("note", seen.notes++, "x".repeat(upTo(100)))
  }

  await client.request("later", calls++, "")
  Math.random = () => 0
  const traffic = Promise.all([note(), ...Array.from({ length: CALLERS }, call)])
  globalThis.finish = async () => {
    calm = true
    await traffic
    await client.request("later", calls++, "") // events that were sent before have arrived
    return seen
  }
}
