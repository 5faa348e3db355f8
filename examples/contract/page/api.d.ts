/* eslint-disable */
// Made by `python -m wsrpc types`. Make it anew when handlers change, instead of changing it here.

/** What `client.contract` is while the server has this contract. */
export const CONTRACT = "ac82a9034b5eaf7e"

export type Color = "pink" | "yellow"

/** A note on the board. */
export interface Note {
  id: number
  author: string
  text: string
  color: Color
}

/**
 * What pages call, and what the server calls (`handlers`): `const client = new Client<Api>("/ws")`, with python-wsrpc.
 * In `streams`, the result is one item. In `uploads`, the first parameter is one item. In `conversations`, the result
 * describes the channel; `void` if nothing is known of it.
 */
export type Api = {
  channels: {
    board: {
      requests: {
        /** Put a note on the board. */
        post: (author: string, text: string, color?: Color) => Note
        /** Take a note off the board. */
        remove: (id: number) => null
      }
      streams: {
        /** The notes that are on the board now. The caller hears of changes from then on. */
        notes: () => Note
      }
      handlers: {
        posted: (note: Note) => void
        removed: (id: number) => void
      }
    }
  }
}

/** Events that you can request or emit on the main channel. */
export type Events = {}

/** Events that you can request or emit on named channels. */
export type Channels = {
  board: {
    /** The notes that are on the board now. The caller hears of changes from then on. */
    notes: () => Items<Note>
    /** Put a note on the board. */
    post: (author: string, text: string, color?: Color) => Note
    /** Take a note off the board. */
    remove: (id: number) => null
  }
}

/** Events that you can listen for on the main channel. */
export type Emits = {}

/** Events that you can listen for on named channels. */
export type ChannelEmits = {
  board: {
    posted: (note: Note) => void
    removed: (id: number) => void
  }
}

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

/** A stream: `for await`, for a body that is quick; else an async listener of `next`, and then `emit("start")`. */
export interface Items<T> extends AnonymousChannel {
  [Symbol.asyncIterator](): AsyncIterator<T>
  on(event: "next", listener: (item: { value: T; done: false } | { value: undefined; done: true }) => unknown): this
}

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
