// The messages of one room on the screen: published ones by their numbers, then those that wait.

import { avatar, dayOf, make, sizeOf, timeOf } from "./dom.js"

const SAME_BREATH = 5 * 60_000 // milliseconds until a message of the same person shows the name again

export class Log extends EventTarget {
  #followsEnd = true

  /** Events: "top", while the reader sees the oldest message that is here; "end", while the newest. */
  constructor(room) {
    super()
    this.older = make("p", { class: "older" }, "Loading…")
    this.items = make("div", { class: "items" })
    const label = `Messages in ${room}`
    this.element = make("div", { class: "log", role: "log", tabindex: "0", "aria-label": label, hidden: true })
    this.element.append(this.older, this.items)
    this.element.addEventListener("scroll", () => {
      this.#followsEnd = this.atEnd
      this.#tellWhatIsSeen()
    })
    // Who reads the newest messages goes on to do so when one comes, a picture has loaded, or the window changes.
    const resized = new ResizeObserver(() => {
      if (this.#followsEnd) this.toEnd()
      this.#tellWhatIsSeen()
    })
    resized.observe(this.items)
    resized.observe(this.element)
  }

  #tellWhatIsSeen() {
    if (this.topIsSeen) this.dispatchEvent(new Event("top"))
    if (this.atEnd) this.dispatchEvent(new Event("end"))
  }

  /** Whether the oldest message that is here is in view, or nearly. */
  get topIsSeen() {
    return !this.element.hidden && this.element.scrollTop < 200
  }

  get atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.element
    return scrollHeight - scrollTop - clientHeight < 40
  }

  toEnd() {
    this.element.scrollTop = this.element.scrollHeight
  }

  find(id) {
    return this.items.querySelector(`[data-id="${id}"]`)
  }

  /** Shows published messages, each once, in the order of their numbers. Returns whether one of them was not here. */
  add(messages, me) {
    const added = messages.filter(({ id }) => !this.find(id)?.dataset.number)
    this.#keepingPlace(() => {
      for (const message of added) {
        this.find(message.id)?.remove() // it waited
        let next = null
        for (let item = this.items.lastElementChild; item; item = item.previousElementSibling) {
          if (Number(item.dataset.number ?? Infinity) < message.number) break
          next = item
        }
        const item = spoken(message, message.author === me)
        this.items.insertBefore(item, next)
        join(item)
        join(item.nextElementSibling)
      }
    })
    return added.length > 0
  }

  /** Shows messages that are not published yet, at the end, and updates their state. */
  addWaiting({ id, text, status, error, progress, actions = {} }) {
    const there = this.find(id)
    if (there && !error && !there.classList.contains("failed")) {
      // Update in place: a button that is replaced while it is pressed does nothing.
      there.querySelector(".status span").textContent = status
      if (progress !== undefined) there.querySelector("progress").value = progress
      return
    }
    const buttons = Object.entries(actions).map(([name, click]) =>
      make("button", { type: "button", class: "quiet", click }, name),
    )
    const bubble = make("div", { class: "bubble" }, make("p", { class: "text" }, text))
    if (progress !== undefined) bubble.append(make("progress", { max: 1, value: progress, "aria-label": text }))
    const said = make("span", {}, error ? `Not sent: ${error}` : status)
    bubble.append(make("p", { class: "status" }, said, ...buttons))
    const item = make("article", { class: `message mine ${error ? "failed" : "waiting"}`, "data-id": id }, bubble)
    this.#keepingPlace(() => {
      if (there) there.replaceWith(item)
      else this.items.append(item)
    })
  }

  remove(id) {
    this.find(id)?.remove()
  }

  /** Removes the published messages. */
  clear() {
    for (const item of this.items.querySelectorAll("[data-number]")) item.remove()
  }

  /** Keeps the view of older messages in place when others are added above them. */
  #keepingPlace(change) {
    const { element } = this
    const below = element.scrollHeight - element.scrollTop
    const last = this.items.lastElementChild
    change()
    if (this.#followsEnd) this.toEnd()
    else if (this.items.lastElementChild === last) element.scrollTop = element.scrollHeight - below
  }
}

function spoken({ id, number, author, text, time, file }, mine) {
  const date = new Date(time)
  const meta = make(
    "p",
    { class: "meta" },
    make("strong", {}, mine ? "You" : author),
    make("time", { datetime: time, title: date.toLocaleString() }, timeOf(date)),
  )
  const bubble = make("div", { class: "bubble" }, meta, file ? attached(file) : make("p", { class: "text" }, text))
  const names = { class: mine ? "message mine" : "message", "data-id": id, "data-number": number }
  const item = make("article", names, avatar(author), bubble)
  Object.assign(item, { author, date })
  return item
}

function attached({ name, size, url, image }) {
  const link = make("a", { href: url, download: name, class: "file" })
  if (image) link.append(make("img", { src: url, alt: "", loading: "lazy" }))
  link.append(make("span", {}, name), make("small", {}, sizeOf(size)))
  return link
}

/** Whether a message continues the one before it, and whether it begins another day. */
function join(item) {
  if (!item?.date) return
  const before = item.previousElementSibling
  const sameDay = before?.date?.toDateString() === item.date.toDateString()
  item.classList.toggle("continued", sameDay && before.author === item.author && item.date - before.date < SAME_BREATH)
  if (sameDay) delete item.dataset.day
  else item.dataset.day = dayOf(item.date)
}
