// What the page of page_cuts.mjs calls and handles, and what it saw: the counterpart of tests/traffic.py, whose handlers
// it calls, and whose callers its handlers serve.

import { Aborted, ConnectionLost, RemoteError, RequestTimeout } from "../../wsrpc/browser/client.js"

const MANY = 1_000_000
const ENDLESS = ["download", "plain"]

export async function turns(number) {
  for (let turn = 0; turn < number; turn++) await new Promise(setImmediate)
}

/** Objects that should be freed: of what was weakly referred to, how many are still there. */
class Alive {
  #references = []

  add(object) {
    this.#references.push(new WeakRef(object))
    return object
  }

  count() {
    this.#references = this.#references.filter((reference) => reference.deref())
    return this.#references.length
  }
}

function check(holds, text) {
  if (!holds) throw new Error(text)
}

function* sequence(size) {
  for (let item = 0; item < size; item++) yield item
}

async function inOrder(items, each) {
  let expected = 0
  for await (const item of items) {
    check(item === expected, `item ${item} came instead of ${expected}`)
    expected++
    if (each && !(await each(item))) break
  }
  return expected
}

/** How a call has ended. */
function howOf(error) {
  if (error instanceof ConnectionLost) return error.outcome
  if (error instanceof Aborted || error instanceof RequestTimeout) {
    return error.outcome === "not_sent" ? "not_sent" : "cancelled"
  }
  return `an error: ${error?.stack ?? error}`
}

export class Callers {
  calm = true
  #client
  #dice
  #workers = []
  #number = 0
  #begun = 0
  #ends = []
  #notes = 0
  #news = {}
  #session
  #sources = { begun: 0, left: 0 }
  #alive = new Alive()

  /** @param session names the session that there is */
  constructor(client, dice, session) {
    this.#client = client
    this.#dice = dice
    this.#session = session
    client.on("news", (number) => (this.#news[this.#session()] ??= []).push(number))
  }

  start(number) {
    this.#workers = Array.from({ length: number }, () => this.#work())
  }

  async ended() {
    await Promise.all(this.#workers)
  }

  async last() {
    this.#client.emit("note", this.#notes++, "")
    return await this.#call("request")
  }

  take() {
    const taken = { begun: this.#begun, ends: this.#ends, notes: this.#notes, news: this.#news, sources: this.#sources }
    this.#begun = 0
    this.#ends = []
    this.#news = {}
    return taken
  }

  alive() {
    return this.#alive.count()
  }

  async #work() {
    while (!this.calm) {
      for (let count = this.#dice.below(4); count > 0; count--) {
        this.#client.emit("note", this.#notes++, "x".repeat(this.#dice.below(100)))
      }
      await this.#call(this.#dice.choice(WAYS))
      await turns(this.#dice.below(3))
    }
  }

  /** Calls to the end, which it returns. */
  async #call(name) {
    const n = this.#number++
    this.#begun++
    let how = "value"
    try {
      await this[name](n)
    } catch (error) {
      how = howOf(error)
    }
    this.#ends.push([n, name, how])
    return how
  }

  #with(options = {}) {
    const { signal } = this.#alive.add(new AbortController())
    this.#alive.add(signal)
    return this.#client.with({ signal, ...options })
  }

  /** A caller whose calls are aborted after some turns. */
  #withAbort() {
    const controller = this.#alive.add(new AbortController())
    void turns(this.#dice.below(30)).then(() => controller.abort("enough"))
    return this.#client.with({ signal: this.#alive.add(controller.signal) })
  }

  #size() {
    return this.#dice.choice([0, 1, 10, 300])
  }

  async *#source(size) {
    this.#sources.begun++
    try {
      yield* sequence(size)
    } finally {
      this.#sources.left++
    }
  }

