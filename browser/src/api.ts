// The types of what a client and its server call: what `wsrpc types` writes, for the methods of `Client` and `Channel`.

import type { Call } from "./peer.js"
import type { Source } from "./streams.js"

type Functions = { [event: string]: (...args: any[]) => any }

/**
 * What can be called on one channel, and in `channels` on those with a name. `wsrpc types` writes such a type, `Api`. A
 * group that is left out is empty. Only without `handlers`, any event can be handled.
 */
export interface Shape {
  /** Requests and events that the server handles. */
  requests?: Functions
  /** Streams that the server sends. The result is one item. */
  streams?: Functions
  /** Uploads that the server reads. The first parameter is one item. */
  uploads?: Functions
  /** Channels that the server opens. The result is the `Shape` of the channel, or `void` if that is not known. */
  conversations?: Functions
  /** Requests and events that the server sends. */
  handlers?: Functions
  channels?: { [name: string]: Shape }
}

/** The members of a group, by their names. */
export type Group<A extends Shape, G extends keyof Shape> = G extends keyof A
  ? NonNullable<A[G]>
  : G extends "handlers"
    ? Functions
    : {}

// Names are written as `K extends keyof Group<...> & string`. Errors would show a type with a name of its own, and not
// the names in the group. What is `any` takes both branches of each type below.

/** What has a name in a group. */
export type Of<A extends Shape, G extends keyof Shape, K> = K extends keyof Group<A, G> ? Group<A, G>[K] : any

export type Args<F> = F extends (...args: infer P extends any[]) => any ? P : any[]
export type Result<F> = F extends (...args: any[]) => infer R ? R : any
/** The source of an upload, and the arguments after it. */
export type Sent<F> =
  Args<F> extends [infer T, ...infer P] ? [source: Source<T>, ...args: P] : [source: Source<any>, ...args: any[]]
/** The shape of a channel, if it is known. */
export type Shaped<T> = T extends Shape ? T : any
/** What handles `F`. It may be async. The result of a handler of which none is wanted is dropped. */
export type Handles<F> = (
  this: Call,
  ...args: Args<F>
) => [Result<F>] extends [void] ? unknown : Result<F> | Promise<Result<F>>
