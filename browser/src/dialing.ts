// `Dialing`: makes the connections of a session.

import { Backoff } from "./backoff.js"
import { now } from "./clock.js"
import type { Address, SocketOptions, Target, WebSocketClass, WebSocketLike } from "./target.js"

/** What dialing reports to. */
export interface DialingOwner {
  /** An attempt has succeeded: the connection is open. */
  dialed(connection: WebSocketLike): void
  /** An attempt has failed, or the connection that it has made has ended. */
  connectionLost(code: number, reason: string, wasClean?: boolean): void
}

/** The close code of a connection that has ended without one, or could not be made. */
export const ABNORMAL = 1006
/** The close code by which the server learns that the session is to resume on another connection. */
export const RESUMES = 4412
/** Offered when a session is to resume: browsers can send no header. */
const HINT = "wsrpc.resume"
/** Offered along with a token: Chrome fails a connection none of whose offers is accepted. */
const NEUTRAL = "wsrpc"
/** Milliseconds for an attempt. */
const ATTEMPT = 10_000

/** Makes one attempt at a time to connect, at once or after a delay. */
export class Dialing {
  readonly #target: Target
  readonly #protocols: readonly string[]
  readonly #options: SocketOptions
  readonly #owner: DialingOwner
  readonly #backoff = new Backoff()
  state: "idle" | "waiting" | "dialing" = "idle"
  /** When the next attempt begins, as `Date.now()` will be then, if it waits. */
  retryAt: number | undefined
  /** When the last attempt has begun, or has succeeded. */
  since = 0
  /** Whether the connections are to resume a session. */
  asksToResume = false
  /** The address of the last attempt. */
  url = ""
  /** Distinguishes the present attempt from those that were given up. */
  #attempt = 0
  /** The connection that is being made. */
  #connection: WebSocketLike | undefined
  /** Until the next attempt, or the end of an attempt. */
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(target: Target, protocols: readonly string[], options: SocketOptions, owner: DialingOwner) {
    this.#target = target
    this.#protocols = protocols
    this.#options = options
    this.#owner = owner
  }

  /**
   * Begins an attempt.
   *
   * @throws SyntaxError if it is the first one, and the address is not valid
   */
  dial(): void {
    this.stop()
    const attempt = this.#attempt
    const target = this.#target
    const open = (address: string | URL | Address) => attempt === this.#attempt && this.#open(address)
    const fail = (error: unknown) => attempt === this.#attempt && this.#owner.connectionLost(ABNORMAL, String(error))
    this.state = "dialing"
    this.since = now()
    if (typeof target === "function") Promise.resolve().then(target).then(open).catch(fail)
    else if (!this.url) open(target)
    else Promise.resolve(target).then(open).catch(fail)
    this.#timer = setTimeout(fail, ATTEMPT, "no connection within 10 s")
  }

  #open(address: string | URL | Address): void {
    const { url = address as string | URL, token } = address as Partial<Address>
    const offers = [...this.#protocols]
    if (token !== undefined) offers.push(`bearer.${token}`, NEUTRAL)
    if (this.asksToResume) offers.push(HINT)
    const WebSocketClass = this.#options.WebSocket ?? (globalThis.WebSocket as unknown as WebSocketClass)
    this.url = absolute(url)
    const connection = new WebSocketClass(this.url, offers)
    this.#connection = connection
    connection.onopen = () => {
      this.#connection = undefined
      this.stop()
      this.since = now()
      this.#owner.dialed(connection)
    }
    connection.onerror = () => {}
    connection.onclose = ({ code, reason, wasClean }) => this.#owner.connectionLost(code, String(reason), wasClean)
  }

  /**
   * Begins an attempt after a delay.
   *
   * @param code the close code of the last connection
   * @param lasted the milliseconds for which it was open; 0 for a failed attempt
   * @param resumed whether the session has resumed on it
   */
  dialLater(code: number, lasted: number, resumed: boolean): void {
    const delay = this.#backoff.delay(code, lasted, resumed)
    this.state = "waiting"
    this.retryAt = Date.now() + delay
    this.#timer = setTimeout(() => this.dial(), delay)
  }

  /**
   * Gives up the attempt, or the wait for the next one.
   *
   * @param code the close code for the connection that is being made
   */
  stop(code = RESUMES): void {
    clearTimeout(this.#timer)
    if (this.#connection) disown(this.#connection, code)
    this.#connection = this.retryAt = undefined
    this.#attempt++
    this.state = "idle"
  }
}

/** Closes a connection, without waiting for its end, and ignores what it still delivers. */
export function disown(connection: WebSocketLike, code: number): void {
  connection.onmessage = connection.onclose = null
  // Chrome reports it in the console if a connection is closed before it is open. But it makes only one connection to
  // a server at a time, so the next attempt would wait for one that hangs.
  const now = connection.readyState === 1 || code === RESUMES || !globalThis.document
  if (now) connection.close(code)
  else connection.onopen = () => connection.close(code)
}

/** Returns the address for a WebSocket. */
function absolute(url: string | URL): string {
  const found = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href)
  found.protocol = found.protocol.replace(/^http/, "ws")
  return found.href
}
