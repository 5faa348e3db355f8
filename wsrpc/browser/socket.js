// src/backoff.ts
var INITIAL = 500;
var LONGEST = 3e4;
var STABLE = 1e4;
var SERVED = 1e3;
var RESTART = 1012;
var FINAL = /* @__PURE__ */ new Set([1008, 3e3, 3003, 4410]);
var mayDialAgain = (code) => !FINAL.has(code);
var Backoff = class {
  #failures = 0;
  /**
   * Returns the milliseconds until the next attempt.
   *
   * @param code the close code of the last connection
   * @param lasted the milliseconds for which it was open; 0 for a failed attempt
   * @param resumed whether a session has resumed on it
   */
  delay(code, lasted, resumed = false) {
    if (lasted >= (resumed || code === RESTART ? SERVED : STABLE)) this.#failures = 0;
    const delay = Math.random() * Math.min(LONGEST, INITIAL * 2 ** this.#failures++);
    return code === 1013 ? delay + 1e4 : delay;
  }
};

// src/clock.ts
var SLEPT = 1e3;
var lead = Infinity;
var slept = 0;
function now() {
  const running = performance.now();
  const before = lead;
  lead = Date.now() - running;
  if (lead - before > SLEPT) slept += lead - before;
  return running + slept;
}

// src/control.ts
var LARGEST = 4096;
var UNCOUNTED = /* @__PURE__ */ new Set(["welcome", "ack", "resumed", "gone", "alive"]);
var isCounted = (control) => !UNCOUNTED.has(control.t);
var writeControl = (control) => JSON.stringify({ "ws-wrapper": false, wsrpc: control });
var withoutMethods = (key, value) => key === "toString" ? void 0 : value;
function readControl(text) {
  if (text.length >= LARGEST || !text.includes('"wsrpc"')) return void 0;
  try {
    const { "ws-wrapper": ours, wsrpc, ...others } = JSON.parse(text, withoutMethods);
    if (ours === false && typeof wsrpc?.t === "string" && !Object.keys(others).length) return wsrpc;
  } catch {
  }
  return void 0;
}

// src/data.ts
var MESSAGE = 64;
var encoder = new TextEncoder();
var SHORT = 4096;
var counted = new Uint8Array(3 * SHORT);
function sizeOf(data) {
  if (typeof data === "string") {
    return data.length > SHORT ? encoder.encode(data).length : encoder.encodeInto(data, counted).written;
  }
  return data instanceof Blob ? data.size : data.byteLength;
}

// src/ledger.ts
var ACK_MESSAGES = 256;
var ACK_BYTES = 64 * 1024;
var ACK = 1e3;
var ReplayBuffer = class {
  #kept = [];
  #arrived = 0;
  #arrivedBytes = 0;
  /** Bytes that are kept. */
  bytes = 0;
  /** Bytes of memory that the kept messages take, about. */
  get memory() {
    return this.bytes + MESSAGE * this.#kept.length;
  }
  keep(data, size, sent) {
    const kept = { data, size, sent };
    this.#kept.push(kept);
    this.bytes += size;
    return kept;
  }
  /** Takes a message back, which must not have been sent. */
  takeBack(kept) {
    this.#kept.splice(this.#kept.lastIndexOf(kept), 1);
    this.bytes -= kept.size;
  }
  /**
   * Drops the first `n` messages of the session, which have `bytes` bytes in all. Returns false if that cannot be: the
   * server may have said anything.
   */
  acknowledge(n, bytes) {
    const arrived = this.#kept.slice(0, Math.max(0, Number(n) - this.#arrived));
    const size = arrived.reduce((sum, kept) => sum + kept.size, 0);
    const holds = n === this.#arrived + arrived.length && bytes === this.#arrivedBytes + size;
    if (!holds || arrived.at(-1)?.sent === false) return false;
    this.#kept.splice(0, arrived.length);
    this.#arrived += arrived.length;
    this.#arrivedBytes += size;
    this.bytes -= size;
    return true;
  }
  /** Sends everything that is kept. */
  sendAll(send) {
    for (const kept of this.#kept) {
      send(kept.data);
      kept.sent = true;
    }
  }
};
var Acknowledger = class {
  #send;
  #n = 0;
  #bytes = 0;
  #told = 0;
  #toldBytes = 0;
  #timer;
  /** @param send sends an acknowledgement */
  constructor(send) {
    this.#send = send;
  }
  /** Counts a message. It is acknowledged soon, and at once if much has come since the last acknowledgement. */
  count(size) {
    this.#n++;
    this.#bytes += size;
    const isDue = this.#n - this.#told >= ACK_MESSAGES || this.#bytes - this.#toldBytes >= ACK_BYTES;
    if (isDue) this.#acknowledge();
    else this.#timer ??= setTimeout(() => this.#acknowledge(), ACK);
  }
  #acknowledge() {
    this.stop();
    this.#send({ t: "ack", ...this.tell() });
  }
  /** Returns the counts, which the server is about to get. */
  tell() {
    this.#told = this.#n;
    this.#toldBytes = this.#bytes;
    return { n: this.#n, bytes: this.#bytes };
  }
  /** Sends no acknowledgement before the next message arrives. */
  stop() {
    clearTimeout(this.#timer);
    this.#timer = void 0;
  }
};

// src/page.ts
function listen(target, type, listener, signal) {
  target?.addEventListener?.(type, listener, { signal });
}
var program = globalThis;
function onWake(wake, signal) {
  const page = globalThis.document;
  listen(program, "online", () => wake(true), signal);
  listen(program, "pageshow", () => wake(false), signal);
  listen(page, "resume", () => wake(true), signal);
  listen(page, "visibilitychange", () => page.visibilityState !== "hidden" && wake(false), signal);
}
function onStop(stop, signal) {
  listen(program, "pagehide", ({ persisted }) => stop(persisted), signal);
  listen(globalThis.document, "freeze", () => stop(true), signal);
}

// src/socket.ts
var PLAIN = { features: [], control() {
}, busy: () => false };
var HINT = "wsrpc.resume";
var NEUTRAL = "wsrpc";
var RESUMES = 4412;
var ABNORMAL = 1006;
var EXPIRED = 4411;
var ATTEMPT = 1e4;
var ANSWER = 5e3;
var MOST_SILENCES = 2;
var QUIET = 5e3;
var QUIET_UNSEEN = 3e4;
var PATIENCE = 4e3;
var PATIENCE_AWAKE = 2e3;
var PATIENCE_MOST = 6e4;
var LONGEST_TIMER = 2 ** 31 - 1;
var LONGEST_REASON = 123;
var WOKEN = "the page has woken up";
var SILENT = "the server does not answer";
var MISMATCH = "the server counts differently";
var SessionSocket = class _SessionSocket extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSING = 2;
  static CLOSED = 3;
  CONNECTING = 0;
  OPEN = 1;
  CLOSING = 2;
  CLOSED = 3;
  /** The subprotocol that the server has chosen among those of the page. */
  protocol = "";
  extensions = "";
  #target;
  #protocols;
  #options;
  #owner;
  #backoff = new Backoff();
  /** Removes the listeners of page events. */
  #listening = new AbortController();
  #state = 0 /* Connecting */;
  #url = "";
  #binaryType = "blob";
  /** The connection, or the one that is being made. */
  #connection;
  /** Distinguishes the present attempt to connect from those that were given up. */
  #attempt = 0;
  /** When the connection was opened, or the attempt to make it has begun. */
  #since = 0;
  /** When the next attempt begins, as `Date.now()` will be then, if it waits. For `Client`. */
  retryAt;
  /** Until the next attempt, the end of an attempt, the end of the wait for an answer, or the next look for silence. */
  #timer;
  /** Whether the server answers probes. Undefined before its welcome. */
  #probes;
  #sid = "";
  #token;
  /** Milliseconds that the session lives without a connection. */
  #ttl = 0;
  /** Counts the attempts to resume, for the server. */
  #gen = 0;
  #silences = 0;
  #expiryTimer;
  /** What was sent, if the session can resume. */
  #sent;
  #received = new Acknowledger((ack) => this.#say(ack));
  /** When something has last arrived. */
  #heardAt = 0;
  /** When the answer to a probe is due. */
  #answerDue;
  #patience = PATIENCE;
  /**
   * @param target where to connect. If it is a function, it is called for each attempt
   * @param protocols subprotocols to offer
   * @throws SyntaxError if the address is not valid, as for a WebSocket
   */
  constructor(target, protocols = [], options = {}, owner = PLAIN) {
    super();
    for (const type of ["open", "message", "error", "close", "detached", "resumed"]) {
      this[`on${type}`] = null;
      this.addEventListener(type, (event) => this[`on${type}`]?.(event));
    }
    this.#target = target;
    this.#protocols = typeof protocols === "string" ? [protocols] : [...protocols];
    this.#options = options;
    this.#owner = owner;
    this.#dial();
    onWake((sure) => this.#wake(sure), this.#listening.signal);
    onStop((mayWake) => mayWake ? this.#park() : this.close(), this.#listening.signal);
  }
  get url() {
    return this.#url;
  }
  get readyState() {
    if (this.#state === 0 /* Connecting */) return _SessionSocket.CONNECTING;
    if (this.#state === 4 /* Closing */) return _SessionSocket.CLOSING;
    return this.#state === 5 /* Closed */ ? _SessionSocket.CLOSED : _SessionSocket.OPEN;
  }
  get binaryType() {
    return this.#binaryType;
  }
  set binaryType(type) {
    if (type !== "blob" && type !== "arraybuffer") return;
    this.#binaryType = type;
    if (this.#connection) this.#connection.binaryType = type;
  }
  /** Bytes that no connection has written so far. While the session is detached, all bytes that are kept. */
  get bufferedAmount() {
    const waits = this.#state === 2 /* Detached */ || this.#state === 3 /* Resuming */;
    return waits ? this.#sent.bytes : this.#connection?.bufferedAmount ?? 0;
  }
  /**
   * Sends a message, or keeps it for the next connection.
   *
   * @throws InvalidStateError while the first connection is being made
   */
  send(data) {
    if (this.#state === 0 /* Connecting */) throw new DOMException("the connection is not open yet", "InvalidStateError");
    this.post(snapshot(data));
  }
  /** Sends a message as `send` does, and returns what is kept of it. For `Client`. */
  post(data, size) {
    if (this.readyState !== _SessionSocket.OPEN) return { data, size: 0, sent: false };
    const full = this.fullness > 1;
    const connected = this.#state === 1 /* Open */ && !full;
    const kept = this.#sent?.keep(data, size ?? sizeOf(data), connected);
    if (connected) this.#connection.send(data);
    if (full) {
      const unread = this.#sent ? void 0 : this.#connection;
      this.#end(4408, "too much waits to be sent");
      unread?.terminate?.();
    }
    return kept;
  }
  /** How much waits to be sent, or may have to be sent again: more than 1 ends the session. For `Client`. */
  get fullness() {
    const waits = this.#sent?.memory ?? this.#connection?.bufferedAmount ?? Infinity;
    return waits / (this.#options.buffer ?? 16 * 1024 * 1024);
  }
  /** Takes back a message that no connection has got. For `Client`. Returns false if it is too late. */
  takeBack(kept) {
    if (kept.sent || !this.#sent) return false;
    this.#sent.takeBack(kept);
    return true;
  }
  /**
   * Ends the session. If there is a connection, the server is told, and frees the session at once.
   *
   * @throws InvalidAccessError if the code is neither 1000 nor one from 3000 to 4999
   * @throws SyntaxError if the reason has more than 123 bytes
   */
  close(code = 1e3, reason = "") {
    if (code !== 1e3 && !(code >= 3e3 && code <= 4999)) {
      throw new DOMException(`the close code must be 1000 or 3000-4999, not ${code}`, "InvalidAccessError");
    }
    if (sizeOf(reason) > LONGEST_REASON) throw new DOMException("the reason is too long", "SyntaxError");
    if (this.#state === 0 /* Connecting */) this.#end(ABNORMAL, "closed");
    else if (this.#state === 1 /* Open */) {
      if (this.#sent) this.#say({ t: "gone", why: "closed" });
      this.#received.stop();
      this.#state = 4 /* Closing */;
      this.#connection.close(code, reason);
    } else if (this.readyState === _SessionSocket.OPEN) this.#end(code, reason);
  }
  // ------------------------------------------------------------ connections
  #dial() {
    const attempt = ++this.#attempt;
    const target = this.#target;
    const open = (address) => attempt === this.#attempt && this.#open(address);
    const fail = (error) => attempt === this.#attempt && this.#connectionLost(ABNORMAL, String(error), false);
    this.#since = now();
    this.retryAt = void 0;
    if (typeof target === "function") Promise.resolve().then(target).then(open).catch(fail);
    else if (this.#state === 0 /* Connecting */) open(target);
    else Promise.resolve(target).then(open).catch(fail);
    this.#wait(ATTEMPT, () => fail("no connection within 10 s"));
  }
  #open(address) {
    const { url = address, token } = address;
    const offers = [...this.#protocols];
    if (token !== void 0) offers.push(`bearer.${token}`, NEUTRAL);
    if (this.#sid) offers.push(HINT);
    const WebSocketClass = this.#options.WebSocket ?? globalThis.WebSocket;
    this.#url = absolute(url);
    const connection = new WebSocketClass(this.#url, offers);
    this.#connection = connection;
    connection.binaryType = this.#binaryType;
    connection.onopen = () => this.#opened(connection);
    connection.onmessage = ({ data, origin }) => this.#receive(data, origin);
    connection.onerror = () => {
    };
    connection.onclose = ({ code, reason, wasClean }) => this.#connectionLost(code, String(reason), wasClean);
  }
  #opened(connection) {
    clearTimeout(this.#timer);
    this.#heardAt = this.#since = now();
    const hello = { v: 1, features: [...this.#owner.features, "resume", "probe"], limits: {} };
    if (this.#state === 3 /* Resuming */) {
      const { n: rx, bytes } = this.#received.tell();
      this.#say({ t: "resume", ...hello, sid: this.#sid, token: this.#token, gen: ++this.#gen, rx, bytes });
      this.#wait(ANSWER, () => this.#unanswered());
    } else {
      this.protocol = this.#protocols.includes(connection.protocol) ? connection.protocol : "";
      this.#state = 1 /* Open */;
      this.#say({ t: "hello", ...hello });
      this.dispatchEvent(new Event("open"));
    }
  }
  /** Goes on or ends, because the connection has ended by itself, is silent, or could not be made. */
  #connectionLost(code, reason, wasClean) {
    const goesOn = this.#sent && (code === ABNORMAL || code === EXPIRED);
    if (this.#state === 3 /* Resuming */ ? mayDialAgain(code) : this.#state === 1 /* Open */ && goesOn) this.#detach(code, reason);
    else this.#end(code, reason, wasClean);
  }
  /** Goes on without a connection, and connects again. */
  #detach(code, reason) {
    const wasOpen = this.#state === 1 /* Open */;
    this.#disown(RESUMES);
    this.#state = 2 /* Detached */;
    const delay = this.#backoff.delay(code, wasOpen ? now() - this.#since : 0, this.#gen > 0);
    this.retryAt = Date.now() + delay;
    this.#wait(delay, () => this.retry());
    if (wasOpen) {
      this.#expiryTimer = setTimeout(() => this.#end(ABNORMAL, "not resumed in time"), this.#ttl);
      this.dispatchEvent(new Event("detached"));
    }
    this.#owner.detached?.(code, reason);
  }
  /** Connects now, if the next attempt waits. For `Client`. */
  retry() {
    if (this.#state !== 2 /* Detached */) return;
    this.#state = 3 /* Resuming */;
    this.#dial();
  }
  /** Closes the connection, open or not, without waiting for its end, and ignores what it still delivers. */
  #disown(code) {
    const connection = this.#connection;
    this.#connection = void 0;
    this.#attempt++;
    this.retryAt = void 0;
    clearTimeout(this.#timer);
    this.#received.stop();
    this.#answerDue = void 0;
    if (!connection) return;
    connection.onmessage = connection.onclose = null;
    const now2 = connection.readyState === _SessionSocket.OPEN || code === RESUMES || !globalThis.document;
    if (now2) connection.close(code);
    else connection.onopen = () => connection.close(code);
  }
  /** Does something later, in place of what was to be done. */
  #wait(milliseconds, then) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(then, milliseconds);
  }
  // ------------------------------------------------------------ messages
  #say(control) {
    this.#connection.send(writeControl(control));
  }
  #receive(data, origin) {
    this.#heardAt = now();
    this.#answerDue = void 0;
    const control = typeof data === "string" ? readControl(data) : void 0;
    if (this.#state === 3 /* Resuming */) return this.#answered(control);
    if (this.#state !== 1 /* Open */) return;
    this.#patience = PATIENCE;
    if (control && !isCounted(control)) this.#receiveUncounted(control);
    else {
      const size = this.#sent || this.#owner.receive ? sizeOf(data) : 0;
      if (this.#sent) this.#received.count(size);
      if (control) this.#owner.control(control);
      else if (this.#owner.receive) this.#owner.receive(data, size);
      else this.dispatchEvent(new MessageEvent("message", { data, origin }));
    }
  }
  #receiveUncounted(control) {
    if (control.t === "welcome" && this.#probes === void 0) this.#greeted(control);
    if (control.t === "ack" && this.#sent?.acknowledge(control.n, control.bytes) === false) this.#end(4400, MISMATCH);
  }
  #greeted(welcome) {
    const features = Array.isArray(welcome.features) ? welcome.features : [];
    this.#probes = features.includes("probe");
    if (features.includes("resume") && typeof welcome.sid === "string") {
      this.#sid = welcome.sid;
      this.#token = welcome.token;
      this.#ttl = Math.min(1e3 * (Number(welcome.ttl) || 0), LONGEST_TIMER);
      this.#say({ t: "ack", n: 0, bytes: 0 });
      this.#sent = new ReplayBuffer();
    }
    this.#owner.control(welcome);
    this.#watch();
  }
  // ------------------------------------------------------------ resuming
  #answered(answer) {
    if (answer?.t !== "resumed") {
      this.#end(ABNORMAL, answer?.t === "gone" ? `the server has no such session: ${answer.why}` : "it was not resumed");
    } else if (!this.#sent.acknowledge(answer.rx, answer.bytes)) this.#end(4400, MISMATCH);
    else {
      clearTimeout(this.#timer);
      clearTimeout(this.#expiryTimer);
      this.#token = answer.token;
      this.#silences = 0;
      this.#state = 1 /* Open */;
      this.#sent.sendAll((data) => this.#connection.send(data));
      this.#owner.control(answer);
      this.#watch();
      this.dispatchEvent(new Event("resumed"));
    }
  }
  #unanswered() {
    if (++this.#silences < MOST_SILENCES) this.#detach(ABNORMAL, SILENT);
    else this.#end(ABNORMAL, SILENT);
  }
  // ------------------------------------------------------------ silence
  /** Asks whether the connection is alive when nothing has arrived for some time, and leaves it without an answer. */
  #watch() {
    if (this.#state !== 1 /* Open */ || !this.#probes) return;
    const time = now();
    if (this.#answerDue !== void 0 && time >= this.#answerDue) {
      this.#patience = Math.min(2 * this.#patience, PATIENCE_MOST);
      return this.#connectionLost(ABNORMAL, "the connection is silent", false);
    }
    const seen = globalThis.document?.visibilityState !== "hidden" || this.#owner.busy();
    if (this.#answerDue === void 0 && time >= this.#heardAt + (seen ? QUIET : QUIET_UNSEEN)) this.#probe(this.#patience);
    this.#wait((this.#answerDue ?? (seen ? this.#heardAt : time) + QUIET) - time, () => this.#watch());
  }
  #probe(patience) {
    this.#answerDue = Math.min(this.#answerDue ?? Infinity, now() + patience);
    this.#say({ t: "probe" });
  }
  // ------------------------------------------------------------ the page
  /** Leaves the connection, because the page is about to stop. Chrome would close it, and the session would end. */
  #park() {
    if (!this.#sent || this.readyState !== _SessionSocket.OPEN) return;
    this.#detach(ABNORMAL, "the page stops");
    clearTimeout(this.#timer);
    this.retryAt = void 0;
  }
  /**
   * Looks after the connection at once, because the page has woken up.
   *
   * @param sure whether the connection has probably ended, so that another one is quicker than an answer
   */
  #wake(sure) {
    const time = now();
    if (this.#state === 1 /* Open */ && this.#probes) {
      if (this.#sent && (sure || time - this.#heardAt > QUIET_UNSEEN + PATIENCE)) this.#detach(ABNORMAL, WOKEN);
      else {
        this.#probe(PATIENCE_AWAKE);
        this.#watch();
      }
    }
    if (this.#state === 3 /* Resuming */ && time - this.#since > ANSWER) this.#detach(ABNORMAL, WOKEN);
    this.retry();
  }
  // ------------------------------------------------------------ the end
  #end(code, reason, wasClean = false) {
    const failed = this.#state === 0 /* Connecting */;
    this.#state = 5 /* Closed */;
    this.#disown(code >= 3e3 ? code : 1e3);
    clearTimeout(this.#expiryTimer);
    this.#listening.abort();
    this.#sent = void 0;
    queueMicrotask(() => {
      if (failed) this.dispatchEvent(new Event("error"));
      this.dispatchEvent(closeEvent({ code, reason, wasClean }));
    });
  }
};
function closeEvent(fields) {
  if (globalThis.CloseEvent) return new CloseEvent("close", fields);
  return Object.assign(new Event("close"), fields);
}
function absolute(url) {
  const found = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
  found.protocol = found.protocol.replace(/^http/, "ws");
  return found.href;
}
function snapshot(data) {
  if (typeof data === "string" || data instanceof Blob) return data;
  const { buffer = data, byteOffset, byteLength } = Object(data);
  return byteLength === void 0 ? String(data) : new Uint8Array(buffer, byteOffset, byteLength).slice().buffer;
}
export {
  SessionSocket
};
