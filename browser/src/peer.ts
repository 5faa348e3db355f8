// `Peer`: ws-wrapper's protocol in one session.

import { Channel, FINISHED } from "./channel.js"
import { json, type Codec, type Message } from "./codec.js"
import { count, writeControl, type Control } from "./control.js"
import { ConnectionLost, Refused, RemoteError, WsrpcError } from "./errors.js"
import { report, type Handlers } from "./handlers.js"
import { sizeOf, type Data } from "./ledger.js"
import type { Request } from "./request.js"
import { SessionSocket, type SocketOptions, type Target } from "./socket.js"
import { Items, Producer, type Source } from "./streams.js"

/** Request ids: odd, and none that ws-wrapper uses, which counts from 1. A server that calls uses even ones. */
const FIRST_ID = 2 ** 30 + 1
const LAST_ID = 2 ** 31 - 1

/** What the peer tells its client. */
export interface PeerOwner {
  /** Returns the handlers of the main channel (undefined), or of a named one. */
  handlers(channel: string | undefined): Handlers
  opened(): void
  detached(): void
  resumed(): void
  closed(code: number, reason: string): void
  /** The server is about to close: nothing new is begun in this session. */
  draining(): void
  /** Something that arrived was not used. */
  ignored(kind: string): void
}

/** The two sides of a session with a server. It is dropped when the session ends. */
export class Peer {
  readonly #socket: SessionSocket
  readonly #owner: PeerOwner
  readonly #codec: Codec
  /** The codec for what is sent: JSON until the server has said that it knows the other one. */
  #encoder: Codec = json
  readonly #requests = new Map<number, Request>()
  /** Calls of the server that are being handled, by their ids. */
  readonly #calls = new Map<number, Call>()
  readonly #channels = new Map<number, Channel>()
  #nextId = FIRST_ID + 2 * Math.floor((Math.random() * (LAST_ID - FIRST_ID)) / 4)
  #features: readonly unknown[] = []
  /** The largest message that the server accepts, and how many requests it runs at the same time. */
  #largest = Infinity
  #running = Infinity
  /** Requests that wait because the server runs so many. */
  readonly #waiting = new Set<Request>()

