// `CallContext`: what travels with a call besides its arguments: metadata, and the time that its caller has left.

import { LONGEST_TIMER, now } from "./clock.js"
import { count } from "./control.js"
import { sizeOf } from "./data.js"
import { textOf } from "./errors.js"

/** Texts that travel with a call, by their names. */
export type Metadata = Readonly<Record<string, string>>

/** What travels with a call besides its arguments. */
export interface CallContext {
  readonly metadata?: Metadata | undefined
  readonly key?: string | null | undefined
  /** The id of a message for the handler of the run. */
  readonly message?: string | undefined
  readonly after?: string | number | null | undefined
  /** The milliseconds that are left now, rounded up. Undefined if there is no limit. */
  readonly remaining_ms?: number | undefined
  /** Whether the caller sends items and reads only a result: a handler that yields items refuses. */
  readonly upload?: boolean | undefined
  /** Where an event of a room with a log is. Only servers send it. */
  readonly at?: readonly [room: string, position: string]
}

/**
 * Returns the context of a call, or undefined if nothing travels. The server checks the key and the position.
 *
 * @param ms the time that the caller has left
 * @param isTime whether `ms` is valid
 * @throws TypeError if something is not valid, or the metadata is too large
 */
export function contextOf(
  { metadata = {}, key, message, after, kind }: Omit<CallContext, "remaining_ms" | "at" | "upload"> & { kind?: string },
  ms = Infinity,
  isTime = true,
): CallContext | undefined {
  const texts = Object.entries(metadata)
  const isValid = isTime && texts.every(([name, text]) => /^[!-~]{1,64}$/.test(name) && typeof text === "string")
  // An array, for example, has another tag than a plain object.
  if (!isValid || textOf(metadata) !== textOf({}) || texts.length > 32 || sizeOf(texts.flat().join("")) > 4096) {
    throw new TypeError("wrong context: 32 texts, 4096 bytes, ASCII names")
  }
  if (after != null && key == null) throw new TypeError("`after` needs a key")
  const isLimited = ms <= LONGEST_TIMER
  const upload = kind === "upload" || undefined
  if (!texts.length && !isLimited && key == null && !upload) return undefined
  const end = now() + ms
  return {
    metadata: texts.length ? metadata : undefined,
    key: key ?? undefined,
    message,
    after: after ?? undefined,
    upload,
    get remaining_ms() {
      return isLimited ? Math.max(0, Math.ceil(end - now())) : undefined
    },
  }
}

/**
 * Reads the context of a call of the server.
 *
 * @throws TypeError if it is not valid, or has a key: handlers of a page cannot keep their results
 */
export function readContext(ctx: any): CallContext | undefined {
  if (ctx.key !== undefined) throw new TypeError("a page cannot handle a key")
  const ms = count(ctx, "remaining_ms")
  const context = contextOf(ctx, ms, ms <= LONGEST_TIMER || ctx.remaining_ms === undefined)
  const [room, position] = ctx.at ?? []
  return typeof room === "string" && typeof position === "string" ? { ...context, at: [room, position] } : context
}
