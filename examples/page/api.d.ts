/* eslint-disable */
// Made by `python -m wsrpc types`. Make it anew when handlers change, instead of changing it here.

/** What `client.contract` is while the server has this contract. */
export const CONTRACT = "62634fca88510dda"

/**
 * What pages call, and what the server calls (`handlers`): `const client = new Client<Api>("/ws")`, with python-wsrpc.
 * In `streams`, the result is one item. In `uploads`, the first parameter is one item. In `conversations`, the result
 * describes the channel; `void` if nothing is known of it.
 */
export type Api = {
  requests: {
    say: (text: string) => null
  }
  streams: {
    /** Write an answer, as a language model would. */
    generate: (prompt: string) => string
  }
  uploads: {
    store: (item: Uint8Array, name: string) => string
  }
  handlers: {
    said: (name: string, text: string) => void
  }
}
