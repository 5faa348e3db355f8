// `Dialing`: makes the connections of a session.

import { Backoff } from "./backoff.js"
import { now } from "./clock.js"
import type { Address, SocketOptions, Target, WebSocketClass, WebSocketLike } from "./target.js"

/** What `Dialing` notifies. */
export interface DialingOwner {
  /** An attempt has succeeded: the connection is open. */
  dialed(connection: WebSocketLike): void
  /** An attempt has failed, or the connection has ended. */
  connectionLost(code: number, reason: string): void
}

/** The close code of a connection that could not be made, or that has ended without a close code. */
export const ABNORMAL = 1006
/** Why a connection was left, or could not be made. */
export const SILENT = "the server does not answer"
/** Why a connection was not made. A WebSocket does not say more. */
const REFUSED = "the server refuses the connection, or is not reachable"
/** The close code that tells the server that the session will resume on another connection. */
export const RESUMES = 4412
/** The subprotocol that is offered when a session is to resume, because browsers can send no header. */
const HINT = "wsrpc.resume"
/** Offered along with a token, because Chrome fails a connection if the server accepts none of the offers. */
const NEUTRAL = "wsrpc"
/** Milliseconds after which an attempt fails. */
const ATTEMPT_TIMEOUT = 10_000
/** The same for the next attempt: twice as many after one without an answer, because the network may be far. */
let patience = ATTEMPT_TIMEOUT
/** Milliseconds after which HTTP is tried in place of a WebSocket that does not open, or on which nothing arrives. */
const HTTP_TIMEOUT = 4_000
/**
 * Milliseconds from the first attempt after a WebSocket on which a message has arrived. In this time, the network counts
 * as one that passes WebSockets: a thousand pages that return to a slow network must not dial twice as often.
 */
const PASSES = 30_000

const FAILED = { code: ABNORMAL, reason: SILENT }

/** What this page has learned of the network on the way to an address. */
export interface Network {
  /** Until when HTTP is tried first. Then a WebSocket is tried beside it. */
  blockedUntil: number
  /** Until when HTTP is not tried: see `PASSES`. Infinite while there is a WebSocket. */
  passesUntil: number
}
const networks = new Map<string, Network>()
globalThis.addEventListener?.("online", () => networks.clear()) // it may be another network

/** Makes one attempt at a time to connect, at once or after a delay. */
export class Dialing {
  readonly #target: Target
  readonly #options: SocketOptions
  readonly #owner: DialingOwner
  readonly backoff = new Backoff(() => this.dial())
  /** Whether an attempt is in progress. */
  isDialing = false
  /** When the last attempt has started, or has succeeded. */
  since = 0
  /** When the last connection has opened. */
  openedAt = 0
  /** Whether the connections are to resume a session. */
  asksToResume = false
  /** The address of the last attempt. */
  url = ""
  /** Distinguishes the present attempt from earlier attempts, which were given up. */
  #attempt = 0
  /** The open connection, until a message has arrived. */
  #mute: WebSocketLike | undefined
  #network!: Network
  /** The connection that is being made. */
  #connection: WebSocketLike | undefined
  /** Ends the present attempt. */
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(target: Target, options: SocketOptions, owner: DialingOwner) {
    this.#target = target
    this.#options = options
    this.#owner = owner
  }

  /**
   * Starts an attempt.
   *
   * @throws SyntaxError if this is the first attempt, and the address is not valid
   */
  dial(): void {
    this.stop()
    const attempt = this.#attempt
    const target = this.#target
    const open = (address: string | URL | Address) => attempt === this.#attempt && this.#open(address)
    const fail = (error: unknown) => this.#fail(error, attempt)
    this.isDialing = true
    this.since = now()
    const ask = () => (typeof target === "function" ? target() : target)
    if (!this.url && typeof target !== "function") open(target)
    else Promise.resolve().then(ask).then(open).catch(fail) // not now: the function may close the client
    const overdue = () => {
      patience = 2 * ATTEMPT_TIMEOUT
      fail(SILENT)
    }
    this.#timer = setTimeout(overdue, patience)
  }

  #fail(error: unknown, attempt: number): void {
    if (attempt === this.#attempt) this.#owner.connectionLost(ABNORMAL, String(error))
  }

