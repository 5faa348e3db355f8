// Makes elements, and formats people, times and sizes.

/** `make("p", { class: "text" }, "hello")`: text is never parsed as HTML. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value)
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value)
  }
  element.append(...children)
  return element
}

/** Makes a circle with the first letter of a name, in a colour that depends on the name. */
export function avatar(name) {
  let hue = 0
  for (const letter of name) hue = (hue * 31 + letter.codePointAt(0)) % 360
  const circle = make("span", { class: "avatar", "data-letter": [...name][0].toUpperCase(), "aria-hidden": "true" })
  circle.style.setProperty("--hue", hue)
  return circle
}

export const timeOf = (date) => date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })

export const dayOf = (date) => date.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" })

export function sizeOf(bytes) {
  if (bytes < 1000) return `${bytes} bytes`
  return bytes < 1e6 ? `${Math.round(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`
}