  async request(n) {
    const pad = "é".repeat(this.#dice.below(150))
    check((await this.#with().request(this.#dice.choice(["now", "later"]), n, pad)) === n, "a wrong answer")
  }

  async park(n) {
    check((await this.#with().request("park", n, "")) === n, "a wrong answer")
  }

  async cancel(n) {
    check((await this.#withAbort().request("wait", n)) === n, "a wrong answer")
  }

  async expire(n) {
    check((await this.#with({ timeout: 1 + this.#dice.below(10) }).request("wait", n)) === n, "a wrong answer")
  }

  async download(n) {
    const size = this.#size()
    const stream = this.#alive.add(this.#with().stream("download", n, size))
    check((await inOrder(stream)) === size, "items are missing")
  }

  async breakOff(n) {
    const enough = this.#dice.below(600)
    const stream = this.#alive.add(this.#with().stream(this.#dice.choice(ENDLESS), n, MANY))
    await inOrder(stream, (item) => item < enough && !this.calm)
  }

  async abortStream(n) {
    await inOrder(this.#alive.add(this.#withAbort().stream(this.#dice.choice(ENDLESS), n, MANY)))
    throw new Error("a stream without an end has ended")
  }

  async fails(n) {
    const items = this.#with().stream("fails", n)
    check((await items.next()).value === 0, "a wrong item")
    try {
      await items.next()
    } catch (error) {
      if (error instanceof RemoteError && error.code === "broken") return
      throw error
    }
    throw new Error("it has not failed")
  }

  async upload(n) {
    const size = this.#size()
    check((await this.#with().upload("upload", this.#source(size), n)) === size, "a wrong sum")
  }

  async abortUpload(n) {
    await this.#withAbort().upload("swallow", this.#source(MANY), n)
    throw new Error("an upload without an end has ended")
  }

  /** The handler has enough after a while. */
  async uploadTooMuch(n) {
    check((await this.#with().upload("taste", this.#source(MANY), n)) === 20, "a wrong sum")
  }

  async converse(n) {
    const channel = this.#alive.add(await this.#with().open("talk", n))
    await sinceItIsOpen(async () => {
      const echoes = []
      let wake = () => {}
      channel.on("echo", (word) => (echoes.push(word), wake()))
      const closed = channel.closed.then((error) => {
        throw error ?? new Error("the channel has ended")
      })
      closed.catch(() => {})
      for (let word = 0, words = this.#dice.choice([0, 1, 20]); word < words; word++) {
        channel.emit("word", word)
        while (!echoes.length) await Promise.race([closed, new Promise((resolve) => (wake = resolve))])
        check(echoes.shift() === word, "a wrong word")
      }
      channel.close()
    })
  }

  async askOnAChannel(n) {
    const channel = this.#alive.add(await this.#with().open("returned", n))
    await sinceItIsOpen(async () => {
      for (let count = this.#dice.below(4); count > 0; count--) {
        check((await channel.request("more", count)) === count + 1, "a wrong answer")
      }
      channel.close()
    })
  }
}

const WAYS = [
  ...["request", "request", "request", "request", "park", "cancel", "cancel", "expire", "download", "breakOff"],
  ...["abortStream", "fails", "upload", "abortUpload", "uploadTooMuch", "converse", "askOnAChannel"],
]

/** The outcome of one message on a channel says nothing of the handler, which runs. */
async function sinceItIsOpen(run) {
  try {
    return await run()
  } catch (error) {
    throw error instanceof ConnectionLost ? new ConnectionLost(error.message, "unknown", error.code) : error
  }
}

export class Handled {
  calm = true
  #dice
  #ran = {}
  #running = new Set()
  #notes = {}
  #parked = new Set()
  #alive = new Alive()

  constructor(client, dice) {
    this.#dice = dice
    const notes = this.#notes
    client.on("note", (session, number) => (notes[session] ??= []).push(number))
    const { park } = this
    const later = async (n) => (await turns(n % 8), n)
    const handlers = {
      now: (n) => n,
      later,
      park: (n) => park.call(this, n),
      download: this.#download,
      plain: (n, size) => sequence(size),
      async *fails() {
        yield 0
        throw Object.assign(new Error("broken"), { code: "broken" })
      },
      upload: (n, call) => inOrder(call.items()),
      async talk(n, call) {
        const channel = call.channel()
        channel.on("word", (word) => channel.emit("echo", word))
        await channel.closed
      },
      async returned(n, call) {
        const channel = call.channel()
        channel.on("more", (number) => number + 1)
        await channel.closed
      },
    }
    for (const [name, handler] of Object.entries(handlers)) this.#serve(client, name, handler)
  }

  release() {
    for (const release of this.#parked) release()
    this.#parked.clear()
  }

  take() {
    const taken = { ran: this.#ran, running: [...this.#running], noted: { ...this.#notes } }
    this.#ran = {}
    for (const session of Object.keys(this.#notes)) delete this.#notes[session]
    return taken
  }

  alive() {
    return this.#alive.count()
  }

  async park(n) {
    if (!this.calm) await new Promise((resolve) => this.#parked.add(resolve))
    return n
  }

  async *#download(n, size) {
    for (let item = 0; item < size; item++) {
      if (item % 8 === n % 8) await turns(1)
      yield item
    }
  }

  #serve(client, name, handler) {
    const handled = this
    client.on(name, function (n, ...args) {
      handled.#alive.add(this)
      handled.#ran[n] = (handled.#ran[n] ?? 0) + 1
      handled.#running.add(n)
      const over = () => handled.#running.delete(n)
      let result
      try {
        result = handler(n, ...args, this)
      } catch (error) {
        over()
        throw error
      }
      if (typeof result?.next === "function") {
        over()
        return whenLeft(result, () => handled.#running.add(n), over)
      }
      if (typeof result?.then !== "function") return over(), result
      return result.finally(over)
    })
  }
}

/** Returns the items, and tells when they are read and left. */
async function* whenLeft(items, begin, over) {
  begin()
  try {
    yield* items
  } finally {
    over()
  }
}