  /** Reads an address, and returns the subprotocols to offer there. */
  #read(address: string | URL | Address): string[] {
    const { url = address as string | URL, token } = address as Partial<Address>
    this.url = absolute(url)
    const offers = token === undefined ? [] : [`bearer.${token}`, NEUTRAL]
    return this.asksToResume ? [...offers, HINT] : offers
  }

  #open(address: string | URL | Address): void {
    const offers = this.#read(address)
    const { WebSocket: own, transports = own ? ["websocket"] : ["websocket", "http"] } = this.#options
    const network = (this.#network = networks.get(this.url) ?? { blockedUntil: 0, passesUntil: 0 })
    networks.set(this.url, network)
    network.passesUntil = Math.min(network.passesUntil, now() + PASSES)
    if (transports[0] === "http" || network.blockedUntil > now()) return void this.#openHttp(FAILED, offers)
    const WebSocketClass = own ?? (globalThis.WebSocket as unknown as WebSocketClass)
    const connection = new WebSocketClass(this.url, offers)
    this.#use(connection)
    if (!transports.includes("http") || network.passesUntil > now()) return
    const lost = connection.onclose!
    const isOpening = () => connection === this.#connection
    connection.onclose = (event) => (isOpening() ? void this.#openHttp(event) : lost(event))
    setTimeout(() => {
      if (isOpening()) void this.#openHttp(FAILED)
      else if (this.#mute === connection && connection.readyState === 1) void this.#openHttp()
    }, HTTP_TIMEOUT)
  }

  #use(connection: WebSocketLike): void {
    this.#connection = connection
    connection.onopen = () => {
      this.#connection = undefined
      this.stop()
      this.since = this.openedAt = now()
      patience = ATTEMPT_TIMEOUT
      this.#mute = connection
      this.#owner.dialed(connection)
    }
    connection.onerror = () => {}
    connection.onclose = (event) => this.#lost(event, connection === this.#connection)
  }

  #lost({ code, reason }: { code: number; reason: unknown }, isAttempt = true): void {
    this.#owner.connectionLost(code, String(reason) || (isAttempt ? REFUSED : ""))
  }

  /** A message has arrived. */
  arrived(): void {
    if (this.#mute && !("onreplace" in this.#mute)) this.#network.passesUntil = Infinity
    this.#mute = undefined
  }

  /**
   * Tries HTTP.
   *
   * @param failed how the attempt with a WebSocket has failed. Without it, there is a WebSocket on which nothing arrives.
   *   If HTTP opens, its session moves, or ends. (Some servers send nothing at first, and have no HTTP.)
   * @param offers the subprotocols to offer. Without them, the address is asked for again: a token may be for one
   *   connection, and the server may have got it with the WebSocket.
   */
  async #openHttp(failed?: { code: number; reason: string }, offers?: string[]): Promise<void> {
    const attempt = this.#attempt
    const target = this.#target
    const triesWebSocket = this.#options.transports?.[0] !== "http"
    const module = await import("./http.js").catch(() => undefined)
    if (attempt !== this.#attempt) return
    if (!module) return failed && failed !== FAILED ? this.#lost(failed) : undefined
    try {
      offers ??= this.#read(typeof target === "function" ? await target() : target)
    } catch (error) {
      return failed && this.#fail(error, attempt)
    }
    if (attempt !== this.#attempt) return
    if (this.#connection) disown(this.#connection, RESUMES)
    const connection = new module.HttpSocket(this.url, failed ? offers : [...offers, HINT], target, this.#network)
    const use = (other: WebSocketLike) => {
      this.#use(other)
      other.onopen!({})
    }
    if (failed) this.#use(connection)
    else connection.onopen = () => (this.#mute && attempt === this.#attempt ? use(connection) : connection.close())
    if (triesWebSocket) connection.onreplace = (other) => (this.asksToResume ? use(other) : other.close())
  }

  /**
   * Gives up the attempt, or the wait for the next one.
   *
   * @param code the close code for the connection that is being made
   */
  stop(code = RESUMES): void {
    clearTimeout(this.#timer)
    this.backoff.stop()
    if (this.#connection) disown(this.#connection, code)
    this.#connection = undefined
    this.#attempt++
    this.isDialing = false
  }
}

/** Closes a connection without waiting for its end, and ignores the messages that it still delivers. */
export function disown(connection: WebSocketLike, code: number): void {
  connection.onmessage = connection.onclose = null
  // If a connection is closed before it is open, Chrome writes an error into the console. So this waits, unless another
  // attempt follows: Chrome makes one connection to a server at a time, and the present one may hang.
  const now = connection.readyState === 1 || code === RESUMES || !globalThis.document
  if (now) connection.close(code)
  else setTimeout((connection.onopen = () => connection.close(code)), ATTEMPT_TIMEOUT) // or later attempts would wait
}

/** Returns the address for a WebSocket. */
function absolute(url: string | URL): string {
  const found = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href)
  found.protocol = found.protocol.replace(/^http/, "ws")
  return found.href
}
