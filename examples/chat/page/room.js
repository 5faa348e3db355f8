// One room that the page has joined: its messages, its members, and who is typing.

import { ignoreLoss } from "./connection.js"
import { Log } from "./log.js"

const TYPING_ENDS = 6000 // milliseconds after the last event: the one who was typing may have lost the connection

/** Events: "change". */
export class Room extends EventTarget {
  unread = 0
  #client
  #room
  #me
  #typing = new Map() // name → timer
  #reading // the request for older messages that runs
  #complete = false // the first message is here
  #oldest // the number of a message

  constructor(name, client, me) {
    super()
    this.name = name
    this.log = new Log(name)
    this.#client = client
    this.#me = me
    // Joins now, and in each new session, and gets what was missed. The messages arrive as events "said".
    this.#room = client.room(name, { last: 50 })
    this.#room.present.subscribe(() => {
      this.#changed()
      this.readOlder()
    })
    this.log.addEventListener("top", () => this.readOlder())
  }

  /** The users who are in the room: `user` is a name, and `state` is "online" or "away". */
  get people() {
    return [...this.#room.present.get()].sort((a, b) => (a.user < b.user ? -1 : 1))
  }

  /** Whether messages are new ones. The first ones that arrive are those from the log of the room. */
  get isCurrent() {
    return this.people.length > 0
  }

  leave() {
    this.#room.leave()
    this.log.element.remove()
  }

  /** Adds messages, in any order. Returns whether one of them was not here. */
  add(messages) {
    for (const { number } of messages) this.#oldest = Math.min(this.#oldest ?? number, number)
    return this.log.add(messages, this.#me)
  }

  /** Starts again with the newest messages, because the log of the room has lost some. */
  restart() {
    this.#complete = false
    this.#reading = this.#oldest = undefined
    this.log.clear()
    this.readOlder()
  }

  /** Reads while the top is in view, so that a tall window gets filled. Before the room is joined, messages could be missed. */
  async readOlder() {
    if (this.#reading || this.#complete || this.#room.position === undefined || !this.log.topIsSeen) return
    const reading = (this.#reading = this.#client.request("history", this.name, this.#oldest))
    this.log.element.setAttribute("aria-busy", "true") // old messages are not announced by screen readers
    try {
      const messages = await reading
      if (this.#reading !== reading) return
      this.add(messages)
      this.#complete = messages.length === 0
      this.log.older.textContent = this.#complete ? `This is where ${this.name} begins.` : "Loading…"
    } catch (error) {
      ignoreLoss(error)
      return
    } finally {
      if (this.#reading === reading) this.#reading = undefined
      this.log.element.removeAttribute("aria-busy")
    }
    this.readOlder()
  }

  setTyping(name, active) {
    clearTimeout(this.#typing.get(name))
    if (active) this.#typing.set(name, setTimeout(() => this.setTyping(name, false), TYPING_ENDS))
    else if (!this.#typing.delete(name)) return
    this.#changed()
  }

  get typing() {
    const names = [...this.#typing.keys()]
    if (names.length === 0) return ""
    if (names.length > 3) return "Several people are typing…"
    return `${new Intl.ListFormat("en").format(names)} ${names.length === 1 ? "is" : "are"} typing…`
  }

  #changed() {
    this.dispatchEvent(new Event("change"))
  }
}
