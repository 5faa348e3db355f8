// Messages that were typed and not answered yet. They outlive the connection, the server and a reload of the page.

import { isLoss } from "./connection.js"
import { load, save } from "./storage.js"

/** An entry is {id, room, text, error}. It has `error` if the server refused it. */
export class Outbox {
  entries = load("outbox", [])
  #connection
  #delivering = false

  constructor(connection) {
    this.#connection = connection
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
   * Sends the entries of joined rooms in order, one after another. An entry without an answer is sent again in the next
   * session; if only the answer was lost, the server knows its id. Calls `said(message)` or `refused(entry)` for
   * each answer.
   */
  async deliver({ isJoined, said, refused }) {
    if (this.#delivering) return // the loop that runs will come to new entries
    this.#delivering = true
    try {
      for (let entry; (entry = this.entries.find(({ room, error }) => !error && isJoined(room))); ) {
        try {
          const message = await this.#connection.client.request("say", entry.room, entry.id, entry.text)
          this.remove(entry.id)
          said(message)
        } catch (error) {
          if (isLoss(error)) return
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
