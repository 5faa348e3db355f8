// The connection to the server.

import { Client, ConnectionLost } from "./wsrpc/client.js"
import { msgpack } from "./wsrpc/msgpack.js"

/** No timeout: a request waits for its answer as long as its session lives, and the client notices a dead one. */
export const connect = (name) => new Client(`/ws?name=${encodeURIComponent(name)}`, { codec: msgpack, requestTimeout: 0 })

/** Whether a call has failed only because its session ended, or is about to end: the next session starts over. */
export const isLoss = (error) => error instanceof ConnectionLost || error.code === "wsrpc.draining"

/** For `catch`. */
export function ignoreLoss(error) {
  if (!isLoss(error)) throw error
}
