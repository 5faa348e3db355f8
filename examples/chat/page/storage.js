// What this tab keeps over a reload, as JSON, and ids.

export function load(key, otherwise) {
  return JSON.parse(sessionStorage.getItem(key)) ?? otherwise
}

export function save(key, value) {
  sessionStorage.setItem(key, JSON.stringify(value))
}

/** 128 random bits. (crypto.randomUUID is not there on pages without TLS.) */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("")
}
