// A transport for the chats of the AI SDK (`npm install ai`), whose answers survive a reload and a lost connection.
//
//   const chat = useChat({ id: threadId, transport: new RunTransport(), resume: true })
//
// A page that comes back gets the answer from its first word, also when it is over.

import { DefaultChatTransport } from "ai"

export class RunTransport extends DefaultChatTransport {
  /** `keys` has the key of the latest run of each chat. Other options are those of DefaultChatTransport. */
  constructor({ api = "/http", keys = localStorage, ...options } = {}) {
    const url = (id) => `${api}/runs/chat/${keys[id] ?? "none"}?conversation=${id}`
    super({
      fetch: async (...request) => {
        const response = await fetch(...request)
        // This is how the AI SDK learns that there is nothing to resume.
        return response.status === 404 ? new Response(null, { status: 204 }) : response
      },
      ...options,
      prepareSendMessagesRequest({ id, messages }) {
        keys[id] = crypto.randomUUID()
        return { api: url(id), body: { asked: { id, messages } } }
      },
      prepareReconnectToStreamRequest: ({ id }) => ({ api: url(id) }),
    })
    /** Stops the model. The chat's own `stop` only stops reading. */
    this.stop = (id) => fetch(url(id), { method: "DELETE", headers: options.headers })
  }
}
