// `PeerCore`: ws-wrapper's protocol in one session.

import { ChannelCore, type ChannelOwner } from "./channel.js"
import { json, type Codec, type Message } from "./codec.js"
import { count, writeControl, type Control } from "./control.js"
import { sizeOf, type Data } from "./data.js"
import { ChannelClosed, ConnectionLost, Refused, RemoteError, textOf, WsrpcError, type Outcome } from "./errors.js"
import { report, type Handlers } from "./handlers.js"
import { Invocation, type InvocationOwner } from "./invocation.js"
import type { Holder, Request, Requester } from "./request.js"
import { Session, type SessionEnd, type SessionOwner } from "./session.js"
import type { SocketOptions, Target } from "./target.js"

/** Request ids: odd, and none that ws-wrapper uses, which counts from 1. A server that calls uses even ones. */
const FIRST_ID = 2 ** 30 + 1
const LAST_ID = 2 ** 31 - 1
/** How many ids are remembered of calls that were given up, and of channels that have ended. */
const REMEMBERED = 1024
/** Milliseconds before the server closes in which nothing new is begun there: it might arrive too late. */
const MARGIN = 1_000
/** More milliseconds than that fire a timer at once. */
const LONGEST_TIMER = 2 ** 31 - 1
/** How many requests of the server are handled at once. */
const RUNNING = 10_000

/** What a peer reports to: its client. */
export interface PeerOwner {
  /** Returns the handlers of the main channel (undefined), or of a named one, if there have ever been any. */
  handlers(channel: string | undefined): Handlers | undefined
  opened(): void
  /** The connection has dropped, or an attempt to resume has failed. Another one follows. */
  sessionDetached(error: ConnectionLost): void
  resumed(): void
  sessionOver(error: ConnectionLost): void
  /** The server drains, so that another session follows. */
  draining(): void
  /** Requests that have waited for a place at the server wait for the next session. */
  requeue(requests: Iterable<Request>): void
  /** Something that arrived was not used. */
  ignore(kind: string): void
}

/** What both sides have begun in one session with a server. It is dropped when the session ends. */
export class PeerCore implements ChannelOwner, Holder, InvocationOwner, Requester, SessionOwner {
  readonly #session: Session
  readonly features: readonly string[]
  readonly #owner: PeerOwner
  readonly #codec: Codec
  readonly #requests = new Map<number, Request>()
  /** Requests that were given up, until their answer comes, and the places that they occupy at the server. */
  readonly #givenUp = new Map<number, number>()
  /** Channels that have ended. What still comes on them was sent before the server knew. */
  readonly #endedChannels = new Map<number, true>()
  /** Calls of the server that are being handled, by their ids. */
  readonly #invocations = new Map<number, Invocation>()
  readonly #channels = new Map<number, ChannelCore>()
  #nextId = FIRST_ID + 2 * Math.floor((Math.random() * (LAST_ID - FIRST_ID)) / 4)
  #features: readonly unknown[] = []
  /** The largest message that the server accepts, and how many requests it runs at the same time. */
  #largest = Infinity
  #running = Infinity
  /** How many requests the server runs. Those on anonymous channels do not count: a reader may answer them. */
  #occupied = 0
  /** Requests that wait because the server runs so many. */
  readonly #waiting = new Set<Request>()
  /** Since the server drains: the ids of the requests, calls and channels that were there before. */
  #begun: Set<number> | undefined
  /** When the server closes, because it drains. */
  closesAt: number | undefined
  #drainTimer: ReturnType<typeof setTimeout> | undefined
  /** Whether nothing new is begun. */
  #isSilent = false

  constructor(target: Target, options: SocketOptions, codec: Codec, owner: PeerOwner) {
    this.#owner = owner
    this.#codec = codec
    this.features = ["batches", "credit", "drain", ...(codec.feature ? [codec.feature] : [])]
    this.#session = new Session(target, [], options, this)
    this.#session.binaryType = "arraybuffer"
  }

  /** When the next attempt to connect begins, if it waits. */
  get retryAt(): number | undefined {
    return this.#session.dialing.retryAt
  }

  /** Connects now, if the session waits for its next attempt. */
  retry(): void {
    this.#session.retry()
  }

  /** Closes the connection. Calls fail only with `end`, or when the other side has closed it, too. */
  close(code: number, reason: string): void {
    this.#session.close(code, reason)
  }

  /** Whether events and requests can be sent. They leave room for what has to be sent: answers and channels. */
  get hasRoom(): boolean {
    return this.#session.fullness <= 1 / 2
  }

  get isBusy(): boolean {
    return this.#requests.size + this.#invocations.size + this.#channels.size > 0
  }

  /** Whether the server keeps to credit when it produces. */
  get hasCredit(): boolean {
    return this.#features.includes("credit")
  }