  constructor(target: Target, options: SocketOptions, codec: Codec, owner: PeerOwner) {
    this.#owner = owner
    this.#codec = codec
    const features = ["batches", "credit", "drain", ...(codec.feature ? [codec.feature] : [])]
    this.#socket = new SessionSocket(target, [], options, {
      features,
      receive: (data, size) => this.#receive(data, size),
      control: (message) => this.#control(message),
      busy: () => this.isBusy,
    })
    this.#socket.binaryType = "arraybuffer"
    this.#socket.onopen = () => owner.opened()
    this.#socket.ondetached = () => owner.detached()
    this.#socket.onresumed = () => owner.resumed()
    this.#socket.onclose = ({ code, reason }) => this.#closed(code, reason)
  }

  get isBusy(): boolean {
    return this.#requests.size + this.#calls.size + this.#channels.size > 0
  }

  /** Whether the server keeps to credit when it produces. */
  get givesCredit(): boolean {
    return this.#features.includes("credit")
  }

  close(code: number, reason: string): void {
    this.#socket.close(code, reason)
  }

  // ------------------------------------------------------------ sending

  /**
   * Sends a message, and returns its size.
   *
   * @throws Refused if it is larger than the server accepts
   * @throws TypeError if it cannot be encoded
   */
  send(message: Message): number {
    const data = this.#encoder.encode(message)
    const size = this.#sized(data)
    this.#socket.post(data, size)
    return size
  }

  #sized(data: Data): number {
    const size = sizeOf(data)
    if (size > this.#largest) throw new Refused(`a message of ${size} bytes, and the server takes ${this.#largest}`)
    return size
  }

  /** Sends a request, now or when the server has room for it. */
  request(request: Request): Promise<any> {
    if (request.isDone) return request.answer
    if (request.place.h === undefined && this.#requests.size >= this.#running) {
      this.#waiting.add(request)
      request.withdraw = () => !this.#waiting.delete(request)
    } else this.#send(request)
    return request.answer
  }

  #send(request: Request): void {
    const i = this.#newId()
    const { place, event, args } = request
    try {
      const data = this.#encoder.encode({ i, a: [event, ...args], ...place })
      request.kept = this.#socket.post(data, this.#sized(data))
    } catch (error) {
      request.reject(error)
      return
    }
    this.#requests.set(i, request)
    request.withdraw = (reason) => {
      this.#answered(i)
      if (request.kept && this.#socket.takeBack(request.kept)) return false
      this.send({ i, ...reasonOnWire("x", reason) })
      return true
    }
  }

  #newId(): number {
    do this.#nextId = this.#nextId + 2 > LAST_ID ? FIRST_ID : this.#nextId + 2
    while (this.#requests.has(this.#nextId) || this.#channels.has(this.#nextId))
    return this.#nextId
  }

  /** Forgets a request, and sends one that has waited for its place. */
  #answered(i: number): Request | undefined {
    const request = this.#requests.get(i)
    this.#requests.delete(i)
    for (const next of this.#waiting) {
      if (this.#requests.size >= this.#running) break
      this.#waiting.delete(next)
      this.#send(next)
    }
    return request
  }

  // ------------------------------------------------------------ receiving

  #receive(data: Data, size: number): void {
    let message: Message | undefined
    try {
      message = (typeof data === "string" ? json : this.#codec).decode(data)
    } catch {
      // not JSON, or not MessagePack
    }
    if (!message) this.#owner.ignored("foreign")
    else if (Array.isArray(message.a) && typeof message.a[0] === "string") this.#called(message, size)
    else if ("x" in message) this.#cancelled(message)
    else if (message.i !== undefined) this.#response(message.i, message)
    else this.#owner.ignored("malformed")
  }

  #called(message: Message, size: number): void {
    if (message.h === undefined) this.run(this.#owner.handlers(message.c), message)
    else {
      const channel = this.#channels.get(message.h)
      if (channel) channel.take(message, size)
      else {
        const gone = { message: `Anonymous channel '${message.h}' does not exist` }
        if (message.i !== undefined) this.send({ i: message.i, e: gone, _: 1 })
        this.send({ h: message.h, x: gone, _: 1 })
      }
    }
  }

  #cancelled({ i, h, x, _ }: Message): void {
    const reason = new RemoteError(x, _)
    const known = h !== undefined ? this.#channels.get(h) : i !== undefined && this.#calls.get(i)
    if (known instanceof Channel) known.over(reason)
    else if (known) known.cancel(reason)
    else this.#owner.ignored(h !== undefined ? "abort of no channel" : "cancellation of no request")
  }

  #response(i: number, message: Message): void {
    const request = this.#answered(i)
    if (message.h !== undefined) {
      const channel = new Channel(i, this)
      this.#channels.set(i, channel)
      if (request?.opens) return request.resolve(channel)
      channel.abort()
      // ws-wrapper 4 answers with a channel if a handler returns null.
      if (!this.givesCredit) return request?.resolve(null)
      return request?.reject(new WsrpcError(`"${request.event}" answers with a stream or a channel`, "ran"))
    }
    if (!request) this.#owner.ignored("response to no request")
    else if ("e" in message) request.reject(new RemoteError(message.e, message._))
    else if (request.opens) request.reject(new WsrpcError(`"${request.event}" answers with a value`, "ran"))
    else request.resolve(message.d)
  }

  // ------------------------------------------------------------ calls of the server

  /** Runs the handlers of an event, or the handler of a request. */
  run(handlers: Handlers, message: Message): void {
    const [event, ...args] = message.a as [string, ...unknown[]]
    const found = handlers.of(event)
    if (message.i === undefined) {
      if (!found.length) this.#owner.ignored("unknown event")
      for (const handler of found) void this.#handleEvent(() => handler.apply(new Call(this, undefined), args))
    } else if (this.#calls.has(message.i)) this.#owner.ignored("duplicate id")
    else if (!found[0]) {
      const code = "wsrpc.unknown_event"
      this.send({ i: message.i, e: { message: `No event listener for '${event}'`, code }, _: 1 })
    } else {
      const call = new Call(this, message.i)
      this.#calls.set(message.i, call)
      const [handler] = found
      void call.run(() => handler!.apply(call, args))
    }
  }

  async #handleEvent(handle: () => unknown): Promise<void> {
    try {
      await handle()
    } catch (error) {
      report(error)
    }
  }

  /** Answers a call, unless the server has cancelled it, or has got an answer. */
  answer(call: Call, answer: Message): void {
    if (this.#calls.get(call.id!) !== call) return
    this.#calls.delete(call.id!)
    this.send({ i: call.id!, ...answer })
  }

  /** Answers a call with a channel. */
  openChannel(call: Call): Channel {
    const channel = new Channel(call.id!, this)
    this.answer(call, { h: 1 })
    this.#channels.set(call.id!, channel)
    return channel
  }

  // ------------------------------------------------------------ channels

  /** Gives credit for a channel, in totals. */
  grant(h: number, n: number, bytes: number): void {
    this.#socket.post(writeControl({ t: "credit", h, n, bytes }))
  }

  /** Forgets a channel that has ended, and the requests on it. */
  forget(channel: Channel, error: Error): void {
    this.#channels.delete(channel.id)
    for (const [i, request] of this.#requests) {
      if (request.place.h === channel.id) this.#answered(i)?.reject(error)
    }
  }

  // ------------------------------------------------------------ the session

  #control(control: Control): void {
    const limits = control.limits as Control | undefined
    if (limits && typeof limits === "object") {
      this.#largest = count(limits, "message") || this.#largest
      this.#running = count(limits, "running") || this.#running
    }
    if (control.t === "welcome") {
      if (Array.isArray(control.features)) this.#features = control.features
      if (this.#features.includes(this.#codec.feature)) this.#encoder = this.#codec
    } else if (control.t === "credit") {
      this.#channels.get(count(control, "h"))?.credited(count(control, "n"), count(control, "bytes"))
    } else if (control.t === "drain") {
      this.#owner.draining()
      this.#socket.post(writeControl({ t: "drain", after_ms: 0 }))
    }
  }

  #closed(code: number, reason: string): void {
    const text = reason ? `the connection has ended: ${code} ${reason}` : `the connection has ended: ${code}`
    const lost = (outcome: "unknown" | "not_sent") => new ConnectionLost(text, outcome, code)
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    const requests = [...this.#requests.values()]
    this.#requests.clear()
    for (const request of requests) request.reject(lost(request.kept?.sent === false ? "not_sent" : "unknown"))
    for (const request of waiting) request.reject(lost("not_sent"))
    for (const call of this.#calls.values()) call.cancel(lost("unknown"))
    for (const channel of [...this.#channels.values()]) channel.over(lost("unknown"))
    this.#owner.closed(code, reason)
  }
}

/** A call of the server: `this` in a handler. */
export class Call {
  readonly #peer: Peer
  /** Undefined for an event. */
  readonly id: number | undefined
  readonly #controller = new AbortController()
  #channel: Channel | undefined
  #items: Items<any> | undefined
  /** The request with which an upload ends, and what the handler has returned: the one is the answer to the other. */
  #last: Message | undefined
  #result: Message | undefined

  constructor(peer: Peer, id: number | undefined) {
    this.#peer = peer
    this.id = id
  }

  /** Aborted when the server cancels the call, or the session ends. */
  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** Answers the request with a channel, for a conversation. The channel ends when the handler has returned. */
  channel(): Channel {
    if (this.id === undefined) throw new TypeError("an event has no answer, so it opens no channel")
    if (!this.#channel) {
      this.#channel = this.#peer.openChannel(this)
      void this.#channel.closed.then((error) => this.#controller.abort(error))
    }
    return this.#channel
  }

  /** Returns the items that the server uploads. What the handler returns is the result of the upload. */
  items<T>(): Items<T> {
    const channel = this.channel()
    const ended = (message: Message) => {
      this.#last = message
      this.#finishUpload()
    }
    return (this.#items ??= new Items<T>(async () => channel, () => this.#peer.givesCredit, ended))
  }

  cancel(reason: Error): void {
    this.#controller.abort(reason)
    this.#peer.answer(this, reasonOnWire("e", reason))
  }

  async run(handle: () => unknown): Promise<void> {
    try {
      const result = await handle()
      if (this.#items) {
        this.#result = { d: result }
        if (!this.#last) await this.#items.return()
        this.#finishUpload()
      } else if (this.#channel) this.#channel.close()
      else if (isStream(result)) {
        const channel = this.channel()
        await new Producer(channel).run(result)
        channel.emit("next", { done: true })
        channel.over(FINISHED)
      } else this.#peer.answer(this, { d: result })
    } catch (error) {
      if (this.#channel) this.#channel.abort(error)
      else this.#peer.answer(this, reasonOnWire("e", error))
    }
  }

  #finishUpload(): void {
    if (!this.#result || !this.#last) return
    this.#channel!.answer(this.#last, this.#result)
    this.#channel!.over(FINISHED)
  }
}

/** The fields of a message that say why something has failed or ended. */
export function reasonOnWire(key: "e" | "x", reason: unknown): Message {
  if (!(reason instanceof Error) && !(reason as { message?: unknown } | undefined)?.message) return { [key]: reason }
  const { message, code, data } = reason as { message: string; code?: unknown; data?: unknown }
  return { [key]: { message, code, data }, _: 1 }
}

/** Whether a handler has returned a stream: an async iterable or a generator. Arrays and strings are values. */
function isStream(value: unknown): value is Source<unknown> {
  if (typeof value !== "object" || value === null) return false
  return Symbol.asyncIterator in value || (Symbol.iterator in value && "next" in value)
}
