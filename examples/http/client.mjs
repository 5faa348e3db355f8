// Calls the server of docs/how-to/http.md from Node 18 or later, without packages: a call, an error, and a run.
//
//     node client.mjs [url]

import { randomUUID } from "node:crypto"

const url = process.argv[2] ?? "http://127.0.0.1:8000"
const headers = { Authorization: "Bearer t-4711", "Content-Type": "application/json" }

/** An error of the server. `code` is for programs. */
class Failed extends Error {
  constructor({ message, code, data }) {
    super(message)
    Object.assign(this, { code, data })
  }
}

/** Return the result of a call. `args` has the arguments by name. */
async function call(name, args) {
  const response = await fetch(`${url}/call/${name}`, { method: "POST", headers, body: JSON.stringify(args) })
  const body = await response.json()
  if (!response.ok) throw new Failed(body.error)
  return body
}

/** Yield the server-sent events of a response. `silent` ends it if no comment arrives, as every 15 seconds. */
async function* eventsOf(response, silent) {
  let text = ""
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    silent.refresh()
    const events = (text + piece).split("\n\n")
    text = events.pop()
    for (const event of events) yield Object.fromEntries(event.split("\n").map((line) => line.split(/: ?(.*)/s)))
  }
}

/** Yield the items of a run, which this starts or joins. After a drop, it continues where it was. */
async function* read(run, args) {
  let position = ""
  for (;;) {
    const cut = new AbortController()
    const silent = setTimeout(() => cut.abort(new TypeError("nothing arrives")), 30_000)
    try {
      const more = { method: "POST", headers: { ...headers, "Last-Event-ID": position }, signal: cut.signal }
      const response = await fetch(`${url}/runs/${run}`, { ...more, body: JSON.stringify(args) })
      if (response.status === 204) return
      if (response.status !== 429 && response.status < 502) {
        if (!response.ok) throw new Failed((await response.json()).error)
        for await (const { id, event, data } of eventsOf(response, silent)) {
          if (event === "end") return
          if (event === "cut") break
          if (event) throw new Failed(JSON.parse(data).error)
          if (data) yield JSON.parse(data)
          position = id ?? position
        }
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error // what fetch raises after a drop
    } finally {
      clearTimeout(silent)
    }
    await new Promise((resolve) => setTimeout(resolve, 1000))
  }
}

console.log(await call("add", { a: 2, b: 3 }))
await call("add", { a: 2, b: "x" }).catch((error) => console.log(error.code, error.data.parameter))
for await (const word of read(`answer/${randomUUID()}`, { question: "Why?" })) console.log(word)
