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

// src/dialing.ts
var ABNORMAL = 1006;
var RESUMES = 4412;
var HINT = "wsrpc.resume";
var NEUTRAL = "wsrpc";
var ATTEMPT = 1e4;
var Dialing = class {
  #target;
  #protocols;
  #options;
  #owner;
  #backoff = new Backoff();
  state = "idle";
  /** When the next attempt begins, as `Date.now()` will be then, if it waits. */
  retryAt;
  /** When the last attempt has begun, or has succeeded. */
  since = 0;
  /** Whether the connections are to resume a session. */
  asksToResume = false;
  /** The address of the last attempt. */
  url = "";
  /** Distinguishes the present attempt from those that were given up. */
  #attempt = 0;
  /** The connection that is being made. */
  #connection;
  /** Until the next attempt, or the end of an attempt. */
  #timer;
  constructor(target, protocols, options, owner) {
    this.#target = target;
    this.#protocols = protocols;
    this.#options = options;
    this.#owner = owner;
  }
  /**
   * Begins an attempt.
   *
   * @throws SyntaxError if it is the first one, and the address is not valid
   */
  dial() {
    this.stop();
    const attempt = this.#attempt;
    const target = this.#target;
    const open = (address) => attempt === this.#attempt && this.#open(address);
    const fail = (error) => attempt === this.#attempt && this.#owner.connectionLost(ABNORMAL, String(error));
    this.state = "dialing";
    this.since = now();
    if (typeof target === "function") Promise.resolve().then(target).then(open).catch(fail);
    else if (!this.url) open(target);
    else Promise.resolve(target).then(open).catch(fail);
    this.#timer = setTimeout(fail, ATTEMPT, "no connection within 10 s");
  }
  #open(address) {
    const { url = address, token } = address;
    const offers = [...this.#protocols];
    if (token !== void 0) offers.push(`bearer.${token}`, NEUTRAL);
    if (this.asksToResume) offers.push(HINT);
    const WebSocketClass = this.#options.WebSocket ?? globalThis.WebSocket;
    this.url = absolute(url);
    const connection = new WebSocketClass(this.url, offers);
    this.#connection = connection;
    connection.onopen = () => {
      this.#connection = void 0;
      this.stop();
      this.since = now();
      this.#owner.dialed(connection);
    };
    connection.onerror = () => {
    };
    connection.onclose = ({ code, reason, wasClean }) => this.#owner.connectionLost(code, String(reason), wasClean);
  }
  /**
   * Begins an attempt after a delay.
   *
   * @param code the close code of the last connection
   * @param lasted the milliseconds for which it was open; 0 for a failed attempt
   * @param resumed whether the session has resumed on it
   */
  dialLater(code, lasted, resumed) {
    const delay = this.#backoff.delay(code, lasted, resumed);
    this.state = "waiting";
    this.retryAt = Date.now() + delay;
    this.#timer = setTimeout(() => this.dial(), delay);
  }
  /**
   * Gives up the attempt, or the wait for the next one.
   *
   * @param code the close code for the connection that is being made
   */
  stop(code = RESUMES) {
    clearTimeout(this.#timer);
    if (this.#connection) disown(this.#connection, code);
    this.#connection = this.retryAt = void 0;
    this.#attempt++;
    this.state = "idle";
  }
};
function disown(connection, code) {
  connection.onmessage = connection.onclose = null;
  const now2 = connection.readyState === 1 || code === RESUMES || !globalThis.document;
  if (now2) connection.close(code);
  else connection.onopen = () => connection.close(code);
}
function absolute(url) {
  const found = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
  found.protocol = found.protocol.replace(/^http/, "ws");
  return found.href;
}

// src/heartbeat.ts
var QUIET = 5e3;
var QUIET_UNSEEN = 3e4;
var PATIENCE = 4e3;
var PATIENCE_AWAKE = 2e3;
var PATIENCE_MOST = 6e4;
var Heartbeat = class {
  #owner;
  /** When something has last arrived. */
  #heardAt = 0;
  /** When the answer to a probe is due. Undefined unless this side has asked. */
  #answerDue;
  #patience = PATIENCE;
  #timer;
  constructor(owner) {
    this.#owner = owner;
  }
  /** Begins with a connection. Patience stays: the message that takes long may come again. */
  start() {
    this.#heardAt = now();
    this.#look();
  }
  /** Notes that something has arrived. */
  heard() {
    this.#heardAt = now();
    this.#answerDue = void 0;
    this.#patience = PATIENCE;
  }
  stop() {
    clearTimeout(this.#timer);
    this.#answerDue = void 0;
  }
  /** Whether nothing has arrived for so long that this side would have noticed if it had not been asleep. */
  get hasSlept() {
    return now() - this.#heardAt > QUIET_UNSEEN + PATIENCE;
  }
  /** Asks now, because the page has woken up. */
  wake() {
    this.#probe(PATIENCE_AWAKE);
    this.#look();
  }
  #look() {
    const time = now();
    if (this.#answerDue && time >= this.#answerDue) {
      this.#patience = Math.min(2 * this.#patience, PATIENCE_MOST);
      return this.#owner.connectionLost(ABNORMAL, "the connection is silent");
    }
    const seen = globalThis.document?.visibilityState !== "hidden" || this.#owner.isBusy;
    if (!this.#answerDue && time >= this.#heardAt + (seen ? QUIET : QUIET_UNSEEN)) this.#probe(this.#patience);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), (this.#answerDue ?? (seen ? this.#heardAt : time) + QUIET) - time);
  }
  #probe(patience) {
    this.#answerDue = Math.min(this.#answerDue ?? Infinity, now() + patience);
    this.#owner.say({ t: "probe" });
  }
};

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

// src/states.ts
var TABLE = {
  [0 /* New */]: {
    [0 /* Bound */]: 1 /* Plain */,
    [7 /* Ended */]: 7 /* Over */
  },
  [1 /* Plain */]: {
    [1 /* Greeted */]: 2 /* Attached */,
    [2 /* Counted */]: 3 /* Resumable */,
    [6 /* Closed */]: 6 /* Closing */,
    [7 /* Ended */]: 7 /* Over */
  },
  [2 /* Attached */]: {
    [6 /* Closed */]: 6 /* Closing */,
    [7 /* Ended */]: 7 /* Over */
  },
  [3 /* Resumable */]: {
    [3 /* Cut */]: 4 /* Detached */,
    [6 /* Closed */]: 6 /* Closing */,
    [7 /* Ended */]: 7 /* Over */
  },
  [4 /* Detached */]: {
    [3 /* Cut */]: 4 /* Detached */,
    [4 /* Asked */]: 5 /* Asking */,
    [7 /* Ended */]: 7 /* Over */
  },
  [5 /* Asking */]: {
    [3 /* Cut */]: 4 /* Detached */,
    [5 /* Resumed */]: 3 /* Resumable */,
    [7 /* Ended */]: 7 /* Over */
  },
  [6 /* Closing */]: { [7 /* Ended */]: 7 /* Over */ },
  [7 /* Over */]: {}
};

// src/session.ts
var EXPIRED = 4411;
var ANSWER = 5e3;
var MOST_SILENCES = 2;
var LONGEST_TIMER = 2 ** 31 - 1;
var LONGEST_REASON = 123;
var WOKEN = "the page has woken up";
var SILENT = "the server does not answer";
var MISMATCH = "the server counts differently";
var Session = class {
  state = 0 /* New */;
  /** The type in which binary messages arrive. */
  binaryType = "blob";
  /** The open connection. */
  connection;
  dialing;
  #options;
  #owner;
  /** Removes the listeners of page events. */
  #listening = new AbortController();
  /** Undefined if the server does not answer probes. */
  #heartbeat;
  #sid = "";
  #token;
  /** Milliseconds that the session lives without a connection. */
  #ttl = 0;
  /** Counts the attempts to resume, for the server. */
  #gen = 0;
  #silences = 0;
  #expiryTimer;
  #answerTimer;
  /** What was sent, if the session can resume. */
  #sent;
  #received = new Acknowledger((ack) => this.say(ack));
  /** @throws SyntaxError if the address is not valid, as for a WebSocket */
  constructor(target, protocols, options, owner) {
    this.#options = options;
    this.#owner = owner;
    this.dialing = new Dialing(target, protocols, options, this);
    this.dialing.dial();
    onWake((sure) => this.#wake(sure), this.#listening.signal);
    onStop((mayWake) => mayWake ? this.#park() : this.close(), this.#listening.signal);
  }
  #move(happened) {
    const next = TABLE[this.state][happened];
    if (next) this.state = next;
    return next;
  }
  /** Whether messages leave now. */
  get #isConnected() {
    return [1 /* Plain */, 2 /* Attached */, 3 /* Resumable */].includes(this.state);
  }
  /** Whether the session waits for another connection. */
  get #isDetached() {
    return this.state === 4 /* Detached */ || this.state === 5 /* Asking */;
  }
  get isBusy() {
    return this.#owner.isBusy;
  }
  // ------------------------------------------------------------ sending
  /** Sends a message, or keeps it for the next connection. Returns what is kept of it. */
  send(data, size = sizeOf(data)) {
    if (!this.#isConnected && !this.#isDetached) return { data, size, sent: false };
    const full = this.fullness > 1;
    const leaves = this.#isConnected && !full;
    const kept = this.#sent?.keep(data, size, leaves);
    if (leaves) this.connection.send(data);
    if (full) {
      const unread = this.#sent ? void 0 : this.connection;
      this.#end(4408, "too much waits to be sent");
      unread?.terminate?.();
    }
    return kept;
  }
  /** Sends a control message that is about the connection. */
  say(control) {
    this.connection.send(writeControl(control));
  }
  /** How much waits to be sent, or may have to be sent again: more than 1 ends the session. */
  get fullness() {
    const waits = this.#sent?.memory ?? this.connection?.bufferedAmount ?? Infinity;
    return waits / (this.#options.buffer ?? 2 ** 24);
  }
  /** Bytes that no connection has written so far. While the session is detached, all bytes that are kept. */
  get unsent() {
    return this.#isDetached ? this.#sent.bytes : this.connection?.bufferedAmount ?? 0;
  }
  /** Takes back a message that no connection has got. Returns false if it is too late. */
  takeBack(kept) {
    if (kept.sent || !this.#sent) return false;
    this.#sent.takeBack(kept);
    return true;
  }
  // ------------------------------------------------------------ receiving
  #receive(data, origin) {
    const control = typeof data === "string" ? readControl(data) : void 0;
    if (this.state === 5 /* Asking */) return this.#answered(control);
    if (!this.#isConnected) return;
    this.#heartbeat?.heard();
    if (control && !isCounted(control)) return this.#receiveUncounted(control);
    const size = sizeOf(data);
    if (this.#sent) this.#received.count(size);
    if (control) this.#owner.control(control);
    else this.#owner.receive(data, size, origin);
  }
  #receiveUncounted(control) {
    if (control.t === "welcome" && this.state === 1 /* Plain */) this.#greeted(control);
    if (control.t === "ack" && this.#sent?.acknowledge(control.n, control.bytes) === false) this.#end(4400, MISMATCH);
  }
  #greeted(welcome) {
    const features = Array.isArray(welcome.features) ? welcome.features : [];
    if (features.includes("probe")) this.#heartbeat = new Heartbeat(this);
    if (features.includes("resume") && typeof welcome.sid === "string") {
      this.#move(2 /* Counted */);
      this.#sid = welcome.sid;
      this.dialing.asksToResume = true;
      this.#token = welcome.token;
      this.#ttl = Math.min(1e3 * (Number(welcome.ttl) || 0), LONGEST_TIMER);
      this.say({ t: "ack", n: 0, bytes: 0 });
      this.#sent = new ReplayBuffer();
    } else this.#move(1 /* Greeted */);
    this.#owner.control(welcome);
    this.#heartbeat?.start();
  }
  // ------------------------------------------------------------ connections
  dialed(connection) {
    this.connection = connection;
    connection.binaryType = this.binaryType;
    connection.onmessage = ({ data, origin }) => this.#receive(data, origin);
    const hello = { v: 1, features: [...this.#owner.features, "resume", "probe"], limits: {} };
    if (this.#move(0 /* Bound */)) {
      this.say({ t: "hello", ...hello });
      this.#owner.opened(connection);
    } else {
      this.#move(4 /* Asked */);
      const { n: rx, bytes } = this.#received.tell();
      this.say({ t: "resume", ...hello, sid: this.#sid, token: this.#token, gen: ++this.#gen, rx, bytes });
      this.#answerTimer = setTimeout(() => this.#unanswered(), ANSWER);
    }
  }
  #unanswered() {
    if (++this.#silences < MOST_SILENCES) this.#detach(ABNORMAL, SILENT);
    else this.#end(ABNORMAL, SILENT);
  }
  #answered(answer) {
    if (answer?.t !== "resumed") {
      this.#end(ABNORMAL, answer?.t === "gone" ? `the server has no such session: ${answer.why}` : "it was not resumed");
    } else if (!this.#sent.acknowledge(answer.rx, answer.bytes)) this.#end(4400, MISMATCH);
    else {
      clearTimeout(this.#answerTimer);
      clearTimeout(this.#expiryTimer);
      this.#token = answer.token;
      this.#silences = 0;
      this.#move(5 /* Resumed */);
      this.#sent.sendAll((data) => this.connection.send(data));
      this.#owner.control(answer);
      this.#heartbeat?.start();
      this.#owner.resumed();
    }
  }
  connectionLost(code, reason, wasClean) {
    const isDrop = this.state === 3 /* Resumable */ && (code === ABNORMAL || code === EXPIRED);
    if (isDrop || this.#isDetached && mayDialAgain(code)) this.#detach(code, reason);
    else this.#end(code, reason, wasClean);
  }
  /** Goes on without a connection, and dials again. */
  #detach(code, reason) {
    const dropped = this.state === 3 /* Resumable */;
    this.#disown(RESUMES);
    this.#move(3 /* Cut */);
    this.dialing.dialLater(code, dropped ? now() - this.dialing.since : 0, this.#gen > 0);
    if (dropped) this.#expiryTimer = setTimeout(() => this.#end(ABNORMAL, "not resumed in time"), this.#ttl);
    this.#owner.detached(code, reason, dropped);
  }
  /** Leaves the connection, be it open or not, without waiting for its end. */
  #disown(code) {
    this.dialing.stop(code);
    if (this.connection) disown(this.connection, code);
    this.connection = void 0;
    this.#stopTimers();
  }
  #stopTimers() {
    clearTimeout(this.#answerTimer);
    this.#heartbeat?.stop();
    this.#received.stop();
  }
  /** Dials now, if the session waits for its next attempt. */
  retry() {
    if (this.state === 4 /* Detached */ && this.dialing.state !== "dialing") this.dialing.dial();
  }
  // ------------------------------------------------------------ the page
  /** Leaves the connection, because the page is about to stop. Chrome would close it, and the session would end. */
  #park() {
    if (this.state !== 3 /* Resumable */ && !this.#isDetached) return;
    this.#detach(ABNORMAL, "the page stops");
    this.dialing.stop();
  }
  /**
   * Looks after the connection at once, because the page has woken up.
   *
   * @param sure whether the connection has probably ended, so that another one is quicker than an answer
   */
  #wake(sure) {
    if (this.#isConnected && this.#heartbeat) {
      if (this.state === 3 /* Resumable */ && (sure || this.#heartbeat.hasSlept)) this.#detach(ABNORMAL, WOKEN);
      else this.#heartbeat.wake();
    }
    const tries = this.state === 5 /* Asking */ || this.dialing.state === "dialing";
    if (this.#isDetached && tries && now() - this.dialing.since > ANSWER) this.#detach(ABNORMAL, WOKEN);
    this.retry();
  }
  // ------------------------------------------------------------ the end
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
    if (this.#isConnected) {
      if (this.#sent) this.say({ t: "gone", why: "closed" });
      this.#stopTimers();
      this.#move(6 /* Closed */);
      this.connection.close(code, reason);
    } else if (this.state === 0 /* New */) this.#end(ABNORMAL, "closed");
    else if (this.#isDetached) this.#end(code, reason);
  }
  #end(code, reason, wasClean = false) {
    const was = this.state;
    this.#move(7 /* Ended */);
    this.#disown(code >= 3e3 ? code : 1e3);
    clearTimeout(this.#expiryTimer);
    this.#listening.abort();
    this.#sent = void 0;
    queueMicrotask(() => this.#owner.over({ code, reason, wasClean }, was));
  }
};

// src/socket.ts
var SessionSocket = class extends EventTarget {
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
  #session;
  /**
   * @param target where to connect. If it is a function, it is called for each attempt
   * @param protocols subprotocols to offer
   * @throws SyntaxError if the address is not valid, as for a WebSocket
   */
  constructor(target, protocols = [], options = {}) {
    super();
    for (const type of ["open", "message", "error", "close", "detached", "resumed"]) {
      this[`on${type}`] = null;
      this.addEventListener(type, (event) => this[`on${type}`]?.(event));
    }
    const offers = typeof protocols === "string" ? [protocols] : [...protocols];
    const dispatch = (type) => this.dispatchEvent(new Event(type));
    this.#session = new Session(target, offers, options, {
      features: [],
      isBusy: false,
      opened: ({ protocol }) => {
        if (offers.includes(protocol)) this.protocol = protocol;
        dispatch("open");
      },
      receive: (data, _size, origin) => this.dispatchEvent(new MessageEvent("message", { data, origin })),
      control() {
      },
      detached: (_code, _reason, dropped) => dropped && dispatch("detached"),
      resumed: () => dispatch("resumed"),
      over: (end, was) => {
        if (was === 0 /* New */) dispatch("error");
        this.dispatchEvent(closeEvent(end));
      }
    });
  }
  get url() {
    return this.#session.dialing.url;
  }
  get readyState() {
    const { state } = this.#session;
    return state === 0 /* New */ ? 0 : state === 6 /* Closing */ ? 2 : state === 7 /* Over */ ? 3 : 1;
  }
  get binaryType() {
    return this.#session.binaryType;
  }
  set binaryType(type) {
    if (type !== "blob" && type !== "arraybuffer") return;
    this.#session.binaryType = type;
    if (this.#session.connection) this.#session.connection.binaryType = type;
  }
  /** Bytes that no connection has written so far. While the session is detached, all bytes that are kept. */
  get bufferedAmount() {
    return this.#session.unsent;
  }
  /**
   * Sends a message, or keeps it for the next connection.
   *
   * @throws InvalidStateError while the first connection is being made
   */
  send(data) {
    if (!this.readyState) throw new DOMException("the connection is not open yet", "InvalidStateError");
    this.#session.send(snapshot(data));
  }
  /**
   * Ends the session. If there is a connection, the server is told, and frees the session at once.
   *
   * @throws InvalidAccessError if the code is neither 1000 nor one from 3000 to 4999
   * @throws SyntaxError if the reason has more than 123 bytes
   */
  close(code, reason) {
    this.#session.close(code, reason);
  }
};
function closeEvent(fields) {
  if (globalThis.CloseEvent) return new CloseEvent("close", fields);
  return Object.assign(new Event("close"), fields);
}
function snapshot(data) {
  if (typeof data === "string" || data instanceof Blob) return data;
  const { buffer = data, byteOffset, byteLength } = Object(data);
  return byteLength === void 0 ? String(data) : new Uint8Array(buffer, byteOffset, byteLength).slice().buffer;
}
export {
  SessionSocket
};
