// src/http.ts
var [TEXT, BINARY, CLOSE, PING, PONG, OPENED] = [0, 1, 2, 3, 4, 5];
var MORE = 128;
var PIECE = 32 * 1024;
var MAX_BODY = 256 * 1024;
var QUICK = 1e3;
var HELD_BACK = 1500;
var CROWDED = 1500;
var PAUSE = 50;
var SLOWEST = 8;
var CLOSE_TIMEOUT = 1e4;
var LAST = 1e3;
var ATTEMPT_TIMEOUT = 1e4;
var REMEMBERED = 6e5;
var NO_ROOM = 425;
var REFUSED = { 401: 3e3, 403: 3003, 429: 1013 };
var blocked = 6e4;
var heldBack = /* @__PURE__ */ new Map();
var crowdedUntil = 0;
var HINT = "wsrpc.resume";
var PROBE = '{"ws-wrapper":false,"wsrpc":{"t":"probe"}}';
var decoder = new TextDecoder();
function frame(kind, payload) {
  const head = new DataView(new ArrayBuffer(5));
  head.setUint8(0, kind);
  head.setUint32(1, payload.length);
  return [new Uint8Array(head.buffer), payload];
}
function joined(parts) {
  const bytes = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
var HttpSocket = class {
  readyState = 0;
  bufferedAmount = 0;
  binaryType = "";
  onopen = null;
  onmessage = null;
  onerror = null;
  onclose = null;
  /** Gets a WebSocket that works, and takes the place of this connection. Without it, none is tried. */
  onreplace = null;
  #url;
  #target;
  #network;
  #headers = {};
  #ending = new AbortController();
  #startedAt = Date.now();
  /** Milliseconds until the connection was open. */
  #openedAfter = 0;
  /** Ends the response that takes what the server sends, so that another request gets its connection. */
  #present;
  #id = "";
  /** The number of requests that may open the connection. */
  #opening = 0;
  #number = 0;
  /** Bytes that have arrived. */
  #received = 0;
  /** The frames that no request carries yet. */
  #waiting = [];
  #posting;
  /** The part of a frame that has arrived. */
  #rest = new Uint8Array();
  /** The part of a message that has arrived. */
  #pieces = [];
  /** About the most bytes of the next body. */
  #most = PIECE;
  constructor(url, protocols, target, network) {
    this.#url = url.replace(/^ws/, "http");
    this.#target = target;
    this.#network = network;
    for (const name of protocols) {
      if (name.startsWith("bearer.")) this.#headers.authorization = "Bearer " + name.slice(7);
      if (name === HINT) this.#headers["wsrpc-resume"] = "1";
    }
    const stream = new AbortController();
    const poll = new AbortController();
    const startPolling = () => this.readyState || this.#open("poll", poll, stream);
    if (Math.max(heldBack.get(this.#url) ?? 0, crowdedUntil) > Date.now()) {
      stream.abort();
      startPolling();
    } else {
      this.#open("stream", stream, poll);
      setTimeout(startPolling, HELD_BACK);
    }
  }
  // ------------------------------------------------------------ what the server sends
  /** Opens the connection, and receives until its end, unless bytes of the rival arrive first. */
  async #open(mode, mine, rival) {
    let present = new AbortController();
    let code = 1006;
    let refusal = "";
    this.#opening++;
    const receive = async (headers2) => {
      const signal = AbortSignal.any([mine.signal, present.signal, this.#ending.signal]);
      const priority = this.#id ? "low" : "auto";
      const response = await this.#fetch({ headers: { ...this.#headers, ...headers2 }, signal, priority });
      if (!response.ok) {
        const text = `HTTP ${response.status}`;
        if (response.headers.has("wsrpc-refused")) {
          code = REFUSED[response.status] ?? code;
          refusal = `${text} ${await response.text()}`.trim();
        }
        throw new Error(text);
      }
      const reader = response.body.getReader();
      for (let data; data = (await reader.read()).value; ) {
        signal.throwIfAborted();
        if (mode === "poll" && !rival.signal.aborted) heldBack.set(this.#url, Date.now() + REMEMBERED);
        rival.abort();
        this.#present = present;
        this.#received += data.length;
        this.#feed(data);
      }
    };
    let why = "the response has ended";
    let headers = { "wsrpc-transport": mode };
    try {
      do {
        await receive(headers).catch((error) => {
          if (!present.signal.aborted) throw error;
          mode = "poll";
        });
        this.#present = present = new AbortController();
        const how = crowdedUntil > Date.now() ? "short" : "poll";
        headers = { "wsrpc-transport": how, "wsrpc-connection": this.#id, "wsrpc-number": String(this.#received) };
      } while (mode === "poll");
    } catch (error) {
      why = error;
    }
    if (!mine.signal.aborted && (this.#id || !--this.#opening)) this.#end(code, refusal || this.#id && String(why));
  }
  #fetch(init) {
    return fetch(this.#url, { method: "POST", credentials: "include", redirect: "error", ...init });
  }
  #feed(data) {
    this.#rest = joined([this.#rest, data]);
    let at = 0;
    for (let size; at + 5 <= this.#rest.length; at += 5 + size) {
      const view = new DataView(this.#rest.buffer, at);
      size = view.getUint32(1);
      if (size > PIECE) return this.#end(1006, "this is not from a wsrpc server");
      if (at + 5 + size > this.#rest.length) break;
      this.#handle(view.getUint8(0), this.#rest.subarray(at + 5, at + 5 + size));
    }
    this.#rest = this.#rest.slice(at);
  }
  #handle(kind, payload) {
    if ((kind & ~MORE) <= BINARY) {
      this.#pieces.push(payload.slice());
      if (kind & MORE) return;
      const bytes = joined(this.#pieces);
      this.#pieces = [];
      this.onmessage?.({ data: kind === TEXT ? decoder.decode(bytes) : bytes.buffer });
    } else if (kind === OPENED) {
      this.#id = decoder.decode(payload);
      this.#openedAfter = Date.now() - this.#startedAt;
      this.readyState = 1;
      this.onopen?.({});
      this.#webSocketFailed();
    } else if (kind === PING) this.#add(PONG, payload);
    else if (kind === CLOSE) {
      const code = payload.length ? payload[0] * 256 + payload[1] : 1005;
      if (this.readyState === 1) this.#add(CLOSE, payload);
      this.readyState = 2;
      const end = () => this.#end(code, decoder.decode(payload.subarray(2)));
      void this.#post().then(end);
      setTimeout(end, LAST);
    }
  }
  // ------------------------------------------------------------ what this side sends
  send(data) {
    if (this.readyState !== 1) return;
    const isText = typeof data === "string";
    let bytes = isText ? new TextEncoder().encode(data) : ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
    const kind = isText ? TEXT : BINARY;
    for (; bytes.length > PIECE; bytes = bytes.subarray(PIECE)) this.#add(kind | MORE, bytes.slice(0, PIECE));
    this.#add(kind, bytes.slice());
  }
  #add(kind, payload) {
    this.#waiting.push(...frame(kind, payload));
    this.bufferedAmount += 5 + payload.length;
    this.#post();
  }
  /** Carries the frames that wait, by one request after another. */
  #post() {
    return this.#posting ??= Promise.resolve().then(() => this.#postAll());
  }
  async #postAll() {
    let timer;
    try {
      while (this.#waiting.length && this.readyState < 3) {
        let size = 0;
        const most = this.#waiting.findIndex((part) => (size += part.length) > this.#most);
        const body = joined(this.#waiting.splice(0, most < 1 ? Infinity : most + 1));
        const headers = { ...this.#headers, "wsrpc-connection": this.#id, "wsrpc-number": String(++this.#number) };
        const init = { headers, body, keepalive: this.readyState === 2 && body.length < PIECE };
        const startedAt = Date.now();
        let stuck = false;
        timer = setTimeout(() => {
          stuck = true;
          crowdedUntil = Math.max(crowdedUntil, Date.now() + CROWDED);
          this.#present.abort();
        }, CROWDED + this.#openedAfter + body.length / SLOWEST);
        let response;
        do
          response = await this.#fetch(init);
        while (response.status === NO_ROOM && this.readyState < 3);
        clearTimeout(timer);
        if (stuck && crowdedUntil > Date.now()) crowdedUntil = Date.now() + REMEMBERED;
        if (!response.ok) throw new Error(`HTTP ${response.status}`);
        this.bufferedAmount -= body.length;
        const elapsed = Date.now() - startedAt;
        if (elapsed > QUICK) this.#most = Math.max(this.#most / 2, PIECE);
        else if (size > this.#most) this.#most = Math.min(this.#most * 2, MAX_BODY);
        if (body.length >= PIECE && this.readyState === 1)
          await new Promise((done) => setTimeout(done, Math.min(PAUSE, elapsed / 16)));
      }
    } catch (error) {
      this.#end(1006, String(error));
    }
    clearTimeout(timer);
    this.#posting = void 0;
  }
  // ------------------------------------------------------------ the end
  close(code = 1e3, reason = "") {
    if (this.readyState === 1) {
      this.#add(CLOSE, joined([new Uint8Array([code >> 8, code & 255]), new TextEncoder().encode(reason)]));
      this.readyState = 2;
      setTimeout(() => this.#end(1006, ""), CLOSE_TIMEOUT);
    } else if (!this.readyState) this.#end(1006, "");
  }
  #end(code, reason) {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.#ending.abort();
    this.onclose?.({ code, reason });
  }
  /** Opens a WebSocket later, which takes the place of this connection when a message has arrived on it. */
  #webSocketFailed() {
    if (this.readyState === 3 || !this.onreplace) return;
    const network = this.#network;
    if (network.blockedUntil < performance.now()) {
      Object.assign(network, { blockedUntil: performance.now() + blocked, passesUntil: 0 });
      blocked = Math.min(2 * blocked, REMEMBERED);
    }
    const attempt = async () => {
      const address = await (typeof this.#target === "function" ? this.#target() : this.#target);
      const { token } = address;
      const offers = token === void 0 ? [HINT] : [`bearer.${token}`, "wsrpc", HINT];
      const socket = new WebSocket(this.#url.replace(/^http/, "ws"), offers);
      const timer2 = setTimeout(() => socket.close(), ATTEMPT_TIMEOUT);
      socket.onopen = () => socket.send(PROBE);
      socket.onclose = failed;
      socket.onmessage = () => {
        clearTimeout(timer2);
        socket.onclose = null;
        network.blockedUntil = 0;
        if (this.readyState === 1) this.onreplace(socket);
        else socket.close();
      };
    };
    const failed = () => this.#webSocketFailed();
    const timer = setTimeout(() => attempt().catch(failed), network.blockedUntil - performance.now());
    this.#ending.signal.addEventListener("abort", () => clearTimeout(timer));
  }
};
export {
  HttpSocket
};
