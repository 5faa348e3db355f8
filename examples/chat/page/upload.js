// A file, sent in pieces: each is a request, and its answer says how far the server has got.

const PIECE = 64 * 1024

import { wellFormed } from "./text.js"

/**
 * Sends what the server does not have yet, so it may be called again after a drop. `progress(bytes)` follows the
 * answers. Returns the message that the others see.
 */
export async function upload(connection, { id, room, file }, progress) {
  let have = await connection.request("upload", id, file.size)
  progress(have)
  while (have < file.size) {
    have = await connection.request("piece", id, have, await base64(file.slice(have, have + PIECE)))
    progress(have)
  }
  return connection.request("share", room, id, wellFormed(file.name), file.size)
}

/** Bytes have no JSON form: a handler's `bytes` comes as base64. */
async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer())
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))
}
