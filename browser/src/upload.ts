// `upload`: sends a file, and continues after a lost session or a reload.

import type { Group } from "./api.js"
import type { Caller, Client, Shape } from "./client.js"

/** Bytes that are hashed at once. */
const BLOCK = 2 ** 20
/** The fewest milliseconds between two attempts. */
const PAUSE = 500
/** The error codes after which the server may accept the file later. */
const PASSES = new Set<unknown>(["wsrpc.overloaded", "wsrpc.draining", "gap"])

/** Options of `upload`. */
export interface UploadOptions {
  /** Stops the upload. Another call with the same file continues. */
  readonly signal?: AbortSignal | undefined
  /** Is called with the bytes that were sent, and the size: with 0 at once, then in each attempt and after each piece. */
  readonly progress?: ((bytes: number, size: number) => void) | undefined
}

/**
 * Sends a file to the `Uploads` of a server, and returns its id, for a handler of yours. It continues after a lost
 * session, while the client reconnects; and after a reload, if you call it with the same file. The client needs the codec
 * `msgpack`, and the page `https:` or `localhost`.
 *
 * @param name the name that was passed to `Uploads.serve` in Python
 * @throws ConnectionLost if the client is closed
 * @throws RemoteError if the server refuses the file. If the file has changed meanwhile, the code is `"incomplete"`
 * @throws DOMException if the browser cannot read the file, for example because it has changed
 * @throws TypeError if `file` is not a `Blob`, or the page not secure
 */
export async function upload<A extends Shape, K extends keyof Group<A, "channels"> & string>(
  client: Client<A>,
  name: K,
  file: Blob,
  { signal, progress }: UploadOptions = {},
): Promise<string> {
  if (!(file instanceof Blob)) throw new TypeError(`upload() takes a File or Blob, got ${String(file).slice(0, 99)}`)
  if (!globalThis.crypto?.subtle) throw new TypeError("upload() needs a page of https: or localhost")
  const caller: Caller = client.with({ signal, timeout: 0 }).of(name)
  let id = ""
  progress?.(0, file.size)
  for (;;) {
    try {
      if (!id) {
        await caller.request("size", `${"0".repeat(64)}-${file.size}`) // it may be too big
        id = await idOf(file, signal)
      }
      const offset: number = await caller.request("size", id)
      progress?.(offset, file.size)
      const sender = caller.with({ progress: ({ bytes }) => progress?.(offset + bytes, file.size) })
      await sender.upload("append", file.slice(offset), id, offset)
      return id
    } catch (error: any) {
      // Not by its class: the module of the client may be another copy.
      const passes = error?.name === "ConnectionLost" || PASSES.has(error?.code)
      if (!passes || client.status.get() === "closed") throw error
    }
    await new Promise((resolve) => {
      setTimeout(resolve, PAUSE * (1 + 3 * Math.random()))
      signal?.addEventListener("abort", resolve, { once: true })
    })
  }
}

/** Returns the id of a content, as `wsrpc.uploads` in Python does. */
async function idOf(file: Blob, signal: AbortSignal | undefined): Promise<string> {
  let hash = new ArrayBuffer(32)
  for (let at = 0; at < file.size; at += BLOCK) {
    signal?.throwIfAborted()
    const block = await new Blob([hash, file.slice(at, at + BLOCK)]).arrayBuffer()
    hash = await crypto.subtle.digest("SHA-256", block)
  }
  const digits = Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0"))
  return `${digits.join("")}-${file.size}`
}
