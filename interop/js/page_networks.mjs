// The page of ../test_page_networks.py:  node page_networks.mjs OPTIONS, which are JSON. Prints what it has seen.

import { WebSocket } from "ws"

import { play } from "../../tests/browser/page_networks.mjs"
import { Client } from "../../wsrpc/browser/client.js"
import { msgpack } from "../../wsrpc/browser/msgpack.js"

console.log(JSON.stringify(await play(Client, msgpack, { WebSocket, ...JSON.parse(process.argv[2]) })))
