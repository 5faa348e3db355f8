// `Chats`: the runs that answer chats, for the transports of clients that have the conversation themselves.

import type { Caller, Client, Items } from "./client.js"

/**
 * Functions of the page that the handler may use, by their names. It yields a call, and gets what the function returns,
 * or `{ error: text }`, as a message whose id is that of the call. Of several tabs, one calls the function, unless it is
 * closed before the handler has the result.
 */
export type Tools = { readonly [name: string]: (input: any) => unknown }

/** What the server says of a run. Without `items`, the number of those that it has, it is to be started. */
interface Found {
  readonly key: string
  readonly answer: string
  readonly items: number | null
}

/** A run that answers a chat, for one reader. */
export class Run {
  /** The id of the message that the run writes. */
  readonly answer: string
  readonly #found: Found
  readonly #follow: (after?: number) => Items<any>
  readonly #tools: Tools
  /** The calls of tools that have no result yet. */
  readonly #calls = new Map<string, () => unknown>()
  #items: Items<any>
  #end!: () => void
  readonly #ended = new Promise<void>((resolve) => (this.#end = resolve))

  constructor(found: Found, follow: (after?: number) => Items<any>, tools: Tools) {
    this.#found = found
    this.#follow = follow
    this.#tools = tools
    this.answer = found.answer
    this.#items = found.items === null ? follow() : follow(0)
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<any, undefined> {
    try {
      yield* this.#read()
    } catch (error: any) {
      if (error.code !== "wsrpc.key_reused") throw error
      this.#items = this.#follow(0) // another tab has just asked this
      yield* this.#read()
    } finally {
      this.#end()
    }
  }

  async *#read(): AsyncGenerator<any, undefined> {
    let read = 0
    for await (const item of this.#items) {
      yield item
      if (++read < (this.#found.items ?? 0)) continue // the result of a call may be among the items that it has
      for (const [id, use] of this.#calls) if (!this.#using.has(id)) void this.#use(id, use)
    }
  }

  readonly #using = new Set<string>()

  /** The run has called a tool. */
  called(id: string, name: string, input: () => unknown): void {
    const tool = this.#tools[name]
    if (tool) this.#calls.set(id, async () => tool(await input()))
  }

  /** A call has its result. */
  answered(id: string): void {
    this.#calls.delete(id)
  }

  async #use(id: string, use: () => unknown): Promise<void> {
    this.#using.add(id)
    const once = async () => {
      if (!this.#calls.has(id)) return // another tab has called the tool
      const result = await Promise.resolve().then(use).catch((error) => ({ error: `${error}` }))
      await this.#items.send(result, { id }).catch(console.warn)
      await this.#ended
    }
    const { locks } = globalThis.navigator ?? {}
    await (locks ? locks.request(`${this.#found.key} ${id}`, once) : once())
  }

  /** Ends the reading. */
  leave(): void {
    void this.#items.return()
  }
}

/** Asks the server for the runs of chats. */
export class Chats {
  readonly #caller: Caller<any>
  readonly #event: string
  readonly #tools: Tools

  /**
   * @param event the event of the handler: "event", or "channel:event" on a named channel
   */
  constructor(client: Client<any>, event: string, tools: Tools = {}) {
    const [, channel, name] = /^(?:(.*):)?(.*)$/.exec(event)!
    this.#caller = channel ? client.of(channel) : client
    this.#event = name!
    this.#tools = tools
  }

  #request(...args: unknown[]): Promise<Found | null> {
    return this.#caller.with({ retry: "idempotent" }).request(`${this.#event}.chat`, ...args)
  }

  #run(found: Found, body: unknown, signal: AbortSignal | undefined): Run {
    const follow = (after?: number) =>
      this.#caller.with({ key: found.key, after, signal }).follow(this.#event, ...(after === undefined ? [body] : []))
    return new Run(found, follow, this.#tools)
  }

  /** Returns the run that answers the last message: a new one, or the one that goes on. */
  async ask(chat: string, body: unknown, last: unknown, answer: string | null, again: boolean, signal?: AbortSignal): Promise<Run> {
    return this.#run((await this.#request("ask", chat, last, answer, again))!, body, signal)
  }

  /** Returns the run that goes on, if there is one. */
  async join(chat: string, signal?: AbortSignal): Promise<Run | null> {
    const found = await this.#request("join", chat)
    return found && this.#run(found, undefined, signal)
  }

  /** Stops the run that goes on, for all its readers. */
  async stop(chat: string): Promise<void> {
    await this.#request("stop", chat)
  }
}
