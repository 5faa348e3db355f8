// `PendingRequests`: the requests of one session that await their answers.

import type { Message } from "./codec.js"
import type { Outcome } from "./errors.js"
import { addRecent } from "./recent.js"
import type { Outgoing } from "./replay.js"
import type { Holder, Request } from "./request.js"

/** Request ids are odd, because a server that calls uses even ids. The ids of ws-wrapper start at 1. */
const FIRST_ID = 2 ** 30 + 1
const LAST_ID = 2 ** 31 - 1

/** What pending requests need of their peer. */
export interface PendingOwner {
  /** Whether a request, a call of the server or a channel has this id. */
  hasId(id: number): boolean
  /** @throws Refused, TypeError if the message cannot be sent */
  send(message: Message): Outgoing
  /** Cancels a request at the server. Returns false if the request was not sent, and never will be. */
  cancelRequest(request: Request, reason: unknown): boolean
  requestEnded(): void
}

/**
 * Table of the pending requests of one session. While the server runs as many requests as it can, other requests wait.
 * Requests on anonymous channels neither count nor wait, because a reader may answer them.
 */
export class PendingRequests implements Holder {
  readonly requests = new Map<number, Request>()
  readonly #owner: PendingOwner
  /** Ids of abandoned requests, whose answers no caller awaits, until the server answers them. */
  readonly #abandoned = new Set<number>()
  /** Ids of the requests that the server runs, and how many it runs at the same time. */
  readonly #running = new Set<number>()
  #limit = Infinity
  readonly #waiting = new Set<Request>()
  #nextId = FIRST_ID + 2 * Math.floor((Math.random() * (LAST_ID - FIRST_ID)) / 4)

  constructor(owner: PendingOwner) {
    this.#owner = owner
  }

  /** Sends a request, now or when the server can run it. */
  add(request: Request): Promise<any> {
    if (!request.isDone) {
      request.holder = this
      if (this.#isFull && request.message.h === undefined) this.#waiting.add(request)
      else this.#send(request)
    }
    return request.answer
  }

  get #isFull(): boolean {
    return this.#running.size >= this.#limit
  }

  #send(request: Request): void {
    const id = (request.id = this.#newId())
    try {
      request.outgoing = this.#owner.send({ i: id, ...request.message })
    } catch (error) {
      return request.reject(error)
    }
    this.requests.set(id, request)
    if (request.message.h === undefined) this.#running.add(id)
  }

  #newId(): number {
    do this.#nextId = this.#nextId + 2 > LAST_ID ? FIRST_ID : this.#nextId + 2
    while (this.#owner.hasId(this.#nextId) || this.#abandoned.has(this.#nextId))
    return this.#nextId
  }

  /** Sets how many requests the server runs at the same time. With NaN, the limit stays the same. */
  setLimit(limit: number): void {
    this.#limit = limit || this.#limit
    this.#sendWaiting()
  }

  #sendWaiting(): void {
    for (const request of this.#waiting) {
      if (this.#isFull) break
      this.#waiting.delete(request)
      this.#send(request)
    }
  }

  /** Removes the requests that wait, and returns them. */
  popWaiting(): Request[] {
    const requests = [...this.#waiting]
    this.#waiting.clear()
    return requests
  }

  // ------------------------------------------------------------ the end of requests

  /** Whether the server may answer this request: it is pending, or abandoned. */
  expects(id: number): boolean {
    return this.requests.has(id) || this.#abandoned.has(id)
  }

  /** Removes a request that the server no longer runs. */
  remove(id: number): void {
    this.requests.delete(id)
    this.#abandoned.delete(id)
    this.#running.delete(id)
    this.#owner.requestEnded() // if this side becomes silent, no request waits any more
    this.#sendWaiting()
  }

  withdraw(request: Request, reason: unknown): boolean {
    if (this.#waiting.delete(request)) return false
    const wasSent = this.#owner.cancelRequest(request, reason)
    if (wasSent) this.#giveUp(request.id)
    else this.remove(request.id)
    return wasSent
  }

  /** Abandons a request: the server still runs it, but no caller awaits the answer. */
  #giveUp(id: number): void {
    this.requests.delete(id)
    const dropped = addRecent(this.#abandoned, id)
    if (dropped) this.remove(dropped)
    else this.#owner.requestEnded()
  }

  /** Rejects the requests on an anonymous channel. */
  channelEnded(h: number, error: Error): void {
    for (const [id, request] of this.requests) {
      if (request.message.h !== h) continue
      this.#giveUp(id)
      request.reject(error)
    }
  }

  /** Rejects all requests, because the session has ended. */
  end(error: (outcome: Outcome) => Error): void {
    const requests = [...this.requests.values(), ...this.popWaiting()]
    this.requests.clear()
    for (const request of requests) {
      request.reject(error(request.outgoing?.sent ? "unknown" : "not_sent"))
    }
  }
}
