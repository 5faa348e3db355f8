// `PeerCore`: ws-wrapper's protocol in one session of a client.

import { ChannelCore, type ChannelOwner } from "./channel_core.js"
import { now } from "./clock.js"
import { json, type Codec, type Message } from "./codec.js"
import { readContext } from "./call_context.js"
import { count, writeControl, type Control } from "./control.js"
import { sizeOf, type Data } from "./data.js"
import { Draining } from "./draining.js"
import { ChannelClosed, ConnectionLost, Refused, RemoteError, textOf, WsrpcError, type Outcome } from "./errors.js"
import { report, type Handlers } from "./handlers.js"
import { Invocation, type InvocationOwner } from "./invocation.js"
import { PendingRequests, type PendingOwner } from "./pending.js"
import { addRecent } from "./recent.js"
import type { Outgoing } from "./replay.js"
import type { Request } from "./request.js"
import { Session, type SessionOwner } from "./session.js"
import type { SocketOptions, Target } from "./target.js"

/** How many requests of the server are handled at the same time. */
const MAX_RUNNING = 10_000
/** Milliseconds after which large messages no longer wait for the server's features. */
const WELCOME_TIMEOUT = 2_000
/** The same for calls with a key. */
const OPEN_TIMEOUT = 10_000
/** Bytes of the largest message that does not wait. */
const LARGE = 65_536

/** The rooms of the page, by name. Those that it has left stay until the server has answered. */
export type Rooms = Map<string, { position: string | null | undefined; isLeft: boolean }>

/** What a peer needs of its client. */
export interface PeerOwner {
  /** Returns the handlers of the main channel (undefined), or of a named channel. Undefined if none was ever added. */
  handlers(channel: string | undefined): Handlers | undefined
  readonly rooms: Rooms
  /** What the server says of its contract. */
  contract: unknown
  opened(): void
  /** The connection has dropped, or an attempt to resume has failed. The session waits for another connection. */
  sessionDetached(error: ConnectionLost): void
  resumed(): void
  sessionOver(peer: PeerCore, error: ConnectionLost): void
  /** The server drains. Another session follows. */
  drainAnnounced(): void
  /** Sends what has waited, because the features of the server are known. */
  sendQueue(): void
  /** Adds requests to the client's queue, because they can only be sent in the next session. */
  requeue(requests: Iterable<Request>): void
  /** Counts a message that was ignored. */
  ignore(kind: string): void
}

/** The requests, calls and channels of one session with a server. A client has a new object for each session. */
export class PeerCore implements ChannelOwner, InvocationOwner, PendingOwner, SessionOwner {
  declare readonly session: Session
  declare readonly features: readonly string[]
  readonly #owner: PeerOwner
  readonly #codec: Codec
  readonly #pending = new PendingRequests(this)
  /** Requests of the server whose handlers run, by their ids. */
  readonly #invocations = new Map<number, Invocation>()
  readonly #channels = new Map<number, ChannelCore>()
  readonly #inProgress = [this.#pending.requests, this.#invocations, this.#channels]
  /** Channels that have ended. Messages on them were sent before the server knew. */
  readonly #endedChannels = new Set<number>()
  /** Whether messages wait for the features of the server, because one of them is large. */
  #isLarge = false
  /** The largest message that the server accepts. */
  #maxSize = Infinity
  /** Undefined unless the server drains. */
  declare draining: Draining | undefined
  /** When the session has started, by the clock of `now`. Undefined before the first connection. */
  declare openedAt: number | undefined

  constructor(target: Target, options: SocketOptions, codec: Codec, owner: PeerOwner) {
    this.#owner = owner
    this.#codec = codec
    this.features = ["batches", "context", "credit", "drain", "parts", ...(codec.feature ? [codec.feature] : [])]
    this.session = new Session(target, options, this)
  }

