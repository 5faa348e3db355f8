// What the agent's handlers answer when the driver tells them to, each under a key of its own.

export class Answers {
  #entries = new Map() // key → {promise, resolve, reject}

  /** The key itself, once it is given; rejected if it is to fail. */
  to(key) {
    return this.#entry(key).promise
  }

  give(key, fail) {
    const { resolve, reject } = this.#entry(key)
    if (fail) reject(new Error(`no ${key}`))
    else resolve(key)
  }

  #entry(key) {
    if (!this.#entries.has(key)) {
      const entry = {}
      entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }))
      this.#entries.set(key, entry)
    }
    return this.#entries.get(key)
  }
}
