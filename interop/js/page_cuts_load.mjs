// What a page calls while its server is killed: the handlers of tests/faults/mortal_server.py.

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
  #workers

  constructor(client, dice) {
    this.#client = client
    this.#dice = dice
    client.on("negate", (number) => -number)
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

  async #work(kind, ask) {
    while (!this.#over) {
      const number = ++this.#number
      let how = "value"
      try {
        const answer = await ask(number)
        if (answer !== -number) how = `a wrong answer: ${answer}`
      } catch (error) {
        how = error instanceof ConnectionLost ? error.outcome : `an error: ${error?.stack ?? error}`
      }
      if (kind !== "event") this.#ends.push([number, kind, how])
      await turns(1 + this.#dice.below(8))
    }
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
