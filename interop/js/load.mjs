// The agent's command `load`: an application that keeps one connection busy until it ends.

/**
 * Each worker emits `noted` with a number and requests `tally` with the same, by turns on the main channel and on
 * "math", and awaits the answer before it goes on. Numbers are never used twice, whatever the connection.
 *
 * → {right, wrong, failed, left, late}: `left` were asked and not answered when the connection ended; `late` counts
 * those of all loads so far, on any connection, that were settled after that, however it was.
 */
export function loadCommand(peers) {
  let last = 0
  let late = 0

  return async function load({ peer, workers = 4 }) {
    const wrapper = peers.get(peer)
    const counts = { right: 0, wrong: 0, failed: 0, left: 0 }
    const { socket } = wrapper
    const closed = new Promise((resolve) => {
      if (socket.readyState === socket.CLOSED) resolve()
      else socket.addEventListener("close", resolve)
    })

    const ask = async (number, target) => {
      let open = true
      let left = false
      const settled = (how) => {
        open = false
        if (left) late++
        else counts[how]++
      }
      const asked = target.request("tally", number).then(
        (answer) => settled(answer === number ? "right" : "wrong"),
        () => settled("failed"),
      )
      await Promise.race([asked, closed])
      left = open
      if (left) counts.left++
    }

    const work = async () => {
      // What is sent between the end of the socket and its `close` event would wait for the next one. And when the next
      // one is there before that event, nobody would wait for an answer any more: this would ask without end.
      while (wrapper.socket === socket && wrapper.isConnected) {
        const number = ++last
        const target = wrapper.of(number % 2 ? null : "math")
        target.emit("noted", number)
        await ask(number, target)
      }
      await closed
    }

    await Promise.all(Array.from({ length: workers }, work))
    return { ...counts, late }
  }
}