  /** Whether the server drains. */
  get drains(): boolean {
    return this.#begun !== undefined
  }

  /**
   * Whether an event or a request can be sent in this session although the server may drain.
   *
   * @param opens whether it opens a channel. That might not end in time
   */
  takes(opens: boolean): boolean {
    if (!this.#isSilent && !(opens && this.drains)) return true
    if (this.closesAt! - Date.now() < MARGIN) return false
    // The server awaits a handler, which may need an answer of the server. The ids of its calls are even.
    return [...this.#invocations.keys(), ...this.#channels.keys()].some((id) => id % 2 === 0)
  }

  // ------------------------------------------------------------ sending

  /**
   * Sends a message, and returns its size.
   *
   * @throws Refused if it is larger than the server accepts
   * @throws TypeError if it cannot be encoded
   */
  send(message: Message): number {
    const data = this.#encoded(message)
    const size = this.#sized(data)
    this.#session.send(data, size)
    return size
  }

  /** Checks that a message can be sent later. Throws what `send` throws. */
  check(message: Message): void {
    this.#sized(this.#encoded(message))
  }

  #encoded(message: Message): Data {
    return this.#codec.encode(message, this.#features.includes(this.#codec.feature))
  }

  #sized(data: Data): number {
    const size = sizeOf(data)
    if (size > this.#largest) throw new Refused(`a message of ${size} bytes, and the server takes ${this.#largest}`)
    return size
  }

  /** Says why something has ended. If the reason cannot be sent, the other side gets the text that says so. */
  tell(message: Message, key: "e" | "x", reason: unknown): void {
    try {
      this.send({ ...message, ...reasonOnWire(key, reason) })
    } catch (error) {
      this.#session.send(JSON.stringify({ ...message, [key]: { message: (error as Error).message }, _: 1 }))
    }
  }

  /** Sends a request, now or when the server has room for it. */
  request(request: Request): Promise<any> {
    if (request.isDone) return request.answer
    request.holder = this
    if (request.channel.h === undefined && this.#occupied >= this.#running) {
      this.#waiting.add(request)
    } else this.#send(request)
    return request.answer
  }

  #send(request: Request): void {
    const i = (request.id = this.#newId())
    const { channel, event, args } = request
    try {
      const data = this.#encoded({ i, a: [event, ...args], ...channel })
      request.kept = this.#session.send(data, this.#sized(data))
    } catch (error) {
      request.reject(error)
      return
    }
    this.#requests.set(i, request)
    this.#occupied += placesOf(request)
  }

  withdraw(request: Request, reason: unknown): boolean {
    if (this.#waiting.delete(request)) return false
    const { id: i, kept } = request
    const isBack = kept && this.#session.takeBack(kept)
    if (!isBack) this.tell({ i }, "x", reason)
    this.#giveUp(i, !isBack)
    return !isBack
  }

  #newId(): number {
    do this.#nextId = this.#nextId + 2 > LAST_ID ? FIRST_ID : this.#nextId + 2
    while (this.#isUsed(this.#nextId) || this.#givenUp.has(this.#nextId))
    return this.#nextId
  }

  #isUsed(id: number): boolean {
    return [this.#requests, this.#invocations, this.#channels].some((ids) => ids.has(id))
  }

  /** Forgets a request whose answer nobody awaits. If one can come, its place stays occupied until then. */
  #giveUp(i: number, canAnswer: boolean): void {
    const places = placesOf(this.#requests.get(i)!)
    this.#requests.delete(i)
    this.#finished()
    this.#free(canAnswer ? (remember(this.#givenUp, i, places) ?? 0) : places) // that of a forgotten request
  }

  /** Sends requests that have waited for the places of others. */
  #free(places: number): void {
    this.#occupied -= places
    for (const next of this.#waiting) {
      if (this.#occupied >= this.#running) break
      this.#waiting.delete(next)
      this.#send(next)
    }
  }

  // ------------------------------------------------------------ receiving

  receive(data: Data, size: number): void {
    let message: Message | undefined
    try {
      message = (typeof data === "string" ? json : this.#codec).decode(data)
    } catch {
      // not JSON, or not MessagePack
    }
    if (!message) return this.#owner.ignore("foreign")
    // Null is the same as nothing.
    for (const key of ["a", "c", "h", "i"] as const) if (message[key] === null) delete message[key]
    const { h = 0, i = 0 } = message
    if (typeof h !== "number" || typeof i !== "number") this.#owner.ignore("foreign")
    else if (Array.isArray(message.a) && typeof message.a[0] === "string") this.#receiveCall(message, size)
    else if (message.a) this.#owner.ignore("foreign")
    else if ("x" in message) this.#stop(message)
    else if (message.i !== undefined) this.#receiveResponse(message.i, message)
    else this.#owner.ignore("foreign")
  }

  #receiveCall(message: Message, size: number): void {
    const { h, i } = message
    if (h === undefined) return this.run(this.#owner.handlers(message.c), message)
    const channel = this.#channels.get(h)
    if (channel) return channel.receive(message, size)
    const gone = { message: `Anonymous channel '${textOf(h)}' does not exist` }
    if (i !== undefined) this.tell({ i }, "e", gone)
    if (!this.#endedChannels.has(h)) this.tell({ h }, "x", gone)
  }

  /** A cancellation or an abort. One that crosses with the answer, or the end, finds nothing. */
  #stop({ i, h, x, _ }: Message): void {
    const reason = new RemoteError(x, _, true)
    if (h !== undefined) this.#channels.get(h)?.end(reason)
    else if (this.#invocations.has(i!)) this.#invocations.get(i!)!.cancel(reason)
    else if (this.hasCredit) this.#channels.get(i!)?.end(reason) // the answer was a channel
  }

  #receiveResponse(i: number, message: Message): void {
    const request = this.#requests.get(i)
    const places = request ? placesOf(request) : this.#givenUp.get(i)
    if (places === undefined) return this.#owner.ignore("response to no request")
    this.#requests.delete(i)
    this.#givenUp.delete(i)
    if ("e" in message) request?.reject(new RemoteError(message.e, message._))
    else if (message.h) this.#opened(i, request)
    else if (request?.opens) request.reject(new WsrpcError(`"${request.event}" answers with a value: use request()`, "ran"))
    else request?.resolve(message.d)
    this.#finished()
    this.#free(places)
  }

  /** A channel is the answer to a request. */
  #opened(i: number, request: Request | undefined): void {
    const channel = new ChannelCore(i, this, request?.signal)
    this.#channels.set(i, channel)
    if (request?.opens) return request.resolve(channel)
    channel.abort()
    // ws-wrapper 4 answers with a channel if a handler returns null.
    if (!this.hasCredit) request?.resolve(null)
    else {
      const text = `"${request?.event}" answers with a stream or a channel: use stream(), upload() or open()`
      request?.reject(new WsrpcError(text, "ran"))
    }
  }

  // ------------------------------------------------------------ calls of the server

  /** Runs the handlers of an event, or the handler of a request. */
  run(handlers: Handlers | undefined, { a, c, h, i }: Message): void {
    const [event, ...args] = a as [string, ...unknown[]]
    const found = handlers?.of(event) ?? []
    const [handler] = found
    if (i === undefined) {
      if (!found.length) this.#owner.ignore("unknown event")
      for (const each of found) (async () => each.apply(new Invocation(this, undefined), args))().catch(report)
    } else if (this.#isUsed(i)) this.#owner.ignore("duplicate id")
    else if (!handler) {
      const exists = handlers || c === undefined
      const text = exists ? `No event listener for '${event}'` : `Channel '${textOf(c)}' does not exist`
      this.tell({ i }, "e", { message: text, code: "wsrpc.unknown_event" })
    } else if (this.#invocations.size >= RUNNING) {
      this.tell({ i }, "e", { message: `the page handles ${RUNNING} requests already`, code: "wsrpc.overloaded" })
    } else {
      const invocation = new Invocation(this, i, h)
      this.#invocations.set(i, invocation)
      void invocation.run(() => handler.apply(invocation, args))
    }
  }

  #awaits(invocation: Invocation): boolean {
    return this.#invocations.get(invocation.id!) === invocation
  }

  reply(invocation: Invocation, answer: Message): void {
    if (!this.#awaits(invocation)) return
    this.send({ i: invocation.id!, ...answer })
    this.#invocations.delete(invocation.id!)
    if (!answer.h) this.#finished()
  }

  reject(invocation: Invocation, reason: unknown): void {
    if (!this.#awaits(invocation)) return
    this.#invocations.delete(invocation.id!)
    this.tell({ i: invocation.id! }, "e", reason)
    this.#finished()
  }

  openChannel(invocation: Invocation): ChannelCore {
    const channel = new ChannelCore(invocation.id!, this)
    if (this.#awaits(invocation)) {
      this.reply(invocation, { h: 1 })
      this.#channels.set(invocation.id!, channel)
    } else channel.end(invocation.signal.reason)
    return channel
  }

  // ------------------------------------------------------------ channels

  /** Gives credit for a channel, in totals. */
  grant(h: number, n: number, bytes: number): void {
    this.#session.send(writeControl({ t: "credit", h, n, bytes }))
  }

  /** Forgets a channel that has ended, and the requests on it: those of this side fail, and the others are cancelled. */
  forget(channel: ChannelCore, error: Error): void {
    if (this.#channels.get(channel.id) !== channel) return
    this.#channels.delete(channel.id)
    remember(this.#endedChannels, channel.id, true)
    for (const [i, request] of this.#requests) {
      if (request.channel.h !== channel.id) continue
      this.#giveUp(i, true)
      request.reject(error)
    }
    for (const invocation of [...this.#invocations.values()]) {
      if (invocation.h === channel.id) invocation.cancel(error)
    }
    this.#finished()
  }

  // ------------------------------------------------------------ the session

  opened(): void {
    this.#owner.opened()
  }

  detached(code: number, reason: string): void {
    this.#owner.sessionDetached(lost(code, reason, "not_sent"))
  }

  resumed(): void {
    this.#owner.resumed()
  }

  over({ code, reason }: SessionEnd): void {
    this.end(code, reason)
  }

  control(control: Control): void {
    const limits = Object(control.limits) as Control
    this.#largest = count(limits, "message") || this.#largest
    this.#running = count(limits, "running") || this.#running
    this.#free(0)
    if (control.t === "welcome") {
      if (Array.isArray(control.features)) this.#features = control.features
    } else if (control.t === "credit") {
      this.#channels.get(count(control, "h"))?.credited(count(control, "n"), count(control, "bytes"))
    } else if (control.t === "drain") {
      this.#drains(count(control, "after_ms"))
    }
  }

  /** The server closes in so many milliseconds, or in NaN. Until then, what had begun may need further calls. */
  #drains(ms: number): void {
    if (this.#isSilent) return
    clearTimeout(this.#drainTimer)
    this.closesAt = Date.now() + ms || undefined // NaN: the server does not say when
    this.#begun ??= new Set([...this.#requests.keys(), ...this.#invocations.keys(), ...this.#channels.keys()])
    this.#owner.draining()
    if (ms >= MARGIN) {
      this.#drainTimer = setTimeout(() => this.#beSilent(), Math.min(ms - MARGIN, LONGEST_TIMER))
      this.#finished()
    } else this.#beSilent()
  }

  /** Begins nothing new when what had begun before the server drained has ended. */
  #finished(): void {
    if (!this.#begun) return
    for (const id of this.#begun) {
      if (this.#isUsed(id)) return
      this.#begun.delete(id)
    }
    this.#beSilent()
  }

  #beSilent(): void {
    if (this.#isSilent) return
    this.#isSilent = true
    clearTimeout(this.#drainTimer)
    this.#owner.requeue(this.#waiting)
    this.#waiting.clear()
    this.#session.send(writeControl({ t: "drain", after_ms: 0 }))
  }

  /** The session is over: everything in it fails. */
  end(code: number, reason: string): void {
    this.#isSilent = true
    clearTimeout(this.#drainTimer)
    const ended = (outcome: Outcome) => lost(code, reason, outcome)
    const requests = [...this.#requests.values(), ...this.#waiting]
    this.#waiting.clear()
    this.#requests.clear()
    this.#givenUp.clear()
    for (const request of requests) {
      const wasSent = request.id && request.kept?.sent !== false // one that waits for a place has no id
      request.reject(ended(wasSent ? "unknown" : "not_sent"))
    }
    for (const invocation of [...this.#invocations.values()]) invocation.cancel(ended("unknown"))
    for (const channel of [...this.#channels.values()]) channel.end(ended("unknown"))
    this.#owner.sessionOver(ended("not_sent"))
  }
}

/** Returns the error for the end of a connection. */
function lost(code: number, reason: string, outcome: Outcome): ConnectionLost {
  return new ConnectionLost(`the connection has ended: ${code} ${reason}`.trim(), outcome, code)
}

/** The places that a request occupies at the server while it is handled. */
const placesOf = (request: Request): number => (request.channel.h === undefined ? 1 : 0)

/** Keeps a value for an id, and returns that of the oldest one if it is forgotten. */
function remember<V>(ids: Map<number, V>, id: number, value: V): V | undefined {
  ids.set(id, value)
  const [[oldest, forgotten]] = ids as unknown as [[number, V]]
  if (ids.size <= REMEMBERED) return undefined
  ids.delete(oldest)
  return forgotten
}

/** The fields of a message that say why something has failed or ended. */
export function reasonOnWire(key: "e" | "x", reason: unknown): Message {
  reason ??= { message: key === "x" ? "Request aborted" : "Error" } // as ws-wrapper says it
  if (!(reason instanceof Error) && !(reason as { message?: unknown }).message) return { [key]: reason }
  const { message, code, data } = reason as { message: string; code?: unknown; data?: unknown }
  // The codes of a DOMException are numbers that mean nothing on the other side.
  return { [key]: { message, code: reason instanceof DOMException ? undefined : code, data }, _: 1 }
}
