// What happened to the agent's peers, in order, until the driver takes it.

export class Journal {
  #entries = []
  #waiting = new Set()

  add(entry) {
    this.#entries.push(entry)
    for (const wake of [...this.#waiting]) wake()
  }

  /** Removes and returns the entries (of one kind and one peer, if given), once there are `atLeast` of them. */
  async take({ kind, peer, atLeast = 0 }) {
    const wanted = (entry) =>
      (kind === undefined || entry.kind === kind) && (peer === undefined || entry.peer === peer)
    while (this.#entries.filter(wanted).length < atLeast) {
      await new Promise((resolve) => {
        const wake = () => {
          this.#waiting.delete(wake)
          resolve()
        }
        this.#waiting.add(wake)
      })
    }
    const taken = this.#entries.filter(wanted)
    this.#entries = this.#entries.filter((entry) => !wanted(entry))
    return taken
  }
}
