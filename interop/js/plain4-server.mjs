// A small server that does what ws-server-wrapper 2 does with ws-wrapper 4, for machines where that is not to be had:
// handlers that are put on it are on every connection, what is emitted goes to all, and requests are rejected when
// their connection ends. Written from its README. Each connection is one of plain4.mjs.

import Connection from "./plain4.mjs"

export const VERSION = "2.1.0" // whom it plays

/** One channel of all connections: the main one (null), or one by name. */
class Everyone {
  #server
  #name
  #listeners = []

  constructor(server, name) {
    this.#server = server
    this.#name = name
  }

  /** Puts all handlers on a new connection. */
  welcome(connection) {
    for (const [event, listener] of this.#listeners) connection.of(this.#name).on(event, listener)
  }

  on(event, listener) {
    this.#listeners.push([event, listener])
    for (const connection of this.#server.sockets) connection.of(this.#name).on(event, listener)
  }

  emit(event, ...args) {
    for (const connection of this.#server.sockets) connection.of(this.#name).emit(event, ...args)
  }
}

export default class ServerWrapper {
  sockets = new Set()
  #channels = new Map()
  #connected = []

  constructor(server, options) {
    server.on("connection", (socket) => {
      const connection = new Connection(socket, options)
      this.sockets.add(connection)
      socket.on("close", () => {
        this.sockets.delete(connection)
        connection.abort()
      })
      for (const channel of this.#channels.values()) channel.welcome(connection)
      for (const listener of this.#connected) listener(connection)
    })
  }

  of(name) {
    if (!this.#channels.has(name)) this.#channels.set(name, new Everyone(this, name))
    return this.#channels.get(name)
  }

  on(event, listener) {
    if (event === "connection") this.#connected.push(listener)
    else this.of(null).on(event, listener)
  }

  emit(event, ...args) {
    this.of(null).emit(event, ...args)
  }
}
