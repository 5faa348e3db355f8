// `Chats`: the runs that answer chats, for the transports of clients that have the conversation themselves.

import type { Caller, Client, Items } from "./client.js"

/**
 * Functions of the page that the handler may use, by their names. It yields a call, and gets what the function returns,
 * or `{ error: text }`, as a message whose id is that of the call. Of several tabs, one calls the function. If it is
 * closed before the handler has yielded the result, another one does.
 */
export type Tools = { readonly [name: string]: (input: any) => unknown }

/** What the server says of a run: how many items it has, or null if it is to be started. */
type Found = { readonly key: string; readonly answer: string; readonly items: number | null; readonly before: object[] }

/** What a protocol has. `look` sees calls of tools, and returns whether an item is the end. It throws if it is unknown. */
export interface Protocol {
  readonly start: object[]
  readonly text: (kind: "start" | "delta" | "end", number: number, delta?: string) => object
  readonly look: (item: any) => boolean
  readonly end: object
  readonly error: (error: any) => object
}

/** A run that answers a chat, for one reader. */
export class Run {
  /** The calls of tools that have no result yet: what makes the call, until it is made. */
  readonly #calls = new Map<string, (() => unknown) | undefined>()
  readonly #left = new AbortController()
  #items: Items<any>

  constructor(
    readonly found: Found,
    readonly follow: (after?: number) => Items<any>,
    readonly tools: Tools,
  ) {
    this.#items = found.items === null ? follow() : follow(0)
  }

  /** Yields the events of a protocol. */
  async *events({ start, text, look, end, error }: Protocol): AsyncGenerator<object, undefined> {
    let [texts, inText, finished] = [0, false, false]
    const endOfText = () => (inText ? [text("end", texts++)] : [])
    yield* start
    try {
      for await (const item of this.#read()) {
        const isText = typeof item === "string"
        if (!isText) finished ||= look(item ?? {})
        if (!isText) yield* endOfText()
        else if (!inText) yield text("start", texts)
        inText = isText
        if (item !== "") yield isText ? text("delta", texts, item) : item
      }
      yield* endOfText()
      if (!finished) yield end
    } catch (reason) {
      const last = error(reason)
      yield* endOfText()
      yield last
    } finally {
      this.leave()
    }
  }

  async *#read(): AsyncGenerator<any, undefined> {
    let read = 0
    try {
      for await (const item of this.#items) {
        yield item
        if (++read < (this.found.items ?? 0)) continue // the result of a call may be among the items that it has
        for (const [id, use] of this.#calls) if (use) void this.#use(id, use)
      }
    } catch (error: any) {
      if (error.code !== "wsrpc.key_reused") throw error
      this.#items = this.follow(0) // another tab has just asked this
      yield* this.#read()
    }
  }

  /** The run has called a tool. */
  called(id: string, name: string, input: () => unknown): void {
    const tool = this.tools[name]
    if (tool) this.#calls.set(id, async () => tool(input()))
  }

  /** A call has its result. */
  answered(id: string): void {
    this.#calls.delete(id)
  }

  async #use(id: string, use: () => unknown): Promise<void> {
    this.#calls.set(id, undefined)
    const once = async () => {
      if (!this.#calls.has(id)) return // another tab has called the tool
      const result = await Promise.resolve(use()).catch((error) => ({ error: `${error}` }))
      const failed = (error: unknown) => this.#items.send({ error: `${error}` }, { id }) // it cannot be encoded
      await this.#items.send(result, { id }).catch(failed).catch(console.warn)
      const { signal } = this.#left // before, other tabs may not have read the result
      if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve))
    }
    const { locks } = globalThis.navigator ?? {}
    await (locks ? locks.request(`${this.found.key} ${id}`, once) : once())
  }

  /** Ends the reading. */
  leave(): void {
    this.#calls.clear()
    this.#left.abort()
    void this.#items.return()
  }
}

/** Asks the server for the runs of chats. */
export class Chats {
  readonly #caller: Caller<any>
  readonly #event: string
  readonly #protocol: string
  readonly #tools: Tools

  /** @param event the event of the handler: "event", or "channel:event" on a named channel */
  constructor(client: Client<any>, event: string, protocol: string, tools: Tools = {}) {
    const [, channel, name] = /^(?:(.*):)?(.*)$/.exec(event)!
    this.#caller = channel ? client.of(channel) : client
    this.#event = name!
    this.#protocol = protocol
    this.#tools = tools
  }

  /**
   * Asks for the run that answers the last message, to "join" the one that goes on, or to "stop" it.
   *
   * @param asked what the server reads of `body`, which the handler gets
   */
  async find(wants: "ask" | "join" | "stop", chat: string, asked?: object, body?: object, signal?: AbortSignal): Promise<Run | null> {
    const event = this.#event
    const found: Found | null = await this.#caller.with({ retry: "idempotent" }).request(`${event}.${this.#protocol}`, wants, chat, ...(asked ? [asked] : []))
    const follow = (after?: number) =>
      this.#caller.with({ key: found!.key, after, signal }).follow(event, ...(after === undefined ? [body] : []))
    return found && new Run(found, follow, this.#tools)
  }
}