  /**
   * Whether events and requests can be sent. The other half of the buffer is for answers and messages on channels. A call
   * with a key waits until the features of the server are known, and from the first large message on, others wait, too.
   *
   * @param next the message that is to be sent
   */
  hasRoom(next: Message): boolean {
    const age = this.session.serverFeatures ? Infinity : now() - this.openedAt!
    const waits = next.ctx?.key !== undefined
      ? age < OPEN_TIMEOUT
      : age < WELCOME_TIMEOUT && (this.#isLarge ||= this.encode(next)[1] > LARGE)
    return !waits && this.session.fullness <= 1 / 2
  }

  get isBusy(): boolean {
    return this.#inProgress.some((table) => table.size > 0)
  }

  /** Whether the server sends items only within its credit. */
  get hasCredit(): boolean {
    return this.#supports("credit")
  }

  #supports(feature: string | undefined): boolean {
    return !!this.session.serverFeatures?.includes(feature)
  }

  hasId(id: number): boolean {
    return this.#inProgress.some((table) => table.has(id))
  }

  // ------------------------------------------------------------ sending

  /**
   * Sends a message.
   *
   * @throws Refused if it is larger than the server accepts, or the server might ignore its key
   * @throws TypeError if it cannot be encoded
   */
  send(message: Message): Outgoing {
    // Not in `encode`, which also checks messages that wait for the server's features.
    if (message.ctx?.key !== undefined && !this.#supports("context")) throw new Refused("the server offers no keys")
    return this.session.send(...this.encode(message))
  }

  /** Returns the data of a message and their size. Throws what `send` throws. */
  encode(message: Message): [data: Data, size: number] {
    // Servers that do not know the context ignore it.
    if (this.session.serverFeatures && !this.#supports("context")) message = { ...message, ctx: undefined }
    const data = this.#codec.encode(message, this.#supports(this.#codec.feature))
    const size = sizeOf(data)
    if (size > this.#maxSize) throw new Refused(`${size} bytes, the server takes ${this.#maxSize}`)
    return [data, size]
  }

  /** Sends the reason why something has ended. If the reason cannot be sent, the server gets the text of that error. */
  sendReason(message: Message, key: "e" | "x", reason: unknown): void {
    try {
      this.send({ ...message, ...reasonOnWire(key, reason) })
    } catch (error) {
      this.session.send(JSON.stringify({ ...message, [key]: { message: (error as Error).message }, _: 1 }))
    }
  }

  /** Sends a request, now or when the server can run it. */
  request(request: Request): Promise<any> {
    return this.#pending.add(request)
  }

  cancelRequest({ id: i, outgoing }: Request, reason: unknown): boolean {
    if (this.session.drop(outgoing!)) return false
    this.sendReason({ i }, "x", reason)
    return true
  }

  requestEnded(): void {
    this.draining?.update()
  }

  // ------------------------------------------------------------ receiving

  receive(data: Data, size: number): void {
    let message: Message = {} // neither a call nor an answer
    try {
      message = (typeof data === "string" ? json : this.#codec).decode(data) ?? message
    } catch {
      // not JSON, or not MessagePack
    }
    // Null means the same as a missing field.
    for (const key of ["a", "c", "ctx", "h", "i"] as const) if (message[key] === null) delete message[key]
    const { a, h = 0, i = 0 } = message
    const isCall = Array.isArray(a) && typeof a[0] === "string"
    if (typeof h !== "number" || typeof i !== "number" || (a && !isCall)) this.#owner.ignore("foreign")
    else if (a) this.#receiveCall(message, size)
    else if ("x" in message) this.#receiveCancellation(message)
    else if (message.i !== undefined) this.#receiveResponse(i, message)
    else this.#owner.ignore("foreign")
  }

  #receiveCall(call: Message, size: number): void {
    const { ctx, h, i } = call
    try {
      if (ctx) {
        call.ctx = readContext(ctx)
        const [name, position] = call.ctx?.at ?? []
        const room = this.#owner.rooms.get(name!)
        if (room?.isLeft) return this.#owner.ignore("event of a left room")
        if (room) room.position = position
      }
    } catch (error) {
      if (i === undefined) return this.#owner.ignore("wrong arguments")
      return this.#refuse(i, (error as Error).message, "wsrpc.bad_arguments")
    }
    if (h === undefined) return this.run(this.#owner.handlers(call.c), call)
    const channel = this.#channels.get(h)
    if (channel) return channel.receive(call, size)
    const message = `Anonymous channel '${textOf(h)}' does not exist`
    if (i !== undefined) this.#refuse(i, message)
    if (!this.#endedChannels.has(h)) this.sendReason({ h }, "x", { message })
  }

  /** Answers a call of the server with an error, because no handler runs. */
  #refuse(i: number, message: string, code?: string): void {
    this.sendReason({ i }, "e", { message, code })
  }

  /** Cancels a call of the server, or ends a channel. If it has ended already, nothing happens. */
  #receiveCancellation({ i, h, x, _ }: Message): void {
    const reason = new RemoteError(x, _, true)
    if (h !== undefined) this.#channels.get(h)?.end(reason)
    else if (this.#invocations.has(i!)) this.#invocations.get(i!)!.cancel(reason)
    else this.#channels.get(i!)?.end(reason) // the answer was a channel, and the server did not know of it yet
  }

  #receiveResponse(i: number, message: Message): void {
    this.session.serverFeatures ??= [] // a wsrpc server sends `welcome` before
    if (!this.#pending.expects(i)) return this.#owner.ignore("response to no request")
    const request = this.#pending.requests.get(i) // undefined if the request was abandoned
    // The server knows the deadline, too, and may have been quicker than the timer of the request.
    if ("e" in message) {
      if (request?.message.ctx?.remaining_ms === 0) request.expire!()
      else request?.reject(new RemoteError(message.e, message._))
    } else if (message.h) this.#channelOpened(i, request)
    else if (request?.opens) request.reject(new WsrpcError(`"${request.message.a![0]}" answers with a value: use request()`, "ran"))
    else request?.resolve(message.d)
    this.#pending.remove(i)
  }

  /** The answer to a request is a channel. */
  #channelOpened(i: number, request: Request | undefined): void {
    const channel = new ChannelCore(i, this, request?.signal)
    this.#channels.set(i, channel)
    if (request?.opens) return request.resolve(channel)
    channel.abort()
    // ws-wrapper 4 answers with a channel if a handler returns null.
    if (!this.hasCredit) request?.resolve(null)
    else {
      const text = `"${request?.message.a![0]}" answers with a channel: use stream(), upload() or open()`
      request?.reject(new WsrpcError(text, "ran"))
    }
  }

  // ------------------------------------------------------------ calls of the server

  /** Runs the handlers of an event, or the handler of a request. */
  run(handlers: Handlers | undefined, { a, c, ctx, h, i }: Message): void {
    const [event, ...args] = a as [string, ...unknown[]]
    const found = handlers?.of(event) ?? []
    const [handler] = found
    if (i === undefined) {
      if (!found.length) this.#owner.ignore("unknown event")
      for (const each of found) (async () => each.apply(new Invocation(this, undefined, ctx), args))().catch(report)
    } else if (this.hasId(i)) this.#owner.ignore("duplicate id")
    else if (!handler) {
      const exists = handlers || c === undefined
      const text = exists ? `No event listener for '${event}'` : `Channel '${textOf(c)}' does not exist`
      this.#refuse(i, text, "wsrpc.unknown_event")
    } else if (ctx?.remaining_ms === 0) {
      this.#owner.ignore("expired before its handler began")
      this.#refuse(i, "expired", "wsrpc.overloaded")
    } else if (this.#invocations.size >= MAX_RUNNING) {
      this.#refuse(i, `the page handles ${MAX_RUNNING} requests already`, "wsrpc.overloaded")
    } else {
      const invocation = new Invocation(this, i, ctx, h)
      this.#invocations.set(i, invocation)
      void invocation.run(() => handler.apply(invocation, args))
    }
  }

  /** Whether the server still awaits the answer of a call. */
  #isCurrent(invocation: Invocation): boolean {
    return this.#invocations.get(invocation.id!) === invocation
  }

  reply(invocation: Invocation, answer: Message): void {
    if (!this.#isCurrent(invocation)) return
    this.send({ i: invocation.id!, ...answer })
    this.#invocations.delete(invocation.id!)
    if (!answer.h) this.draining?.update()
  }

  reject(invocation: Invocation, reason: unknown): void {
    if (!this.#isCurrent(invocation)) return
    this.#invocations.delete(invocation.id!)
    this.sendReason({ i: invocation.id! }, "e", reason)
    this.draining?.update()
  }

  openChannel(invocation: Invocation): ChannelCore {
    const channel = new ChannelCore(invocation.id!, this)
    if (this.#isCurrent(invocation)) {
      this.reply(invocation, { h: 1 })
      this.#channels.set(invocation.id!, channel)
    } else channel.end(invocation.signal.reason)
    return channel
  }

  // ------------------------------------------------------------ channels

  /** Grants credit for a channel, in totals. */
  grant(h: number, n: number, bytes: number): void {
    this.session.send(writeControl({ t: "credit", h, n, bytes }))
  }

  /** Removes a channel that has ended. This side's requests on it fail, and the server's calls on it are cancelled. */
  channelEnded(channel: ChannelCore, error: Error): void {
    if (this.#channels.get(channel.id) !== channel) return
    this.#channels.delete(channel.id)
    addRecent(this.#endedChannels, channel.id)
    this.#pending.channelEnded(channel.id, error)
    for (const invocation of this.#invocations.values()) {
      if (invocation.h === channel.id) invocation.cancel(error)
    }
    this.draining?.update()
  }

  // ------------------------------------------------------------ the session

  opened(): void {
    this.openedAt = now()
    this.#owner.opened()
  }

  sessionDetached(code: number, reason: string): void {
    this.#owner.sessionDetached(lost(code, reason, "not_sent"))
  }

  resumed(): void {
    this.#owner.resumed()
  }

  receiveControl(control: Control): void {
    const limits = Object(control.limits) as Control
    this.#maxSize = count(limits, "message") || this.#maxSize
    this.#pending.setLimit(count(limits, "running"))
    if (control.t === "welcome") {
      this.#owner.contract = control.contract
      this.#owner.sendQueue()
    } else if (control.t === "credit") {
      this.#channels.get(count(control, "h"))?.credited(count(control, "n"), count(control, "bytes"))
    } else if (control.t === "drain") {
      this.draining ??= new Draining(this.#inProgress, () => this.#becomeSilent())
      this.draining.received(count(control, "after_ms"))
      this.#owner.drainAnnounced()
    }
  }

  /** Starts nothing new, because the server drains. */
  #becomeSilent(): void {
    this.#owner.requeue(this.#pending.popWaiting())
    this.session.send(writeControl({ t: "drain", after_ms: 0 }))
  }

  /** The session is over: its requests fail, and its calls and channels end. */
  sessionOver(code: number, reason: string): void {
    this.draining?.stop()
    const ended = (outcome: Outcome) => lost(code, reason, outcome)
    this.#pending.end(ended)
    for (const invocation of this.#invocations.values()) invocation.cancel(ended("unknown"))
    for (const channel of this.#channels.values()) channel.end(ended("unknown"))
    this.#owner.sessionOver(this, ended("not_sent"))
  }
}

/** Returns the error for the end of a connection. */
function lost(code: number, reason: string, outcome: Outcome): ConnectionLost {
  return new ConnectionLost(`the connection has ended: ${code} ${reason}`.trim(), outcome, code)
}

/** Returns the fields of a message with the reason why something has failed or ended. */
function reasonOnWire(key: "e" | "x", reason: unknown): Message {
  reason ??= { message: key === "x" ? "Request aborted" : "Error" } // the texts of ws-wrapper
  if (!(reason instanceof Error) && !(reason as { message?: unknown }).message) return { [key]: reason }
  const { message, code, data } = reason as { message: string; code?: unknown; data?: unknown }
  // The code of a DOMException is a number without a meaning for the server.
  return { [key]: { message, code: reason instanceof DOMException ? undefined : code, data }, _: 1 }
}
