// What was typed and not yet answered for. It outlives the connection, the server and a reload of the page.

import { ConnectionLost } from "./connection.js"
import { load, save } from "./storage.js"

/** An entry is {id, room, text, error}; with `error`, the server has refused it. */
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
   * Sends what waits for rooms that are joined, in order, one after the other. What got no answer, perhaps because only
   * that was lost, is sent again on the next connection: its id tells the server. `said(message)` and
   * `refused(entry)` tell how it went.
   */
  async deliver({ isJoined, said, refused }) {
    if (this.#delivering) return // its loop comes to what was added, too
    this.#delivering = true
    try {
      for (let entry; (entry = this.entries.find(({ room, error }) => !error && isJoined(room))); ) {
        try {
          const message = await this.#connection.request("say", entry.room, entry.id, entry.text)
          this.remove(entry.id)
          said(message)
        } catch (error) {
          if (error instanceof ConnectionLost) return
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
