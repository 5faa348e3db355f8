// `Room`: a room of the server, which a page joins again in each new session.

import type { Channel } from "./api.js"
import type { ClientCore } from "./client_core.js"
import { ConnectionLost } from "./errors.js"
import { guarded, Handlers } from "./handlers.js"

/** A user in a room. */
export interface Present {
  /** The principal of the user's connections if it is text or a number, and otherwise the id of the connection. */
  readonly user: string | number
  /** `away`: no connection of the user is connected, and the grace time of the room is not over. */
  readonly state: "online" | "away"
  /** What the user's connections say of themselves: the `about` with which each of them has joined. */
  readonly about: readonly unknown[]
}

/** Options of `client.room`. */
export interface RoomOptions {
  /** How many events to get from the end of the room's log. Default: none. */
  readonly last?: number
  /** What this connection says of itself, for `about` of `Present`: at most 512 bytes. */
  readonly about?: unknown
}

/** A room of the server. The page joins it at once, and again in each new session, until it leaves. */
export class Room {
  declare readonly name: string
  /** The position of the last event that has arrived. Null if the room has no log. Undefined until the page has joined. */
  declare position: string | null | undefined
  /** Whether no event was missed, or the state has come that contains it. */
  complete = true
  /** Whether events that arrive are new. False while the page joins, and those from the log arrive. */
  live = false
  /** Whether the page has called `leave`. */
  isLeft = false
  /** Resolves when the page has joined, and the state and the events from the log have arrived. Rejects if it may not. */
  readonly ready: Promise<void>
  /** Why the server has refused the last join. */
  declare error: unknown
  /** The users in the room, for `useSyncExternalStore`. `get` returns the same array until something changes. */
  readonly present = {
    get: (): readonly Present[] => this.#list,
    subscribe: (subscriber: () => void): (() => void) => this.#handlers.add("presence", subscriber),
  }
  readonly #core: ClientCore
  readonly #channel: Pick<Channel, "on" | "request">
  #options: RoomOptions
  readonly #handlers = new Handlers()
  #finish!: (error?: unknown) => void
  /** Whether the event "missed" has come since the page has begun to join. */
  #isNotified = false
  readonly #users = new Map<unknown, Present>()
  readonly #stops: (() => void)[]
  #list: readonly Present[] = []

  constructor(core: ClientCore, channel: Pick<Channel, "on" | "request">, name: string, options: RoomOptions) {
    this.#core = core
    this.#channel = channel
    this.name = name
    this.#options = options
    core.rooms.set(name, this)
    this.ready = new Promise((resolve, reject) => {
      this.#finish = (error) => (error ? reject(error) : resolve())
    })
    this.ready.catch(() => {}) // `error` says it, too
    const on = (event: string, handle: (...args: any[]) => void) =>
      channel.on(event, (room, ...args) => {
        if (room === name && !this.isLeft) handle(...args)
      })
    this.#stops = [
      core.subscribe((state, resumed) => {
        if (state === "closed") this.#finish(core.error)
        if (state !== "open" || resumed || this.isLeft) return
        this.live = false
        void this.#join()
      }),
      on("missed", () => this.#miss()),
      on("state", (_, state) => {
        // Nobody needs to handle the state of the first join.
        if (this.position !== undefined && !this.#handlers.of("state").length) return this.#miss()
        this.complete = true
        this.#call("state", state)
      }),
      on("presence", (changes, isSnapshot) => this.#change(changes, isSnapshot)),
    ]
    if (core.state !== "connecting") void this.#join() // for a member, another join has no effect
  }

  async #join(): Promise<void> {
    const { position } = this
    this.#isNotified = false
    try {
      const answer = await this.#request()
      // Without a log, a later session misses events.
      if (!(answer?.complete ?? position === undefined) && !this.#isNotified) this.#miss()
    } catch (error) {
      if (error instanceof ConnectionLost) {
        if (this.#core.state === "closed") this.#finish(error)
        return // the page joins in the next session
      }
      this.#finish(error)
      if (this.isLeft) return
      this.error = error
      if (position === undefined) this.complete = false
      else this.#miss()
      this.#change([], true)
    }
  }

  /** Requests to join. For a member, this only changes what it says of itself. */
  async #request(): Promise<any> {
    const after = this.position ?? undefined
    const answer = await this.#channel.request("join", this.name, { ...this.#options, after })
    this.position ??= answer?.position ?? null // unless an event has arrived
    this.error = undefined
    if (!this.live) {
      this.live = true
      this.#call("live")
    }
    this.#finish()
    return answer
  }

  #miss(): void {
    this.#isNotified = true
    this.complete = false
    this.#call("missed")
  }

  #call(event: string, ...args: unknown[]): void {
    for (const handler of this.#handlers.of(event)) guarded(() => (handler as Function)(...args))
  }

  /**
   * Handles the state of a room with `state=`, which comes before the events that it does not contain, and comes again
   * after missed events; or what the page has to do if it has missed events without that; or that `live` is true.
   *
   * @returns a function that removes the handler
   */
  on(event: "state" | "missed" | "live", handler: (state: any) => void): () => void {
    return this.#handlers.add(event, handler)
  }

  /** Changes what this connection says of itself, for `about` of `Present`. Rejects if the server refuses it. */
  async setAbout(about: unknown): Promise<void> {
    const before = this.#options
    this.#options = { ...before, about }
    try {
      await this.#request()
    } catch (error) {
      if (error instanceof ConnectionLost) return // the page joins in the next session
      this.#options = before // a later session would be refused, too
      throw error
    }
  }

  #change(changes: any[], isSnapshot: boolean): void {
    if (isSnapshot) this.#users.clear()
    for (const each of changes) {
      if (each.state === "offline") this.#users.delete(each.user)
      else this.#users.set(each.user, each)
    }
    this.#list = [...this.#users.values()]
    this.#call("presence")
  }

  /** Leaves the room. Events of its log that arrive from now on are neither handled nor counted in `position`. */
  leave(): void {
    this.isLeft = true
    const end = () => {
      for (const stop of this.#stops) stop() // until now the server may tell who is present
      if (this.#core.rooms.get(this.name) === this) this.#core.rooms.delete(this.name)
    }
    // If this fails, the page is in no room any more, or the server has added it itself.
    void this.#channel.request("leave", this.name).then(end, end)
  }
}
