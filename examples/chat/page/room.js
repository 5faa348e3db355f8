// One room that the page has joined: its messages, its members, and who is typing.

import { ignoreLoss } from "./connection.js"
import { readHistory } from "./history.js"
import { Log } from "./log.js"

const TYPING_ENDS = 6000 // milliseconds after the last event: the one who was typing may have lost the connection

/** Events: "change". */
export class Room extends EventTarget {
  people = []
  unread = 0
  #typing = new Map() // name → timer
  #connection
  #me
  #older = null // the history that the reader scrolls back through, while it is open
  #reading = false
  #complete = false // the first message is here
  #oldest = null // numbers of messages
  #newest = 0
  #upTo = 0 // no message up to this number is missing
  #joinedIn // the session in which the room was joined
  #current = false // whether new messages arrive without a gap

  /** `me` is a function that returns the user's name. */
  constructor(name, connection, me) {
    super()
    this.name = name
    this.log = new Log(name)
    this.#connection = connection
    this.#me = me
    this.log.addEventListener("top", () => this.#readOlder().catch(ignoreLoss))
  }

  /** Joins the room in a new session, and fetches the messages that were missed. */
  async enter() {
    this.#current = false
    this.#older = null // it ended with its session
    const { client, session } = this.#connection
    this.setPeople(await client.request("join", this.name))
    this.#joinedIn = session
    if (this.#upTo === 0) {
      this.#complete = false
      this.#oldest = null
      await this.#readOlder()
    } else {
      const missed = readHistory(this.#connection, this.name, { after: this.#upTo })
      for await (const messages of missed) this.add(messages)
    }
    this.#current = true
    this.#upTo = this.#newest
  }

  /** Whether the room is joined in the present session. */
  get isJoined() {
    return this.#joinedIn !== undefined && this.#joinedIn === this.#connection.session
  }

  async leave() {
    await this.#older?.return()
    await this.#connection.client.request("leave", this.name)
  }

  /** Adds messages, in any order; those that are here already are ignored. */
  add(messages) {
    for (const { number } of messages) {
      this.#newest = Math.max(this.#newest, number)
      this.#oldest = Math.min(this.#oldest ?? number, number)
    }
    if (this.#current) this.#upTo = this.#newest
    this.log.add(messages, this.#me())
  }

  /** Reads on while the top is in view, so that a tall window gets filled. */
  async #readOlder() {
    if (this.#reading || this.#complete || !this.isJoined) return
    this.#reading = true
    this.log.element.setAttribute("aria-busy", "true") // old messages are not announced by screen readers
    try {
      do {
        this.#older ??= readHistory(this.#connection, this.name, { before: this.#oldest })
        const { value, done } = await this.#older.next()
        this.#complete = done
        this.add(value ?? [])
      } while (!this.#complete && this.log.topIsSeen)
      this.log.older.textContent = this.#complete ? `This is where ${this.name} begins.` : "Loading…"
    } catch (error) {
      this.#older = null
      throw error
    } finally {
      this.#reading = false
      this.log.element.removeAttribute("aria-busy")
    }
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

  setPeople(names) {
    this.people = names
    for (const name of this.#typing.keys()) if (!names.includes(name)) this.setTyping(name, false)
    this.#changed()
  }

  #changed() {
    this.dispatchEvent(new Event("change"))
  }
}
