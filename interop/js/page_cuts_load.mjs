// What a page calls while its server is killed: the handlers of mortal_server.py.

import { setTimeout as after } from "node:timers/promises"

import { ConnectionLost } from "../../wsrpc/browser/client.js"
import { turns } from "./page_cuts_traffic.mjs"

/** Calls that a client makes until it is told to stop. Each has a number of its own, which servers write down. */
export class Load {
  #client
  #dice
  #over = false
  #number = 0
  #ends = []
  #emitted = []
  #items = 0
  #answered = 0
  #held
  #workers

  constructor(client, dice) {
    this.#client = client
    this.#dice = dice
    client.on("negate", (number) => -number)
    client.on("held", () => this.#held())
    const retry = client.with({ retry: true })
    const idempotent = client.with({ retry: "idempotent" })
    const asks = {
      "at once": (number) => client.request("at_once", number),
      later: (number) => client.request("later", number),
      "asks back": (number) => client.request("ask_back", number),
      retry: (number) => retry.request("later", number),
      idempotent: (number) => idempotent.request("later", number),
      stream: (number) => this.#read(number),
      // What waits for another session, and was neither lost nor sent.
      event: (number) => this.#emit(number),
    }
    this.#workers = Object.entries(asks).flatMap(([kind, ask]) => [1, 2, 3, 4].map(() => this.#work(kind, ask)))
  }

  /** Begins nothing new, and waits for what goes on. */
  async stop() {
    this.#over = true
    await Promise.all(this.#workers)
    return { ends: this.#ends, emitted: this.#emitted, items: this.#items }
  }

  /** Waits until more calls are answered, items read, and events sent. */
  async more() {
    const counts = () => [this.#answered, this.#items, this.#emitted.length]
    const before = counts()
    while (counts().some((now, which) => now === before[which])) await after(5)
  }

  /** Makes a call that runs until the server is killed. Returns once it runs. */
  async hold() {
    const runs = new Promise((resolve) => (this.#held = resolve))
    this.#workers.push(this.#ask("hold", (number) => this.#client.request("hold", number)))
    await runs
  }

  async #work(kind, ask) {
    while (!this.#over) {
      await this.#ask(kind, ask)
      await turns(1 + this.#dice.below(8))
    }
  }

  async #ask(kind, ask) {
    const number = ++this.#number
    let how = "value"
    try {
      const answer = await ask(number)
      if (answer !== -number) how = `a wrong answer: ${answer}`
      this.#answered++
    } catch (error) {
      how = error instanceof ConnectionLost ? error.outcome : `an error: ${error?.stack ?? error}`
    }
    if (kind !== "event") this.#ends.push([number, kind, how])
  }

  async #read(number) {
    let expected = 0
    try {
      for await (const item of this.#client.stream("count", number)) {
        if (item !== expected) throw new Error(`item ${item} came instead of ${expected}`)
        expected++
        this.#items++
        if (this.#over) break
      }
    } catch (error) {
      // Once an item has come the handler has run, and the loss says nothing of that.
      if (!expected || !(error instanceof ConnectionLost)) throw error
    }
    return -number
  }

  async #emit(number) {
    this.#emitted.push(number)
    this.#client.emit("event", number)
    await this.#client.request("at_once", 0).catch(() => {})
    return -number
  }
}
