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
   * @param lasted the milliseconds for which the connection was open; 0 for a failed attempt
   * @param kept the milliseconds for which the server keeps the session, which is asked for several times meanwhile
   */
  delay(code, lasted, kept = Infinity) {
    if (lasted >= (kept < Infinity || code === RESTART ? SERVED : STABLE)) this.#failures = 0;
    const delay = Math.random() * Math.min(LONGEST, kept / 8, INITIAL * 2 ** this.#failures++);
    return code === 1013 ? delay + 1e4 : delay;
  }
};

// src/clock.ts
var LONGEST_TIMER = 2 ** 31 - 1;
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
var OVERHEAD = 64;
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
var SILENT = "the server does not answer";
var RESUMES = 4412;
var HINT = "wsrpc.resume";
var NEUTRAL = "wsrpc";
var ATTEMPT_TIMEOUT = 1e4;
var Dialing = class {
  #target;
  #protocols;
  #options;
  #owner;
  #backoff = new Backoff();
  /** Whether an attempt is in progress. */
  isDialing = false;
  /** When the last attempt has started, or has succeeded. */
  since = 0;
  /** When the last connection has opened. */
  openedAt = 0;
  /** Whether the connections are to resume a session. */
  asksToResume = false;
  /** The address of the last attempt. */
  url = "";
  /** Distinguishes the present attempt from earlier attempts, which were given up. */
  #attempt = 0;
  /** The connection that is being made. */
  #connection;
  /** Starts the next attempt, or ends the present one. */
  #timer;
  constructor(target, protocols, options, owner) {
    this.#target = target;
    this.#protocols = protocols;
    this.#options = options;
    this.#owner = owner;
  }
  /**
   * Starts an attempt.
   *
   * @throws SyntaxError if this is the first attempt, and the address is not valid
   */
  dial() {
    this.stop();
    const attempt = this.#attempt;
    const target = this.#target;
    const open = (address) => attempt === this.#attempt && this.#open(address);
    const fail = (error) => attempt === this.#attempt && this.#owner.connectionLost(ABNORMAL, String(error));
    this.isDialing = true;
    this.since = now();
    if (typeof target === "function") Promise.resolve().then(target).then(open).catch(fail);
    else if (!this.url) open(target);
    else Promise.resolve(target).then(open).catch(fail);
    this.#timer = setTimeout(fail, ATTEMPT_TIMEOUT, SILENT);
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
      this.since = this.openedAt = now();
      this.#owner.dialed(connection);
    };
    connection.onerror = () => {
    };
    connection.onclose = ({ code, reason, wasClean }) => this.#owner.connectionLost(code, String(reason), wasClean);
  }
  /**
   * Starts an attempt after a delay.
   *
   * @param code the close code of the last connection
   * @param lasted the milliseconds for which the connection was open; 0 for a failed attempt
   * @param kept the milliseconds for which the server keeps the session
   */
  dialLater(code, lasted, kept) {
    const delay = this.#backoff.delay(code, lasted, kept);
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
    this.isDialing = false;
  }
};
function disown(connection, code) {
  connection.onmessage = connection.onclose = null;
  const now2 = connection.readyState === 1 || code === RESUMES || !globalThis.document;
  if (now2) connection.close(code);
  else setTimeout(connection.onopen = () => connection.close(code), ATTEMPT_TIMEOUT);
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
var Heartbeat = class {
  #owner;
  /** When something has arrived or left. */
  #movedAt = 0;
  /** The unsent bytes at the last check. */
  #unsent = 0;
  /** When the answer to a probe is due. Undefined if no probe was sent. */
  #answerDue;
  #patience = PATIENCE;
  #timer;
  constructor(owner) {
    this.#owner = owner;
  }
  /** Starts with a connection. Patience stays the same, because the large message may be sent again. */
  start() {
    this.#moved();
    this.#check();
  }
  /** A message has arrived. */
  received() {
    this.#moved();
    this.#patience = PATIENCE;
  }
  /** Something has arrived or left: the connection is not dead. */
  #moved() {
    this.#movedAt = now();
    this.#answerDue = void 0;
    this.#owner.dialing.stop(1e3);
  }
  stop() {
    clearTimeout(this.#timer);
    this.#answerDue = void 0;
  }
  /**
   * Sends a probe now, because the page has woken up.
   *
   * @param probablyLost whether the connection has probably ended, so that another one is dialed at once
   */
  wake(probablyLost) {
    const isLost = probablyLost || now() - this.#movedAt > QUIET_UNSEEN + PATIENCE;
    this.#probe(isLost && this.#owner.dialing.asksToResume ? 0 : this.#patience);
    this.#unsent = 0;
    this.#check();
  }
  #check() {
    const time = now();
    const { dialing, unsent } = this.#owner;
    if (unsent && unsent < this.#unsent) this.#moved();
    this.#unsent = unsent;
    if (this.#answerDue && time >= this.#answerDue) {
      this.#answerDue = time + (this.#patience *= 2);
      if (!dialing.asksToResume) return this.#owner.connectionLost(ABNORMAL, SILENT);
      if (!dialing.isDialing) dialing.dial();
    }
    const seen = globalThis.document?.visibilityState !== "hidden" || this.#owner.isBusy;
    if (!this.#answerDue && time >= this.#movedAt + (seen ? QUIET : QUIET_UNSEEN)) this.#probe(this.#patience);
    clearTimeout(this.#timer);
    const next = this.#answerDue ?? (seen ? this.#movedAt : time) + QUIET;
    this.#timer = setTimeout(() => this.#check(), next - time);
  }
  #probe(patience) {
    this.#answerDue = Math.min(this.#answerDue ?? Infinity, now() + patience);
    this.#owner.sendControl({ t: "probe" });
  }
};

// src/page_events.ts
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

// src/replay.ts
var ACK_MESSAGES = 256;
var ACK_BYTES = 64 * 1024;
var ACK_DELAY = 1e3;
var ReplayBuffer = class {
  #messages = [];
  /** The number of acknowledged messages, and their bytes. */
  #arrived = 0;
  #arrivedBytes = 0;
  /** Bytes of the messages in the buffer. */
  bytes = 0;
  /** Bytes of memory that the messages occupy, approximately. */
  get memory() {
    return this.bytes + OVERHEAD * this.#messages.length;
  }
  /** Adds a message. If it is sent now, it may be cut. Returns what is to be sent. */
  add(message) {
    const parts = message.sent && this.parts?.cut(message) || [message];
    this.#messages.push(...parts);
    for (const { size } of parts) this.bytes += size;
    return parts;
  }
  /** Removes a message. Returns false if a connection has got it already. */
  drop(message) {
    if (message.sent) return false;
    this.#messages.splice(this.#messages.lastIndexOf(message), 1);
    this.bytes -= message.size;
    return true;
  }
  /**
   * Removes the acknowledged messages.
   *
   * @param n the number of messages that have arrived in the session
   * @param bytes their bytes
   * @returns false if the server cannot have received these messages
   */
  acknowledge(n, bytes) {
    const arrived = this.#messages.slice(0, Math.max(0, Number(n) - this.#arrived));
    const size = arrived.reduce((sum, message) => sum + message.size, 0);
    const isPossible = n === this.#arrived + arrived.length && bytes === this.#arrivedBytes + size;
    if (!isPossible || arrived.at(-1)?.sent === false) return false;
    this.#messages.splice(0, arrived.length);
    this.#arrived += arrived.length;
    this.#arrivedBytes += size;
    this.bytes -= size;
    return true;
  }
  /** Sends all messages in the buffer. Those that have not arrived can be cut although they were sent. */
  sendAll(send) {
    this.bytes = 0;
    for (const message of this.#messages.splice(0)) {
      message.sent = true;
      for (const { data } of this.add(message)) send(data);
    }
  }
};
var Acknowledger = class {
  #send;
  #n = 0;
  #bytes = 0;
  /** The counts that the server knows. */
  #acknowledged = 0;
  #acknowledgedBytes = 0;
  #timer;
  /** @param send sends an acknowledgement */
  constructor(send) {
    this.#send = send;
  }
  /** Counts a message. It is acknowledged soon, or at once if many messages or bytes are not acknowledged. */
  count(size) {
    this.#n++;
    this.#bytes += size;
    const isDue = this.#n - this.#acknowledged >= ACK_MESSAGES || this.#bytes - this.#acknowledgedBytes >= ACK_BYTES;
    if (isDue) this.#sendAck();
    else this.#timer ??= setTimeout(() => this.#sendAck(), ACK_DELAY);
  }
  #sendAck() {
    this.stop();
    this.#send({ t: "ack", ...this.acknowledge() });
  }
  /** Returns the counts for the server, and records that the server knows them. */
  acknowledge() {
    this.#acknowledged = this.#n;
    this.#acknowledgedBytes = this.#bytes;
    return { n: this.#n, bytes: this.#bytes };
  }
  /** Sends no acknowledgement before the next message has arrived. */
  stop() {
    clearTimeout(this.#timer);
    this.#timer = void 0;
  }
};

// src/session_states.ts
var TABLE = {
  [0 /* New */]: { [0 /* Bound */]: 1 /* Plain */ },
  [1 /* Plain */]: {
    [1 /* Greeted */]: 2 /* Attached */,
    [2 /* Counted */]: 3 /* Resumable */
  },
  [2 /* Attached */]: {},
  [3 /* Resumable */]: {
    [3 /* Cut */]: 4 /* Detached */,
    [4 /* Asked */]: 5 /* Asking */
  },
  [4 /* Detached */]: {
    [3 /* Cut */]: 4 /* Detached */,
    [4 /* Asked */]: 5 /* Asking */
  },
  [5 /* Asking */]: {
    [3 /* Cut */]: 4 /* Detached */,
    [5 /* Resumed */]: 3 /* Resumable */
  },
  [6 /* Closing */]: {},
  [7 /* Over */]: {}
};

// src/session.ts
var RESUMABLE = /* @__PURE__ */ new Set([1001, ABNORMAL, 4411]);
var WELCOME_TIMEOUT = 1e4;
var ANSWER_TIMEOUT = 5e3;
var MAX_REASON = 123;
var MISMATCH = "the counts differ";
var Session = class {
  state = 0 /* New */;
  /** The type in which binary messages arrive. */
  binaryType = "blob";
  #owner;
  /** The option `buffer`. */
  #buffer;
  /** Removes the listeners of page events. */
  #listening = new AbortController();
  /** Undefined if the server answers no probes. */
  #heartbeat;
  /** The name of the session, and the secret with which this side resumes it. */
  #named = {};
  /** Milliseconds after which the server ends a session without a connection. */
  #ttl = 0;
  /** The number of attempts to resume, for the server. */
  #gen = 0;
  /** The number of attempts to resume whose answer did not come in time. */
  #unanswered = 0;
  #expiryTimer;
  #answerTimer;
  /** Undefined if the session cannot resume. */
  #replay;
  /** Undefined unless both sides have the feature `parts`. */
  #parts;
  #received = new Acknowledger((ack) => this.sendControl(ack));
  /** @throws SyntaxError if the address is not valid, as for a WebSocket */
  constructor(target, protocols, options, owner) {
    this.#owner = owner;
    this.#buffer = options.buffer ?? 2 ** 24;
    this.dialing = new Dialing(target, protocols, options, this);
    this.dialing.dial();
    onWake((probablyLost) => this.#wake(probablyLost), this.#listening.signal);
    onStop((mayWake) => mayWake ? this.#park() : this.close(), this.#listening.signal);
  }
  #move(happened) {
    const next = TABLE[this.state][happened];
    if (next) this.state = next;
    return next;
  }
  /** Whether messages are sent now. */
  get #isConnected() {
    return [1 /* Plain */, 2 /* Attached */, 3 /* Resumable */].includes(this.state);
  }
  /** Whether the session waits for another connection. */
  get #isDetached() {
    return [4 /* Detached */, 5 /* Asking */].includes(this.state);
  }
  get isBusy() {
    return this.#owner.isBusy;
  }
  // ------------------------------------------------------------ sending
  /**
   * Sends a message, or keeps it for the next connection.
   *
   * @returns the message, which can be dropped until it was sent
   */
  send(data, size = sizeOf(data)) {
    const isFull = this.fullness > 1;
    const message = { data, size, sent: this.#isConnected && !isFull };
    if (!this.#isConnected && !this.#isDetached) return message;
    const parts = this.#replay?.add(message) ?? [message];
    if (message.sent) for (const part of parts) this.#write(part.data);
    if (this.state === 1 /* Plain */ && this.#replay?.memory > this.#buffer) this.#replay = void 0;
    if (isFull) {
      const unread = this.#replay ? void 0 : this.connection;
      this.#end(4408, "too much waits to be sent");
      unread?.terminate?.();
    }
    return message;
  }
  /** Sends a control message that is about the connection. */
  sendControl(control) {
    this.#write(writeControl(control));
  }
  /** Not while the other side closes: the message would be lost, and Chrome reports that in the console. */
  #write(data) {
    if (this.connection.readyState === 1) this.connection.send(data);
  }
  /** How full the option `buffer` is, with messages that wait or may be sent again. Above 1, the session ends. */
  get fullness() {
    const kept = this.state !== 1 /* Plain */ && this.#replay?.memory;
    return (kept || this.unsent) / this.#buffer;
  }
  /** Bytes that no connection has written so far. While the session is detached: the bytes of the replay buffer. */
  get unsent() {
    return this.#isDetached ? this.#replay.bytes : this.connection?.bufferedAmount ?? 0;
  }
  /** Drops a message, so that it is never sent. Returns false if a connection has got it already. */
  drop(message) {
    return this.#replay?.drop(message) ?? false;
  }
  // ------------------------------------------------------------ receiving
  #receive(data, origin) {
    const control = typeof data === "string" ? readControl(data) : void 0;
    if (this.state === 5 /* Asking */) return this.#resumeAnswered(control);
    if (!this.#isConnected) return;
    this.#heartbeat?.received();
    if (control && !isCounted(control)) return this.#receiveUncounted(control);
    const size = sizeOf(data);
    if (this.state === 3 /* Resumable */) this.#received.count(size);
    if (control) return this.#owner.receiveControl(control);
    const message = this.#parts ? this.#parts.join(data) : data;
    if (message !== void 0) this.#owner.receive(message, message === data ? size : sizeOf(message), origin);
  }
  #receiveUncounted(control) {
    if (control.t === "welcome" && this.state === 1 /* Plain */) this.#welcomed(control);
    const isAck = control.t === "ack" && this.state === 3 /* Resumable */;
    if (isAck && !this.#replay.acknowledge(control.n, control.bytes)) this.#end(4400, MISMATCH);
  }
  #welcomed(welcome) {
    const features = Array.isArray(welcome.features) ? welcome.features : [];
    if (features.includes("probe")) this.#heartbeat = new Heartbeat(this);
    if (features.includes("parts")) this.#parts = this.#owner.parts;
    const resumes = typeof welcome.sid === "string";
    if (resumes && this.#replay) {
      clearTimeout(this.#answerTimer);
      this.#move(2 /* Counted */);
      this.dialing.asksToResume = true;
      this.#named = { sid: welcome.sid, token: welcome.token };
      this.#ttl = Math.min(1e3 * Number(welcome.ttl) || 0, LONGEST_TIMER);
      this.#replay.parts = this.#parts;
    } else {
      if (resumes) this.sendControl({ t: "gone", why: "closed" });
      this.#replay = void 0;
      this.#move(1 /* Greeted */);
    }
    this.#owner.receiveControl(welcome);
    this.#heartbeat?.start();
  }
  // ------------------------------------------------------------ connections
  dialed(connection) {
    this.#disown(RESUMES);
    this.connection = connection;
    connection.binaryType = this.binaryType;
    connection.onmessage = ({ data, origin }) => this.#receive(data, origin);
    const hello = { v: 1, features: [...this.#owner.features, "resume", "probe"], limits: {} };
    if (this.#move(0 /* Bound */)) {
      this.sendControl({ t: "hello", ...hello });
      this.#replay = new ReplayBuffer();
      this.#answerTimer = setTimeout(() => this.#replay = void 0, WELCOME_TIMEOUT);
      this.#owner.opened(connection);
    } else {
      this.#move(4 /* Asked */);
      const { n: rx, bytes } = this.#received.acknowledge();
      this.sendControl({ t: "resume", ...hello, ...this.#named, gen: ++this.#gen, rx, bytes });
      const unanswered = () => (this.#unanswered++, this.#detach(ABNORMAL, SILENT));
      this.#answerTimer = setTimeout(unanswered, ANSWER_TIMEOUT * (1 + this.#unanswered));
    }
  }
  #resumeAnswered(answer) {
    if (answer?.t !== "resumed") {
      const why = answer?.why ?? "no answer";
      this.#end(ABNORMAL, `not resumed: ${why === "elsewhere" ? "another process" : why}`);
    } else if (!this.#replay.acknowledge(answer.rx, answer.bytes)) this.#end(4400, MISMATCH);
    else {
      clearTimeout(this.#answerTimer);
      clearTimeout(this.#expiryTimer);
      this.#expiryTimer = void 0;
      this.#named.token = answer.token;
      this.#unanswered = 0;
      this.#move(5 /* Resumed */);
      this.#replay.sendAll((data) => this.#write(data));
      this.#owner.receiveControl(answer);
      this.#heartbeat?.start();
      this.#owner.resumed();
    }
  }
  connectionLost(code, reason, wasClean) {
    const isDrop = this.state === 3 /* Resumable */ && RESUMABLE.has(code);
    if (isDrop || this.#isDetached && mayDialAgain(code)) this.#detach(code, reason);
    else this.#end(code, reason, wasClean);
  }
  /** Continues without a connection, and dials again. */
  #detach(code, reason) {
    const lasted = this.state === 3 /* Resumable */ ? now() - this.dialing.openedAt : 0;
    this.#disown(RESUMES);
    this.#move(3 /* Cut */);
    this.dialing.dialLater(code, lasted, this.#ttl);
    this.#owner.sessionDetached(code, reason);
  }
  /** Closes the connection, and gives up the attempt to connect, without waiting for the end. */
  #disown(code) {
    if (this.connection) {
      disown(this.connection, code);
      this.#expiryTimer ??= setTimeout(() => this.#end(ABNORMAL, "not resumed in time"), this.#ttl);
    }
    this.connection = void 0;
    this.#stopTimers(code);
  }
  #stopTimers(code = 1e3) {
    this.dialing.stop(code);
    clearTimeout(this.#answerTimer);
    this.#heartbeat?.stop();
    this.#received.stop();
  }
  /** Dials now if the session waits for its next attempt. Otherwise it has no effect. */
  retry() {
    if (this.state === 4 /* Detached */ && !this.dialing.isDialing) this.dialing.dial();
  }
  // ------------------------------------------------------------ the page
  /** Disowns the connection, because the page stops. Chrome would close the connection, and so end the session. */
  #park() {
    if (this.state !== 3 /* Resumable */ && !this.#isDetached) return;
    this.#detach(ABNORMAL, "closed");
    this.dialing.stop();
  }
  /**
   * Probes the connection, or dials, at once, because the page has woken up.
   *
   * @param probablyLost whether the connection has probably ended
   */
  #wake(probablyLost) {
    if (this.#isConnected) this.#heartbeat?.wake(probablyLost);
    const isTrying = this.state === 5 /* Asking */ || this.dialing.isDialing;
    if (this.#isDetached && isTrying && now() - this.dialing.since > ANSWER_TIMEOUT) this.#detach(ABNORMAL, SILENT);
    this.retry();
  }
  // ------------------------------------------------------------ the end
  /**
   * Ends the session. The server learns this if there is a connection, and then ends the session at once, too.
   *
   * @throws InvalidAccessError if the code is neither 1000 nor one from 3000 to 4999
   * @throws SyntaxError if the reason has more than 123 bytes
   */
  close(code = 1e3, reason = "") {
    if (code !== 1e3 && !(code >= 3e3 && code <= 4999)) {
      throw new DOMException(`a close code is 1000 or 3000-4999, not ${code}`, "InvalidAccessError");
    }
    if (sizeOf(reason) > MAX_REASON) throw new DOMException("the reason is too long", "SyntaxError");
    if (this.#isConnected) {
      if (this.#replay) this.sendControl({ t: "gone", why: "closed" });
      this.#stopTimers();
      this.state = 6 /* Closing */;
      this.connection.close(code, reason);
    } else if (this.state === 0 /* New */) this.#end(ABNORMAL, "closed");
    else if (this.#isDetached) this.#end(code, reason);
  }
  #end(code, reason, wasClean = false) {
    const before = this.state;
    this.state = 7 /* Over */;
    this.#disown(code >= 3e3 ? code : 1e3);
    clearTimeout(this.#expiryTimer);
    this.#listening.abort();
    this.#replay = void 0;
    queueMicrotask(() => this.#owner.sessionOver({ code, reason, wasClean }, before));
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
   * @param target the address, or a function that is called for each attempt to connect
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
    let isDetached;
    const dispatch = (type) => this.dispatchEvent(new Event(type));
    this.#session = new Session(target, offers, options, {
      features: [],
      isBusy: false,
      opened: ({ protocol }) => {
        if (offers.includes(protocol)) this.protocol = protocol;
        dispatch("open");
      },
      receive: (data, _size, origin) => this.dispatchEvent(new MessageEvent("message", { data, origin })),
      receiveControl() {
      },
      sessionDetached: () => isDetached ||= dispatch("detached"),
      resumed: () => isDetached = !dispatch("resumed"),
      // an event that cannot be cancelled returns true
      sessionOver: (end, before) => {
        if (before === 0 /* New */) dispatch("error");
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
  /** Bytes that no connection has written so far. While the session is detached: all bytes that may be sent again. */
  get bufferedAmount() {
    return this.#session.unsent;
  }
  /**
   * Sends a message, or keeps it for the next connection.
   *
   * @throws InvalidStateError while the first connection is being made
   */
  send(data) {
    if (!this.readyState) throw new DOMException("not open yet", "InvalidStateError");
    this.#session.send(snapshot(data));
  }
  /**
   * Ends the session. The server learns this if there is a connection, and then ends the session at once, too.
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
