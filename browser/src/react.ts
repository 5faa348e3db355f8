"use client"
// Hooks for React 18 and later. The page brings React, and of the client only types are imported.

import { createContext, createElement, useCallback, useContext, useEffect, useRef, useState, useSyncExternalStore } from "react"
import type { ReactNode } from "react"
import type { Args, Functions, Group, Items, ItemsOf, Of, Result, Shape } from "./api.js"
import type { Call, Client, Present, Room, RoomOptions, State, WithOptions } from "./client.js"

/** Says what the server has: `declare module "python-wsrpc/react" { interface Register { api: Api } }`. */
export interface Register {}

type Registered = Register extends { api: infer A extends Shape } ? A : any
type Events<G extends keyof Shape> = keyof Group<Registered, G> & string
type Handled = Group<Registered, "handlers"> & Functions
type Answer<K> = Result<Of<Registered, "requests", K>>
type Streamed<K> = ItemsOf<Result<Of<Registered, "streams", K>>>

const Context = createContext<Client | undefined>(undefined)

/** Provides a client, which the page creates outside of components. The client is neither opened nor closed. */
export function Wsrpc({ client, children }: { client: Client; children?: ReactNode }): ReactNode {
  return createElement(Context.Provider, { value: client }, children)
}

/** Returns the client of the nearest `Wsrpc`. */
export function useClient(): Client<Registered> {
  const client = useContext(Context)
  if (!client) throw new Error("no client: put the component into <Wsrpc client={client}>")
  return client
}

/** Returns the state of the connection, why there is none, and when the next attempt starts. */
export function useStatus(): { state: State } & Pick<Client, "error" | "retryAt"> {
  const client = useClient()
  const { subscribe, get } = client.status
  const state = useSyncExternalStore<State>(subscribe, get, () => "connecting")
  const error = useSyncExternalStore(subscribe, () => client.error, () => undefined)
  return { state, error, retryAt: useSyncExternalStore(subscribe, () => client.retryAt, () => undefined) }
}

/** The last call: its result or error, or while it is pending, the result of the one before. */
export interface Called<K extends Events<"requests">> {
  readonly value: Answer<K> | undefined
  readonly error: unknown
  readonly pending: boolean
  /** Makes a call. Resolves with the result, or with undefined if it has failed. */
  readonly call: (...args: Args<Of<Registered, "requests", K>>) => Promise<Answer<K> | undefined>
}

/**
 * Returns a function that makes calls, and the state of the last one. A call goes on after the component was unmounted,
 * unless a `signal` aborts it.
 */
export function useCall<K extends Events<"requests">>(event: K, options: WithOptions = {}): Called<K> {
  const client = useClient()
  const [state, show] = useState<Omit<Called<K>, "call">>({ value: undefined, error: undefined, pending: false })
  const last = useRef({ number: 0, options })
  useEffect(() => void (last.current.options = options))
  const call = useCallback<Called<K>["call"]>(
    async (...args) => {
      const number = ++last.current.number
      const end = (value: Answer<K> | undefined, error?: unknown) => {
        if (number === last.current.number) show({ value, error, pending: false })
        return value
      }
      show(({ value }) => ({ value, error: undefined, pending: true }))
      return client.with(last.current.options).request(event, ...args).then(end, (error) => end(undefined, error))
    },
    [client, event],
  )
  return { ...state, call }
}

/** A value of a client that components share. */
type Store<T> = { value: T; readonly subscribers: Set<() => void>; stop?: () => void }

const storesOf = new WeakMap<Client, Map<string, Store<any>>>()

/**
 * Returns a value that `start` sets, while any component uses its name. It starts and stops a microtask after components
 * are mounted and unmounted, so that nothing happens if StrictMode unmounts one and mounts it again.
 */
