// Values that this tab keeps over a reload, as JSON, and new ids.

export function load(key, otherwise) {
  return JSON.parse(sessionStorage.getItem(key)) ?? otherwise
}

export function save(key, value) {
  sessionStorage.setItem(key, JSON.stringify(value))
}

/** 128 random bits. (Pages without TLS have no crypto.randomUUID.) */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("")
}
