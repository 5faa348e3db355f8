// Messages that were typed and not answered yet. They outlive the connection, the server and a reload of the page.

import { isLoss } from "./connection.js"
import { load, save } from "./storage.js"

/** An entry is {id, room, text, error}. It has `error` if the server refused it. */
export class Outbox {
  entries = load("outbox", [])
  #client
  #delivering = false

  constructor(client) {
    this.#client = client
  }

  add(entry) {
    this.entries.push(entry)
    save("outbox", this.entries)
  }

  remove(id) {
    this.entries = this.entries.filter((entry) => entry.id !== id)
    save("outbox", this.entries)
  }

  /**
   * Sends the entries in order, one after another. An entry without an answer is sent again in the next session; the
   * server knows its id. Calls `refused(entry)` if the server does not take an entry.
   */
  async deliver(refused) {
    if (this.#delivering) return // the loop that runs will come to new entries
    this.#delivering = true
    try {
      for (let entry; (entry = this.entries.find(({ error }) => !error)); ) {
        try {
          await this.#client.request("say", entry.room, entry.id, entry.text)
          this.remove(entry.id)
        } catch (error) {
          if (isLoss(error)) return
          if (!this.entries.includes(entry)) continue // the message was said, and removed meanwhile
          entry.error = error.message
          save("outbox", this.entries)
          refused(entry)
        }
      }
    } finally {
      this.#delivering = false
    }
  }
}