function useShared<T>(name: string | undefined, initial: T, start: (client: Client, set: (value: T) => void) => () => void): T {
  const client = useClient()
  const stores: Map<string, Store<T>> = storesOf.get(client) ?? new Map()
  storesOf.set(client, stores)
  const subscribe = useCallback(
    (subscriber: () => void) => {
      if (name === undefined) return () => {}
      const store: Store<T> = stores.get(name) ?? { value: initial, subscribers: new Set() }
      const set = (value: T) => {
        store.value = value
        for (const each of store.subscribers) each()
      }
      const startOrStop = () => {
        if (store.subscribers.size) store.stop ??= start(client, set)
        else if (stores.get(name) === store && stores.delete(name)) store.stop?.()
      }
      stores.set(name, store)
      store.subscribers.add(subscriber)
      queueMicrotask(startOrStop)
      return () => store.subscribers.delete(subscriber) && queueMicrotask(startOrStop)
    },
    [client, name],
  )
  return useSyncExternalStore(subscribe, () => stores.get(name!)?.value ?? initial, () => initial)
}

/** What is known of a run: its items until now, whether it has ended, or why it cannot be read. */
export interface Followed<I> {
  readonly items: readonly (I extends Items<infer T> ? T : never)[]
  readonly ended: boolean
  readonly error: unknown
  /** The reader, to `stop` the run or to `send` it a message. Undefined until it reads. */
  readonly run: I | undefined
}

const NOTHING: Followed<never> = { items: [], ended: false, error: undefined, run: undefined }

/**
 * Reads the run of a stream with a key, from the first item, while the component is mounted. Unmounting does not stop the
 * run. Without a `key`, nothing is read. After `client.connect()` of a closed client, it continues.
 */
export function useFollow<K extends Events<"streams">>(
  event: K,
  args: Args<Of<Registered, "streams", K>>,
  { key, after }: Pick<WithOptions, "key" | "after">,
): Followed<Streamed<K>> {
  const name = key == null ? undefined : JSON.stringify([event, args, key, after])
  return useShared<Followed<any>>(name, NOTHING, (client, set) => {
    const items: unknown[] = []
    let run: Items<unknown> | undefined
    let timer: ReturnType<typeof setTimeout> | undefined
    let error: any
    const show = (ended = false) => {
      timer = clearTimeout(timer) as undefined
      set({ items: [...items], ended, error, run })
    }
    const read = async () => {
      error = undefined
      run = client.with({ key, after: run?.position ?? after }).follow(event, ...args)
      show()
      try {
        for await (const item of run) {
          items.push(item)
          timer ??= setTimeout(show) // many items in one render
        }
      } catch (reason) {
        error = reason
      }
      show(!error)
    }
    const stop = client.status.subscribe((state) => {
      if (state !== "closed" && error?.name === "ConnectionLost") void read()
    })
    void read()
    return () => {
      stop()
      void run!.return()
    }
  })
}

/** How a page uses a room: `initial`, until the room has sent its state, and functions from state and event to state. */
export interface RoomDefinition<S> extends RoomOptions {
  readonly initial: S
  readonly on?: { readonly [K in keyof Handled]?: (state: S, ...args: Args<Handled[K]>) => S }
}

/** A room, as it is now. */
export interface RoomState<S> extends Pick<Room, "live" | "complete" | "error"> {
  readonly state: S
  readonly present: readonly Present[]
  /** Undefined until the page joins. */
  readonly room: Room | undefined
}

/**
 * Joins a room, until the last component that uses it is unmounted. Its components share the state: the definition of
 * the first one counts. `client.room(name)` is the same room, which then ends with these components.
 *
 * An event names its room only if the room has a log (`keep=`). So rooms without a log share the events that have one
 * name: give these other names in each room.
 */
export function useRoom<S>(name: string, definition: RoomDefinition<S>): RoomState<S> {
  const { initial, on = {}, ...options } = definition
  const before = { state: initial, present: [], live: false, complete: true, error: undefined, room: undefined }
  return useShared<RoomState<S>>(`room ${name}`, before, (client, set) => {
    let state = initial
    const room = client.room(name, options)
    const show = (news = state) => {
      const { live, complete, error } = room
      set({ state: (state = news), present: room.present.get(), live, complete, error, room })
    }
    const stops = Object.entries(on).map(([event, reduce]) =>
      client.on(event, function (this: Call, ...args) {
        if (this.room === (room.position == null ? undefined : name)) show(reduce!(state, ...args))
      }),
    )
    stops.push(room.on("state", show), room.on("missed", show), room.on("live", show))
    stops.push(room.present.subscribe(show), client.status.subscribe(() => show()))
    show()
    return () => {
      for (const stop of stops) stop()
      room.leave()
    }
  })
}
