// Types for ws-wrapper, of which `typescript.py` adds to the declarations what a description needs. The line before each
// has its name. `Events`, `Emits`, `Channels` and `ChannelEmits` are declared for each description.

// part AnonymousChannel
/** What answers a request that opens a channel of its own. `close()` it when it is over, `abort()` it before that. */
export interface AnonymousChannel {
  readonly closeSignal: AbortSignal | null
  on(event: string, listener: (...args: any[]) => unknown): this
  once(event: string, listener: (...args: any[]) => unknown): this
  emit(event: string, ...args: unknown[]): void
  request(event: string, ...args: unknown[]): Promise<unknown>
  timeout(ms: number): this
  signal(signal: AbortSignal): this
  close(reason?: unknown): void
  abort(error?: Error): void
}

// part Items
/** A stream: `for await`, for a body that is quick; else an async listener of `next`, and then `emit("start")`. */
export interface Items<T> extends AnonymousChannel {
  [Symbol.asyncIterator](): AsyncIterator<T>
  on(event: "next", listener: (item: { value: T; done: false } | { value: undefined; done: true }) => unknown): this
}

// part Upload
/** An upload: `next` for each item, each when the one before is answered. The answer to the end is the result. */
export interface Upload<T, Result> extends AnonymousChannel {
  on(event: "stop", listener: () => unknown): this
  request(event: "next", item: { value: T; done: false }): Promise<null>
  request(event: "next", end: { done: true }): Promise<Result>
}

// part Exchange
/** Items both ways, see `Upload` and `Items`. */
export interface Exchange<T, Item> extends AnonymousChannel {
  [Symbol.asyncIterator](): AsyncIterator<Item>
  on(event: "stop", listener: () => unknown): this
  on(event: "next", listener: (item: { value: Item; done: false } | { value: undefined; done: true }) => unknown): this
  request(event: "next", item: { value: T; done: false }): Promise<null>
  request(event: "next", end: { done: true }): Promise<null>
}

// part Typed
type EventMap = Record<string, (...args: any[]) => unknown>
/** An event cannot open a channel: only a request can. */
type Emitted<E> = { [K in keyof E]: E[K] extends (...args: any[]) => { abort(): void } ? never : K }[keyof E]

/** What happens to a connection: these events have listeners on the main channel, and never travel. */
type Lifecycle = {
  open: (event: any) => unknown
  connect: (event: any) => unknown
  close: (event: any, wasOpen: boolean) => unknown
  disconnect: (event: any, wasOpen: boolean) => unknown
  error: (event: any) => unknown
  message: (event: any, data: unknown) => unknown
}

/** `request` and `emit`, for the events of one channel. */
export interface Calls<E extends EventMap> {
  request<K extends keyof E & string>(event: K, ...args: Parameters<E[K]>): Promise<ReturnType<E[K]>>
  emit<K extends Emitted<E> & string>(event: K, ...args: Parameters<E[K]>): void
  timeout(ms: number): this
  signal(signal: AbortSignal): this
}
type Others<W> = Omit<W, "request" | "emit" | "timeout" | "signal" | "of">

/** `on` and what goes with it, for the events that are emitted on one channel. */
export interface Listens<E extends EventMap> {
  on<K extends keyof E & string>(event: K, listener: E[K]): this
  once<K extends keyof E & string>(event: K, listener: E[K]): this
  addListener<K extends keyof E & string>(event: K, listener: E[K]): this
  off<K extends keyof E & string>(event: K, listener: E[K]): this
  removeListener<K extends keyof E & string>(event: K, listener: E[K]): this
}
/** A channel of which nothing is declared as emitted keeps the `on` that it has. */
type Listening<W, E extends EventMap, Own extends EventMap = {}> = keyof E extends never
  ? W
  : Omit<W, keyof Listens<{}>> & Listens<E & Own>
type Of<M, C> = C extends keyof M ? M[C] : {}

/**
 * A connection of ws-wrapper on which nothing else can be called, or listened to where anything is declared as emitted:
 * `const server = new WebSocketWrapper(socket) as Typed<WebSocketWrapper>`.
 */
export type Typed<W extends { of(name: string): unknown } = any> = Listening<Others<W>, Emits, Lifecycle> &
  Calls<Events> & {
    of<C extends keyof Channels | keyof ChannelEmits>(
      name: C,
    ): Listening<Others<ReturnType<W["of"]>>, Of<ChannelEmits, C>> & Calls<Of<Channels, C>>
  }
