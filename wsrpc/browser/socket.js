// src/backoff.ts
var INITIAL = 500;
var LONGEST = 3e4;
var STABLE = 1e4;
var Backoff = class {
  #failures = 0;
  /**
   * Returns the milliseconds until the next attempt.
   *
   * @param code the close code of the last connection
   * @param lasted the milliseconds for which it was open; 0 for a failed attempt
   */
  delay(code, lasted) {
    const delay = Math.random() * Math.min(LONGEST, INITIAL * 2 ** this.#failures);
    this.#failures = lasted < STABLE ? this.#failures + 1 : 0;
    return code === 1013 ? delay + 1e4 : delay;
  }
};
function onWake(wake, signal) {
  const listen = (target, type, sure) => target?.addEventListener?.(
    type,
    () => globalThis.document?.visibilityState !== "hidden" && wake(sure),
    { signal }
  );
  listen(globalThis, "online", true);
  listen(globalThis, "pageshow", false);
  listen(globalThis.document, "resume", true);
  listen(globalThis.document, "visibilitychange", false);
}

// src/control.ts
var LARGEST = 4096;
var UNCOUNTED = /* @__PURE__ */ new Set(["hello", "welcome", "ack", "resume", "resumed", "gone", "probe", "alive"]);
var isCounted = (control) => !UNCOUNTED.has(control.t);
var writeControl = (control) => JSON.stringify({ "ws-wrapper": false, wsrpc: control });
function readControl(text) {
  if (text.length >= LARGEST || !text.includes('"wsrpc"')) return void 0;
  try {
    const { "ws-wrapper": ours, wsrpc, ...others } = JSON.parse(text);
    const isControl = ours === false && typeof wsrpc?.t === "string" && Object.keys(others).length === 0;
    return isControl ? wsrpc : void 0;
  } catch {
    return void 0;
  }
}
function count(control, field) {
  const value = control[field];
  return Number.isSafeInteger(value) && value >= 0 ? value : NaN;
}

// src/ledger.ts
var ACK_MESSAGES = 256;
var ACK_BYTES = 64 * 1024;
var MESSAGE = 64;
function sizeOf(data) {
  if (typeof data !== "string") return data instanceof Blob ? data.size : data.byteLength;
  let size = data.length;
  for (let index = 0; index < data.length; index++) {
    const unit = data.charCodeAt(index);
    if (unit < 128) continue;
    if (unit >= 55296 && unit < 56320 && (data.charCodeAt(index + 1) & 64512) === 56320) {
      index++;
      size += 2;
    } else {
      size += unit < 2048 ? 1 : 2;
    }
  }
  return size;
}
var Sent = class {
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
  /** Drops the first `n` messages of the session, which have `bytes` bytes in all. Returns false if that cannot be. */
  acknowledge(n, bytes) {
    const arrived = this.#kept.slice(0, Math.max(0, n - this.#arrived));
    const size = arrived.reduce((sum, kept) => sum + kept.size, 0);
    const holds = n === this.#arrived + arrived.length && bytes === this.#arrivedBytes + size;
    if (!holds || arrived.at(-1)?.sent === false) return false;
    this.#kept.splice(0, arrived.length);
    this.#arrived = n;
    this.#arrivedBytes = bytes;
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
var Received = class {
  n = 0;
  bytes = 0;
  #told = 0;
  #toldBytes = 0;
  /** Counts a message. Returns whether so much has come since the last acknowledgement that one is due now. */
  count(size) {
    this.n++;
    this.bytes += size;
    return this.n - this.#told >= ACK_MESSAGES || this.bytes - this.#toldBytes >= ACK_BYTES;
  }
  get untold() {
    return this.n !== this.#told;
  }
  /** Returns the fields of an acknowledgement, which is about to be sent. */
  tell() {
    this.#told = this.n;
    this.#toldBytes = this.bytes;
    return { n: this.n, bytes: this.bytes };
  }
};

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
var ACK = 1e3;
var QUIET = 5e3;
var QUIET_UNSEEN = 3e4;
var PATIENCE = 5e3;
var PATIENCE_AWAKE = 2e3;
var SessionSocket = class _SessionSocket extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSING = 2;
  static CLOSED = 3;
  CONNECTING = 0;
  OPEN = 1;
  CLOSING = 2;
  CLOSED = 3;
  onopen = null;
  onmessage = null;
  onerror = null;
  onclose = null;
  ondetached = null;
  onresumed = null;
  /** The subprotocol that the server has chosen. */
  protocol = "";
  extensions = "";
  #target;
  #protocols;
  #options;
  #above;
  #backoff = new Backoff();
  /** Removes the listeners of page events. */
  #listening = new AbortController();
  #state = "connecting";
  #url = "";
  #binaryType = "blob";
  /** The connection, or the one that is being made. */
  #connection;
  /** Distinguishes the present attempt to connect from those that were given up. */
  #attempt = 0;
  #openedAt = 0;
  /** Until the next attempt, then the end of the attempt, then of the wait for an answer. */
  #dialTimer;
  #dialedAt = 0;
  /** What the server has said that it supports. */
  #features;
  #sid = "";
  #token = "";
  /** Milliseconds that the session lives without a connection. */
  #ttl = 0;
  /** Counts the attempts to resume, for the server. */
  #gen = 0;
  #silences = 0;
  #expiryTimer;
  /** What was sent, if the session can resume. */
  #sent;
  #received = new Received();
  #ackTimer;
  /** When something has last arrived. */
  #heard = 0;
  /** When the answer to a probe is due. */
  #answerDue;
  #watchTimer;
  /**
   * @param target where to connect. If it is a function, it is called for each attempt
   * @param protocols subprotocols to offer
   * @throws SyntaxError if the address is not valid, as for a WebSocket
   */
  constructor(target, protocols = [], options = {}, above = PLAIN) {
    super();
    this.#target = target;
    this.#protocols = typeof protocols === "string" ? [protocols] : [...protocols];
    this.#options = options;
    this.#above = above;
    this.#dial();
    this.#listen();
  }
  get url() {
    return this.#url;
  }
  get readyState() {
    if (this.#state === "connecting") return _SessionSocket.CONNECTING;
    if (this.#state === "closing") return _SessionSocket.CLOSING;
    return this.#state === "closed" ? _SessionSocket.CLOSED : _SessionSocket.OPEN;
  }
  get binaryType() {
    return this.#binaryType;
  }
  set binaryType(type) {
    this.#binaryType = type;
    if (this.#connection) this.#connection.binaryType = type;
  }
  /** Bytes that no connection has written so far. While the session is detached, all bytes that are kept. */
  get bufferedAmount() {
    return this.#state === "open" ? this.#connection.bufferedAmount : this.#sent?.bytes ?? 0;
  }
  /**
   * Sends a message, or keeps it for the next connection.
   *
   * @throws InvalidStateError while the first connection is being made
   */
  send(data) {
    if (this.#state === "connecting") throw new DOMException("the connection is not open yet", "InvalidStateError");
    this.post(typeof data === "string" || data instanceof Blob ? data : copied(data));
  }
  /** Sends a message as `send` does, and returns what is kept of it. For `Client`. */
  post(data, size) {
    if (this.readyState !== _SessionSocket.OPEN) return void 0;
    const connected = this.#state === "open";
    const kept = this.#sent?.keep(data, size ?? sizeOf(data), connected);
    if (connected) this.#connection.send(data);
    if (this.#sent && this.#sent.memory > (this.#options.buffer ?? 16 * 1024 * 1024)) {
      this.#lose(4408, "too much waits to be sent");
    }
    return kept;
  }
  /** Takes back a message that no connection has got. For `Client`. Returns false if it is too late. */
  takeBack(kept) {
    if (kept.sent || !this.#sent) return false;
    this.#sent.takeBack(kept);
    return true;
  }
  /**
   * Ends the session. The server is told, and frees it at once.
   *
   * @throws InvalidAccessError if the code is neither 1000 nor one from 3000 to 4999
   */
  close(code = 1e3, reason = "") {
    if (code !== 1e3 && !(code >= 3e3 && code <= 4999)) {
      throw new DOMException(`the close code must be 1000 or 3000-4999, not ${code}`, "InvalidAccessError");
    }
    if (this.#state === "open") {
      if (this.#sent) this.#say({ t: "gone", why: "closed" });
      this.#state = "closing";
      this.#connection.close(code, reason);
    } else if (this.#state !== "closing" && this.#state !== "closed") this.#end(code, reason, false);
  }
  // ------------------------------------------------------------ connections
  #dial() {
    const attempt = ++this.#attempt;
    const give = (error) => attempt === this.#attempt && this.#failed(ABNORMAL, String(error));
    clearTimeout(this.#dialTimer);
    this.#dialTimer = setTimeout(give, ATTEMPT, "no connection within 10 s");
    this.#dialedAt = Date.now();
    const target = this.#target;
    if (typeof target !== "function") this.#open(target);
    else {
      Promise.resolve().then(target).then((address) => attempt === this.#attempt && this.#open(address)).catch(give);
    }
  }
  #open(address) {
    const { url, token } = typeof address === "string" || address instanceof URL ? { url: address } : address;
    const offers = [...this.#protocols];
    if (token !== void 0) offers.push(`bearer.${token}`, NEUTRAL);
    if (this.#sid) offers.push(HINT);
    const WebSocketClass = this.#options.WebSocket ?? globalThis.WebSocket;
    this.#url = absolute(url);
    const connection = new WebSocketClass(this.#url, offers);
    this.#connection = connection;
    connection.binaryType = this.#binaryType;
    connection.onopen = () => this.#opened(connection);
    connection.onmessage = ({ data }) => this.#arrived(data);
    connection.onerror = () => {
    };
    connection.onclose = ({ code, reason, wasClean }) => this.#dropped(code, String(reason), wasClean);
  }
  #opened(connection) {
    clearTimeout(this.#dialTimer);
    this.#heard = this.#openedAt = Date.now();
    const hello = { v: 1, features: [...this.#above.features, "resume", "probe"], limits: {} };
    if (this.#state === "resuming") {
      const { n, bytes } = this.#received;
      this.#say({ t: "resume", ...hello, sid: this.#sid, token: this.#token, gen: ++this.#gen, rx: n, bytes });
      this.#dialTimer = setTimeout(() => this.#unanswered(), ANSWER);
    } else {
      this.protocol = connection.protocol;
      this.#state = "open";
      this.#say({ t: "hello", ...hello });
      this.#fire(new Event("open"));
    }
  }
  /** The connection has ended by itself. */
  #dropped(code, reason, wasClean) {
    if (this.#state === "connecting" || this.#state === "resuming") this.#failed(code, reason);
    else if (this.#state === "open" && this.#sent && (code === ABNORMAL || code === EXPIRED)) this.#detach(code);
    else this.#end(code, reason, wasClean);
  }
  /** An attempt to connect has failed. */
  #failed(code, reason) {
    if (this.#state === "connecting") {
      this.#end(code, reason, false);
    } else {
      this.#leave(RESUMES);
      this.#state = "detached";
      this.#dialLater(code, 0);
    }
  }
  /** Goes on without a connection, and connects again. */
  #detach(code) {
    this.#leave(RESUMES);
    this.#state = "detached";
    this.#expiryTimer = setTimeout(() => this.#lose(ABNORMAL, "no connection resumed it in time"), this.#ttl);
    this.#dialLater(code, Date.now() - this.#openedAt);
    this.#fire(new Event("detached"));
  }
  #dialLater(code, lasted) {
    this.#dialTimer = setTimeout(() => this.#resume(), this.#backoff.delay(code, lasted));
  }
  #resume() {
    this.#state = "resuming";
    this.#dial();
  }
  /** Has no connection any more, and closes the one that there was, without waiting for its end. */
  #leave(code, reason = "") {
    const connection = this.#connection;
    this.#connection = void 0;
    this.#attempt++;
    for (const timer of [this.#dialTimer, this.#ackTimer, this.#watchTimer]) clearTimeout(timer);
    this.#ackTimer = this.#answerDue = void 0;
    if (connection) {
      connection.onmessage = connection.onclose = null;
      connection.onopen = () => connection.close(code, reason);
      if (connection.readyState === _SessionSocket.OPEN) connection.close(code, reason);
    }
  }
  // ------------------------------------------------------------ messages
  #say(control) {
    this.#connection.send(writeControl(control));
  }
  #arrived(data) {
    this.#heard = Date.now();
    this.#answerDue = void 0;
    const control = typeof data === "string" ? readControl(data) : void 0;
    if (this.#state === "resuming") this.#answered(control);
    else if (this.#state !== "open") return;
    else if (control && !isCounted(control)) this.#take(control);
    else {
      const size = this.#sent || this.#above.receive ? sizeOf(data) : 0;
      if (this.#sent) this.#count(size);
      if (control) this.#above.control(control);
      else if (this.#above.receive) this.#above.receive(data, size);
      else this.#fire(new MessageEvent("message", { data }));
    }
  }
  #count(size) {
    if (this.#received.count(size)) this.#acknowledge();
    else this.#ackTimer ??= setTimeout(() => this.#acknowledge(), ACK);
  }
  #acknowledge() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = void 0;
    this.#say({ t: "ack", ...this.#received.tell() });
  }
  #take(control) {
    if (control.t === "welcome" && !this.#features) this.#welcomed(control);
    if (control.t === "ack" && this.#sent && !this.#sent.acknowledge(count(control, "n"), count(control, "bytes"))) {
      this.#lose(4400, "the server has acknowledged what was not sent");
    }
  }
  #welcomed(welcome) {
    this.#features = Array.isArray(welcome.features) ? welcome.features : [];
    if (this.#features.includes("resume") && typeof welcome.sid === "string") {
      this.#sid = welcome.sid;
      this.#token = String(welcome.token);
      this.#ttl = 1e3 * (Number(welcome.ttl) || 0);
      this.#say({ t: "ack", n: 0, bytes: 0 });
      this.#sent = new Sent();
    }
    this.#above.control(welcome);
    this.#watch();
  }
  // ------------------------------------------------------------ resuming
  #answered(answer) {
    if (answer?.t !== "resumed") {
      this.#lose(1e3, answer?.t === "gone" ? `the server has no such session: ${answer.why}` : "it was not resumed");
    } else if (!this.#sent.acknowledge(count(answer, "rx"), count(answer, "bytes"))) {
      this.#lose(4400, "the server has received what was not sent");
    } else {
      clearTimeout(this.#dialTimer);
      clearTimeout(this.#expiryTimer);
      this.#token = String(answer.token);
      this.#silences = 0;
      this.#received.tell();
      this.#state = "open";
      this.#sent.sendAll((data) => this.#connection.send(data));
      this.#above.control(answer);
      this.#watch();
      this.#fire(new Event("resumed"));
    }
  }
  #unanswered() {
    if (++this.#silences < MOST_SILENCES) this.#failed(ABNORMAL, "");
    else this.#lose(1e3, "the server does not answer");
  }
  // ------------------------------------------------------------ silence
  /** Asks whether the connection is alive when nothing has arrived for some time, and leaves it without an answer. */
  #watch() {
    clearTimeout(this.#watchTimer);
    if (this.#state !== "open" || !this.#features?.includes("probe")) return;
    const now = Date.now();
    const seen = globalThis.document?.visibilityState !== "hidden" || this.#above.busy();
    const quietUntil = this.#heard + (seen ? QUIET : QUIET_UNSEEN);
    if (this.#answerDue !== void 0 && now >= this.#answerDue) this.#silent();
    else {
      if (this.#answerDue === void 0 && now >= quietUntil) this.#probe(PATIENCE);
      this.#watchTimer = setTimeout(() => this.#watch(), (this.#answerDue ?? quietUntil) - now);
    }
  }
  #probe(patience) {
    this.#answerDue = Math.min(this.#answerDue ?? Infinity, Date.now() + patience);
    this.#say({ t: "probe" });
  }
  #silent() {
    if (this.#sent) this.#detach(ABNORMAL);
    else this.#end(ABNORMAL, "the connection is silent", false);
  }
  // ------------------------------------------------------------ the page
  #listen() {
    const { signal } = this.#listening;
    onWake((sure) => this.#wake(sure), signal);
    globalThis.addEventListener?.(
      "pagehide",
      (event) => {
        if (!event.persisted) this.close();
        else if (this.#state === "open" && this.#sent) {
          this.#detach(ABNORMAL);
          clearTimeout(this.#dialTimer);
        }
      },
      { signal }
    );
  }
  /**
   * Looks after the connection at once, because the page has woken up.
   *
   * @param sure whether the connection has probably ended, so that another one is quicker than an answer
   */
  #wake(sure) {
    const now = Date.now();
    if (this.#state === "open" && this.#features?.includes("probe")) {
      if (this.#sent && (sure || now - this.#heard > QUIET_UNSEEN + PATIENCE)) this.#silent();
      else {
        this.#probe(PATIENCE_AWAKE);
        this.#watch();
      }
    }
    const late = this.#state === "resuming" && now - this.#dialedAt > ANSWER;
    if (late) this.#leave(RESUMES);
    if (late || this.#state === "detached") this.#resume();
  }
  // ------------------------------------------------------------ the end
  /** The session cannot go on. */
  #lose(code, reason) {
    this.#leave(code === ABNORMAL ? 1e3 : code, reason);
    this.#end(code === 1e3 ? ABNORMAL : code, reason, false);
  }
  #end(code, reason, wasClean) {
    const failed = this.#state === "connecting";
    this.#state = "closed";
    this.#leave(1e3);
    clearTimeout(this.#expiryTimer);
    this.#listening.abort();
    queueMicrotask(() => {
      if (failed) this.#fire(new Event("error"));
      this.#fire(new Closed("close", { code, reason, wasClean }));
    });
  }
  #fire(event) {
    try {
      ;
      this[`on${event.type}`]?.(event);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
    this.dispatchEvent(event);
  }
};
var Closed = globalThis.CloseEvent ?? class extends Event {
  code;
  reason;
  wasClean;
  constructor(type, { code = 0, reason = "", wasClean = false }) {
    super(type);
    this.code = code;
    this.reason = reason;
    this.wasClean = wasClean;
  }
};
function absolute(url) {
  const found = new URL(url, globalThis.location?.href);
  found.protocol = found.protocol.replace(/^http/, "ws");
  return found.href;
}
function copied(data) {
  if (data instanceof ArrayBuffer) return data.slice(0);
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice().buffer;
}
export {
  SessionSocket
};
