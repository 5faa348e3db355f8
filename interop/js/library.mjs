// The libraries under test, brought into one shape. Versions are loaded by path because the
// packages' "exports" hide their package.json.

import { existsSync, readFileSync } from "node:fs"
import { createRequire } from "node:module"
import path from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"

const modules = fileURLToPath(new URL("./node_modules", import.meta.url))

function versionIn(folder) {
  return JSON.parse(readFileSync(path.join(folder, "package.json"), "utf8")).version
}

/**
 * {name, version, Wrapper, ServerWrapper, iterableHandler, cancels, anonymous}; Wrapper is null for the
 * library that only serves, ServerWrapper for those that have none.
 */
export async function loadLibrary(name) {
  const library = {
    name,
    Wrapper: null,
    ServerWrapper: null,
    iterableHandler: null,
    cancels: false,
    anonymous: false,
  }
  if (name === "ws-wrapper") {
    const folder = path.join(modules, "ws-wrapper")
    library.version = versionIn(folder)
    library.Wrapper = (await import("ws-wrapper")).default
  } else if (name === "ws-server-wrapper") {
    const folder = path.join(modules, "ws-server-wrapper")
    library.version = versionIn(folder)
    library.ServerWrapper = createRequire(import.meta.url)("ws-server-wrapper")
  } else if (name === "ws-wrapper-4") {
    const folder = process.env.WS_WRAPPER_4 || path.join(modules, "ws-wrapper-4")
    if (!existsSync(path.join(folder, "package.json"))) {
      throw new Error(`no ws-wrapper 4 in ${folder}`)
    }
    library.version = versionIn(folder)
    const exported = await import(pathToFileURL(path.join(folder, "index.mjs")).href)
    library.Wrapper = exported.default
    library.iterableHandler = exported.iterableHandler
    library.cancels = true
    library.anonymous = true
  } else if (name === "ws-server-wrapper-2") {
    const folder = process.env.WS_SERVER_WRAPPER_2
    if (!folder) throw new Error("WS_SERVER_WRAPPER_2 names no folder with ws-server-wrapper 2")
    const require = createRequire(pathToFileURL(path.join(folder, "package.json")))
    library.version = versionIn(folder)
    library.ServerWrapper = require(folder)
    library.iterableHandler = require("ws-wrapper").iterableHandler
    library.cancels = true
    library.anonymous = true
  } else if (name === "plain-server-2") {
    const server = await import("./plain4-server.mjs")
    library.version = server.VERSION
    library.ServerWrapper = server.default
    library.iterableHandler = (await import("./plain4.mjs")).iterableHandler
    library.cancels = true
    library.anonymous = true
  } else if (name === "plain-4") {
    const plain = await import("./plain4.mjs")
    library.version = plain.VERSION
    library.Wrapper = plain.default
    library.iterableHandler = plain.iterableHandler
    library.cancels = true
    library.anonymous = true
  } else {
    throw new Error(`unknown library '${name}'`)
  }
  return library
}
