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

// src/errors.ts
var NOT_RUN = /* @__PURE__ */ new Set(["wsrpc.bad_arguments", "wsrpc.unknown_event", "wsrpc.overloaded", "wsrpc.draining"]);
var WsrpcError = class extends Error {
  constructor(message, outcome, code, data) {
    super(message);
    this.outcome = outcome;
    this.code = code;
    this.data = data;
  }
  outcome;
  code;
  data;
  name = "WsrpcError";
};
var textOf = (value) => typeof value === "object" && value ? Object.prototype.toString.call(value) : String(value);
var RemoteError = class extends WsrpcError {
  name = "RemoteError";
  /** The error as it arrived, with all its fields. */
  value;
  /** Of an unexpected exception, whose text a server does not send: its log has the traceback with this id. */
  errorId;
  /**
   * @param isError whether the value is an error object. Anything can be thrown
   * @param hasBegun whether the handler has certainly run, because it has opened a channel
   */
  constructor(value, isError, hasBegun = false) {
    const isObject = isError && typeof value === "object" && value !== null;
    const { message, code, data, error_id } = isObject ? value : { message: value };
    const known = typeof code === "string" || typeof code === "number" ? code : void 0;
    const notRun = !hasBegun && NOT_RUN.has(code);
    super(isObject ? textOf(message ?? "") : textOf(value), notRun ? "not_run" : "ran", known, data);
    this.value = value;
    this.errorId = typeof error_id === "string" ? error_id : void 0;
  }
};
var ConnectionLost = class extends WsrpcError {
  name = "ConnectionLost";
};
var RequestTimeout = class extends WsrpcError {
  name = "RequestTimeout";
};
var Aborted = class extends WsrpcError {
  name = "AbortError";
  constructor(outcome, reason) {
    super("the call was aborted", outcome);
    this.cause = reason;
  }
};
var ChannelClosed = class extends WsrpcError {
  name = "ChannelClosed";
};
var Refused = class extends WsrpcError {
  name = "Refused";
  constructor(message) {
    super(message, "not_sent");
  }
};

// src/handlers.ts
var Handlers = class {
  #byEvent = /* @__PURE__ */ new Map();
  /** @returns a function that removes the handler */
  add(event, handler) {
    const handlers = this.#byEvent.get(event) ?? /* @__PURE__ */ new Set();
    this.#byEvent.set(event, handlers.add(handler));
    return () => void handlers.delete(handler);
  }
  /** Returns the handlers in the order in which they were added. */
  of(event) {
    return [...this.#byEvent.get(event) ?? []];
  }
};
function report(error) {
  if (typeof reportError === "function") reportError(error);
  else console.error(error);
}

// src/request.ts
var LONGEST = 2 ** 31 - 1;
var Request = class {
  /** @param opens whether the answer is a channel */
  constructor(channel, event, args, { signal, timeout }, opens = false) {
    this.channel = channel;
    this.event = event;
    this.args = args;
    this.opens = opens;
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.signal = signal;
    if (timeout && timeout <= LONGEST) {
      this.#timer = setTimeout(() => {
        const text = `no answer to "${event}" within ${timeout} ms`;
        this.#giveUp((outcome) => new RequestTimeout(text, outcome));
      }, timeout);
    }
    if (signal) {
      this.#abort = () => this.#giveUp((outcome) => new Aborted(outcome, signal.reason), signal.reason);
      signal.addEventListener("abort", this.#abort);
      if (signal.aborted) this.#abort();
    }
  }
  channel;
  event;
  args;
  opens;
  answer;
  /** What is kept of the message since it was sent, or waits in a session. */
  kept;
  holder;
  /** The id with which it was sent. */
  id = 0;
  isDone = false;
  #resolve;
  #reject;
  #timer;
  signal;
  #abort;
  start(requester) {
    requester.request(this);
  }
  resolve(result) {
    this.#stop();
    this.#resolve(result);
  }
  reject(error) {
    this.#stop();
    this.#reject(error);
  }
  #giveUp(make, reason) {
    this.reject(make(this.holder?.withdraw(this, reason) ? "unknown" : "not_sent"));
  }
  #stop() {
    this.isDone = true;
    clearTimeout(this.#timer);
    this.signal?.removeEventListener("abort", this.#abort);
  }
};

// src/channel.ts
var FINISHED = { message: "closed", code: "wsrpc.closed" };
var UNREAD = 1024 * 1024;
var ChannelCore = class {
  id;
  closed;
  #owner;
  #handlers = new Handlers();
  /** What came before anything listened. Undefined once something does. */
  #early = [];
  #earlyBytes = 0;
  #credit;
  #recipient;
  #ended;
  #resolve;
  #signal;
  #abort = () => {
    const reason = this.#signal.reason;
    this.#leave(reason, new Aborted("unknown", reason));
  };
  /** @param signal aborts the channel */
  constructor(id, owner, signal) {
    this.id = id;
    this.#owner = owner;
    this.closed = new Promise((resolve) => this.#resolve = resolve);
    this.#signal = signal;
    signal?.addEventListener("abort", this.#abort);
  }
  get isOpen() {
    return !this.#ended;
  }
  // ------------------------------------------------------------ what users call
  on(event, handler) {
    queueMicrotask(() => this.#deliverEarly());
    return this.#handlers.add(event, handler);
  }
  emit(event, ...args) {
    this.send(event, args);
  }
  request(event, ...args) {
    return this.ask(event, args);
  }
  with(options) {
    return { request: (event, ...args) => this.ask(event, args, options) };
  }
  close() {
    this.abort(FINISHED);
  }
  abort(reason) {
    this.#leave(reason, reason);
  }
  // ------------------------------------------------------------ what readers, producers and handlers call
  /** Sends a request, as `request` does. */
  async ask(event, args, options = {}) {
    this.#check();
    return this.#owner.request(new Request({ h: this.id }, event, args, options));
  }
  /** Sends an event, and returns its size. */
  send(event, args) {
    this.#check();
    return this.#owner.send({ h: this.id, a: [event, ...args] });
  }
  /** Answers a message that came on the channel, if it was a request. */
  answer(message, result = {}) {
    if (message.i !== void 0 && !this.#ended) this.#owner.send({ i: message.i, ...result });
  }
  /** Whether the other side keeps to credit when it produces. */
  get hasCredit() {
    return this.#owner.hasCredit;
  }
  /** Gives the other side credit, in totals. */
  grant(items, bytes) {
    this.#owner.grant(this.id, items, bytes);
  }
  /** Lets a reader or a producer have the messages of the channel. */
  setRecipient(recipient) {
    this.#recipient = recipient;
    if (this.#credit) recipient.credited(...this.#credit);
    this.#deliverEarly();
    if (this.#ended) recipient.channelEnded(this.#ended.error);
  }
  #check() {
    if (!this.#ended) return;
    const error = new ChannelClosed("the channel has ended", "not_sent");
    error.cause = this.#ended.error;
    throw error;
  }
  #deliverEarly() {
    const early = this.#early ?? [];
    this.#early = void 0;
    for (const [message, size] of early) this.receive(message, size);
  }
  /** Ends the channel with a reason for the other side and one for this side. */
  #leave(there, here) {
    if (this.#ended) return;
    this.#owner.tell({ h: this.id }, "x", there);
    this.end(here);
  }
  // ------------------------------------------------------------ what the session reports
  receive(message, size) {
    if (this.#early) {
      this.#early.push([message, size]);
      this.#earlyBytes += size + MESSAGE;
      if (this.#earlyBytes > UNREAD) {
        this.#early = void 0;
        this.abort(new ChannelClosed("nothing reads what comes on the channel", "ran"));
      }
    } else if (!this.#recipient?.receive(String(message.a[0]), message, size)) {
      this.#owner.run(this.#handlers, message);
    }
  }
  credited(items, bytes) {
    if (Number.isNaN(items + bytes)) return;
    this.#credit = [items, bytes];
    this.#recipient?.credited(items, bytes);
  }
  /** Ends the channel on this side. The other side knows already. */
  end(reason) {
    if (this.#ended) return;
    const { code, data, message } = reason ?? {};
    const closed = new ChannelClosed(textOf(message ?? reason ?? "the channel has ended"), "unknown", code, data);
    closed.cause = reason;
    this.#ended = { error: code === FINISHED.code ? void 0 : reason instanceof Error ? reason : closed };
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#owner.forget(this, closed);
    this.#recipient?.channelEnded(this.#ended.error);
    this.#resolve(this.#ended.error);
  }
};

// src/backoff.ts
var INITIAL = 500;
var LONGEST2 = 3e4;
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
    const delay = Math.random() * Math.min(LONGEST2, INITIAL * 2 ** this.#failures++);
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

// src/codec.ts
function refuseBytes(value) {
  if (typeof value !== "object" || value === null) return;
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
    throw new TypeError("bytes can only be sent with the codec of the entry point msgpack");
  }
  if (typeof value.toJSON === "function") return;
  if (Array.isArray(value)) value.forEach(refuseBytes);
  else for (const key in value) refuseBytes(value[key]);
}
var json = {
  encode(message) {
    const text = JSON.stringify(message);
    refuseBytes(message);
    return text;
  },
  decode(data) {
    if (typeof data !== "string" || !data.startsWith("{")) return void 0;
    const message = JSON.parse(data);
    return message["ws-wrapper"] === false ? void 0 : message;
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
function count(control, field) {
  const value = control[field];
  return Number.isSafeInteger(value) && value >= 0 ? value : NaN;
}

// src/producer.ts
var Producer = class {
  #channel;
  #progress;
  #started = false;
  /** Whether the consumer gives credit. Otherwise each item is a request, and the next one waits for its answer. */
  #credit = false;
  #granted = 0;
  #grantedBytes = 0;
  #sent = 0;
  #sentBytes = 0;
  /** Those in the items, without what the messages add. */
  #bytes = 0;
  #stopped = false;
  #end;
  #wake = () => {
  };
  constructor(channel, progress) {
    this.#channel = channel;
    this.#progress = progress;
    channel.setRecipient(this);
  }
  /**
   * Sends all items that the consumer wants, and closes the source.
   *
   * @throws ChannelClosed if the channel ends before, and whatever the source throws
   */
  async run(source) {
    const { [Symbol.asyncIterator]: iterate } = source;
    const items = iterate ? iterate.call(source) : source[Symbol.iterator]();
    try {
      while (await this.#mayGoOn()) {
        const next = await this.#unlessOver(items.next());
        if (!next) continue;
        if (next.done) return;
        const item = { value: next.value, done: false };
        let size = 0;
        if (this.#credit) this.#sentBytes += size = this.#channel.send("next", [item]);
        else await this.#channel.request("next", item);
        this.#bytes += next.value?.byteLength ?? size;
        this.#progress?.({ items: ++this.#sent, bytes: this.#bytes });
      }
    } finally {
      const closed = (async () => items.return?.())().catch(report);
      if (!this.#end && !this.#stopped) await closed;
    }
  }
  /** Waits for an item. Returns undefined if the consumer wants no more before it has come. */
  #unlessOver(item) {
    return new Promise((resolve, reject) => {
      this.#wake = () => {
        if (this.#end || this.#stopped) resolve(void 0);
      };
      Promise.resolve(item).then(resolve, reject);
    });
  }
  /** Waits for room. Returns false if the consumer wants no more. */
  async #mayGoOn() {
    for (; ; ) {
      if (this.#end) throw this.#end.error ?? new ChannelClosed("the channel has ended", "unknown");
      if (this.#stopped) return false;
      const hasRoom = this.#sent < this.#granted && this.#sentBytes < this.#grantedBytes;
      if (this.#started && (hasRoom || !this.#credit)) return true;
      await new Promise((resolve) => this.#wake = resolve);
    }
  }
  // ------------------------------------------------------------ what comes on the channel
  receive(event, message) {
    if (event === "start") this.#started = true;
    else if (event === "stop") this.#stopped = true;
    else return false;
    this.#channel.answer(message);
    this.#wake();
    return true;
  }
  credited(items, bytes) {
    this.#credit ||= !this.#started;
    this.#granted = Math.max(this.#granted, items);
    this.#grantedBytes = Math.max(this.#grantedBytes, bytes);
    this.#wake();
  }
  channelEnded(error) {
    this.#end = { error };
    this.#wake();
  }
};

// src/stream.ts
var WINDOW = 512;
var WINDOW_BYTES = 256 * 1024;
var UNREAD2 = 1024 * 1024;
var Stream = class {
  /** Opens the channel when reading begins. */
  #open;
  #begun;
  #last;
  #channel;
  #queue = [];
  #unread = 0;
  #taken = 0;
  #takenBytes = 0;
  /** The items and bytes at which the producer gets more credit. */
  #renewAt = 0;
  #renewBytesAt = 0;
  #over = false;
  #error;
  #wake = () => {
  };
  /**
   * @param open opens the channel of the stream
   * @param last takes the request with which an upload ends. Leaving the loop then does not end the channel
   */
  constructor(open, last) {
    this.#open = open;
    this.#last = last;
  }
  [Symbol.asyncIterator]() {
    return this;
  }
  async next() {
    await (this.#begun ??= this.#begin());
    while (!this.#queue.length && !this.#over) {
      await new Promise((resolve) => {
        const others = this.#wake;
        this.#wake = () => {
          others();
          resolve();
        };
      });
    }
    const item = this.#queue.shift();
    if (item) {
      this.#taken++;
      this.#takenBytes += item.size;
      this.#unread -= item.size + MESSAGE;
      this.#channel.answer(item.message);
      this.#grant();
      return { done: false, value: item.value };
    }
    const error = this.#error;
    this.#error = void 0;
    if (error) throw error;
    return { done: true, value: void 0 };
  }
  async return() {
    const wasOver = this.#over;
    const unread = this.#queue;
    this.#queue = [];
    this.#error = void 0;
    this.#finish(void 0);
    if (!this.#last) this.#channel?.abort();
    else if (!wasOver) {
      const channel = this.#channel ??= await this.#open();
      channel.setRecipient(this);
      for (const { message } of unread) channel.answer(message);
      if (channel.isOpen) channel.emit("stop");
    }
    this.#open = void 0;
    return { done: true, value: void 0 };
  }
  /** Opens the channel now, for a stream whose items are wanted although nobody reads yet. */
  async #begin() {
    if (!this.#open) return;
    try {
      this.#channel = await this.#open();
    } catch (error) {
      this.#finish(void 0);
      throw error;
    }
    if (this.#over) return this.#last ? void 0 : this.#channel.abort();
    this.#channel.setRecipient(this);
    if (this.#channel.isOpen) {
      if (this.#channel.hasCredit) this.#grant();
      else this.#renewAt = this.#renewBytesAt = Infinity;
      this.#channel.emit("start");
    }
  }
  #grant() {
    if (this.#over || this.#taken < this.#renewAt && this.#takenBytes < this.#renewBytesAt) return;
    this.#channel.grant(this.#taken + WINDOW, this.#takenBytes + WINDOW_BYTES);
    this.#renewAt = this.#taken + WINDOW / 2;
    this.#renewBytesAt = this.#takenBytes + WINDOW_BYTES / 2;
  }
  // ------------------------------------------------------------ what comes on the channel
  receive(event, message, size) {
    if (event === "start" && !this.#last) {
      this.#channel.abort(new WsrpcError("the handler reads items: use upload(), or open() if it sends some, too", "ran"));
      return true;
    }
    if (event !== "next") return false;
    const argument = message.a[1];
    if (Array.isArray(argument)) {
      argument.forEach((value, index) => this.#put({ value, size: index ? 0 : size, message }));
    } else if (argument?.done) {
      this.#finish(void 0);
      if (this.#last) this.#last(message);
      else {
        this.#channel.answer(message);
        this.#channel.end(FINISHED);
      }
    } else this.#put({ value: argument?.value, size, message });
    return true;
  }
  #put(item) {
    if (this.#over) return this.#channel.answer(item.message);
    this.#queue.push(item);
    this.#unread += item.size + MESSAGE;
    this.#rouse();
    if (this.#unread > UNREAD2 + WINDOW_BYTES && this.#queue.length > 1) {
      this.#channel.abort(new ChannelClosed("the stream was read too slowly", "ran"));
    }
  }
  credited() {
  }
  channelEnded(error) {
    if (error instanceof Aborted) this.#queue = [];
    this.#finish(error);
  }
  #finish(error) {
    if (this.#over) return;
    this.#over = true;
    this.#error = error;
    this.#rouse();
  }
  #rouse() {
    const wake = this.#wake;
    this.#wake = () => {
    };
    wake();
  }
};

// src/invocation.ts
var Invocation = class {
  #owner;
  id;
  /** The anonymous channel on which it came. */
  h;
  #controller = new AbortController();
  #channel;
  #items;
  /** The request with which an upload ends, and what the handler has returned: the one is the answer to the other. */
  #last;
  #result;
  constructor(owner, id, h) {
    this.#owner = owner;
    this.id = id;
    this.h = h;
  }
  get signal() {
    return this.#controller.signal;
  }
  channel() {
    if (this.id === void 0) throw new TypeError("an event has no answer, so it opens no channel");
    if (!this.#channel) {
      this.#channel = this.#owner.openChannel(this);
      void this.#channel.closed.then((error) => this.#controller.abort(error));
    }
    return this.#channel;
  }
  items() {
    const channel = this.channel();
    const ended = (message) => {
      this.#last = message;
      this.#finishUpload();
    };
    return this.#items ??= new Stream(async () => channel, ended);
  }
  cancel(reason) {
    this.#controller.abort(reason);
    this.#owner.reject(this, reason);
  }
  async run(handle) {
    try {
      const result = await handle();
      if (this.#items) {
        this.#result = { d: result };
        if (!this.#last) await this.#items.return();
        this.#finishUpload();
      } else if (this.#channel) this.#channel.close();
      else if (isStream(result)) {
        const channel = this.channel();
        await new Producer(channel).run(result);
        channel.emit("next", { done: true });
        channel.end(FINISHED);
      } else this.#owner.reply(this, { d: result });
    } catch (error) {
      if (this.#channel) this.#channel.abort(error);
      else this.#owner.reject(this, error);
    }
  }
  #finishUpload() {
    if (!this.#result || !this.#last) return;
    try {
      this.#channel.answer(this.#last, this.#result);
      this.#channel.end(FINISHED);
    } catch (error) {
      this.#channel.abort(error);
    }
  }
};
function isStream(value) {
  if (typeof value !== "object" || value === null) return false;
  return Symbol.asyncIterator in value || Symbol.iterator in value && "next" in value;
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

// src/peer.ts
var FIRST_ID = 2 ** 30 + 1;
var LAST_ID = 2 ** 31 - 1;
var REMEMBERED = 1024;
var MARGIN = 1e3;
var LONGEST_TIMER2 = 2 ** 31 - 1;
var RUNNING = 1e4;
var PeerCore = class {
  #session;
  features;
  #owner;
  #codec;
  #requests = /* @__PURE__ */ new Map();
  /** Requests that were given up, until their answer comes, and the places that they occupy at the server. */
  #givenUp = /* @__PURE__ */ new Map();
  /** Channels that have ended. What still comes on them was sent before the server knew. */
  #endedChannels = /* @__PURE__ */ new Map();
  /** Calls of the server that are being handled, by their ids. */
  #invocations = /* @__PURE__ */ new Map();
  #channels = /* @__PURE__ */ new Map();
  #nextId = FIRST_ID + 2 * Math.floor(Math.random() * (LAST_ID - FIRST_ID) / 4);
  #features = [];
  /** The largest message that the server accepts, and how many requests it runs at the same time. */
  #largest = Infinity;
  #running = Infinity;
  /** How many requests the server runs. Those on anonymous channels do not count: a reader may answer them. */
  #occupied = 0;
  /** Requests that wait because the server runs so many. */
  #waiting = /* @__PURE__ */ new Set();
  /** Since the server drains: the ids of the requests, calls and channels that were there before. */
  #begun;
  /** When the server closes, because it drains. */
  closesAt;
  #drainTimer;
  /** Whether nothing new is begun. */
  #isSilent = false;
  constructor(target, options, codec, owner) {
    this.#owner = owner;
    this.#codec = codec;
    this.features = ["batches", "credit", "drain", ...codec.feature ? [codec.feature] : []];
    this.#session = new Session(target, [], options, this);
    this.#session.binaryType = "arraybuffer";
  }
  /** When the next attempt to connect begins, if it waits. */
  get retryAt() {
    return this.#session.dialing.retryAt;
  }
  /** Connects now, if the session waits for its next attempt. */
  retry() {
    this.#session.retry();
  }
  /** Closes the connection. Calls fail only with `end`, or when the other side has closed it, too. */
  close(code, reason) {
    this.#session.close(code, reason);
  }
  /** Whether events and requests can be sent. They leave room for what has to be sent: answers and channels. */
  get hasRoom() {
    return this.#session.fullness <= 1 / 2;
  }
  get isBusy() {
    return this.#requests.size + this.#invocations.size + this.#channels.size > 0;
  }
  /** Whether the server keeps to credit when it produces. */
  get hasCredit() {
    return this.#features.includes("credit");
  }
  /** Whether the server drains. */
  get drains() {
    return this.#begun !== void 0;
  }
  /**
   * Whether an event or a request can be sent in this session although the server may drain.
   *
   * @param opens whether it opens a channel. That might not end in time
   */
  takes(opens) {
    if (!this.#isSilent && !(opens && this.drains)) return true;
    if (this.closesAt - Date.now() < MARGIN) return false;
    return [...this.#invocations.keys(), ...this.#channels.keys()].some((id) => id % 2 === 0);
  }
  // ------------------------------------------------------------ sending
  /**
   * Sends a message, and returns its size.
   *
   * @throws Refused if it is larger than the server accepts
   * @throws TypeError if it cannot be encoded
   */
  send(message) {
    const data = this.#encoded(message);
    const size = this.#sized(data);
    this.#session.send(data, size);
    return size;
  }
  /** Checks that a message can be sent later. Throws what `send` throws. */
  check(message) {
    this.#sized(this.#encoded(message));
  }
  #encoded(message) {
    return this.#codec.encode(message, this.#features.includes(this.#codec.feature));
  }
  #sized(data) {
    const size = sizeOf(data);
    if (size > this.#largest) throw new Refused(`a message of ${size} bytes, and the server takes ${this.#largest}`);
    return size;
  }
  /** Says why something has ended. If the reason cannot be sent, the other side gets the text that says so. */
  tell(message, key, reason) {
    try {
      this.send({ ...message, ...reasonOnWire(key, reason) });
    } catch (error) {
      this.#session.send(JSON.stringify({ ...message, [key]: { message: error.message }, _: 1 }));
    }
  }
  /** Sends a request, now or when the server has room for it. */
  request(request) {
    if (request.isDone) return request.answer;
    request.holder = this;
    if (request.channel.h === void 0 && this.#occupied >= this.#running) {
      this.#waiting.add(request);
    } else this.#send(request);
    return request.answer;
  }
  #send(request) {
    const i = request.id = this.#newId();
    const { channel, event, args } = request;
    try {
      const data = this.#encoded({ i, a: [event, ...args], ...channel });
      request.kept = this.#session.send(data, this.#sized(data));
    } catch (error) {
      request.reject(error);
      return;
    }
    this.#requests.set(i, request);
    this.#occupied += placesOf(request);
  }
  withdraw(request, reason) {
    if (this.#waiting.delete(request)) return false;
    const { id: i, kept } = request;
    const isBack = kept && this.#session.takeBack(kept);
    if (!isBack) this.tell({ i }, "x", reason);
    this.#giveUp(i, !isBack);
    return !isBack;
  }
  #newId() {
    do
      this.#nextId = this.#nextId + 2 > LAST_ID ? FIRST_ID : this.#nextId + 2;
    while (this.#isUsed(this.#nextId) || this.#givenUp.has(this.#nextId));
    return this.#nextId;
  }
  #isUsed(id) {
    return [this.#requests, this.#invocations, this.#channels].some((ids) => ids.has(id));
  }
  /** Forgets a request whose answer nobody awaits. If one can come, its place stays occupied until then. */
  #giveUp(i, canAnswer) {
    const places = placesOf(this.#requests.get(i));
    this.#requests.delete(i);
    this.#finished();
    this.#free(canAnswer ? remember(this.#givenUp, i, places) ?? 0 : places);
  }
  /** Sends requests that have waited for the places of others. */
  #free(places) {
    this.#occupied -= places;
    for (const next of this.#waiting) {
      if (this.#occupied >= this.#running) break;
      this.#waiting.delete(next);
      this.#send(next);
    }
  }
  // ------------------------------------------------------------ receiving
  receive(data, size) {
    let message;
    try {
      message = (typeof data === "string" ? json : this.#codec).decode(data);
    } catch {
    }
    if (!message) return this.#owner.ignore("foreign");
    for (const key of ["a", "c", "h", "i"]) if (message[key] === null) delete message[key];
    const { h = 0, i = 0 } = message;
    if (typeof h !== "number" || typeof i !== "number") this.#owner.ignore("foreign");
    else if (Array.isArray(message.a) && typeof message.a[0] === "string") this.#receiveCall(message, size);
    else if (message.a) this.#owner.ignore("foreign");
    else if ("x" in message) this.#stop(message);
    else if (message.i !== void 0) this.#receiveResponse(message.i, message);
    else this.#owner.ignore("foreign");
  }
  #receiveCall(message, size) {
    const { h, i } = message;
    if (h === void 0) return this.run(this.#owner.handlers(message.c), message);
    const channel = this.#channels.get(h);
    if (channel) return channel.receive(message, size);
    const gone = { message: `Anonymous channel '${textOf(h)}' does not exist` };
    if (i !== void 0) this.tell({ i }, "e", gone);
    if (!this.#endedChannels.has(h)) this.tell({ h }, "x", gone);
  }
  /** A cancellation or an abort. One that crosses with the answer, or the end, finds nothing. */
  #stop({ i, h, x, _ }) {
    const reason = new RemoteError(x, _, true);
    if (h !== void 0) this.#channels.get(h)?.end(reason);
    else if (this.#invocations.has(i)) this.#invocations.get(i).cancel(reason);
    else if (this.hasCredit) this.#channels.get(i)?.end(reason);
  }
  #receiveResponse(i, message) {
    const request = this.#requests.get(i);
    const places = request ? placesOf(request) : this.#givenUp.get(i);
    if (places === void 0) return this.#owner.ignore("response to no request");
    this.#requests.delete(i);
    this.#givenUp.delete(i);
    if ("e" in message) request?.reject(new RemoteError(message.e, message._));
    else if (message.h) this.#opened(i, request);
    else if (request?.opens) request.reject(new WsrpcError(`"${request.event}" answers with a value: use request()`, "ran"));
    else request?.resolve(message.d);
    this.#finished();
    this.#free(places);
  }
  /** A channel is the answer to a request. */
  #opened(i, request) {
    const channel = new ChannelCore(i, this, request?.signal);
    this.#channels.set(i, channel);
    if (request?.opens) return request.resolve(channel);
    channel.abort();
    if (!this.hasCredit) request?.resolve(null);
    else {
      const text = `"${request?.event}" answers with a stream or a channel: use stream(), upload() or open()`;
      request?.reject(new WsrpcError(text, "ran"));
    }
  }
  // ------------------------------------------------------------ calls of the server
  /** Runs the handlers of an event, or the handler of a request. */
  run(handlers, { a, c, h, i }) {
    const [event, ...args] = a;
    const found = handlers?.of(event) ?? [];
    const [handler] = found;
    if (i === void 0) {
      if (!found.length) this.#owner.ignore("unknown event");
      for (const each of found) (async () => each.apply(new Invocation(this, void 0), args))().catch(report);
    } else if (this.#isUsed(i)) this.#owner.ignore("duplicate id");
    else if (!handler) {
      const exists = handlers || c === void 0;
      const text = exists ? `No event listener for '${event}'` : `Channel '${textOf(c)}' does not exist`;
      this.tell({ i }, "e", { message: text, code: "wsrpc.unknown_event" });
    } else if (this.#invocations.size >= RUNNING) {
      this.tell({ i }, "e", { message: `the page handles ${RUNNING} requests already`, code: "wsrpc.overloaded" });
    } else {
      const invocation = new Invocation(this, i, h);
      this.#invocations.set(i, invocation);
      void invocation.run(() => handler.apply(invocation, args));
    }
  }
  #awaits(invocation) {
    return this.#invocations.get(invocation.id) === invocation;
  }
  reply(invocation, answer) {
    if (!this.#awaits(invocation)) return;
    this.send({ i: invocation.id, ...answer });
    this.#invocations.delete(invocation.id);
    if (!answer.h) this.#finished();
  }
  reject(invocation, reason) {
    if (!this.#awaits(invocation)) return;
    this.#invocations.delete(invocation.id);
    this.tell({ i: invocation.id }, "e", reason);
    this.#finished();
  }
  openChannel(invocation) {
    const channel = new ChannelCore(invocation.id, this);
    if (this.#awaits(invocation)) {
      this.reply(invocation, { h: 1 });
      this.#channels.set(invocation.id, channel);
    } else channel.end(invocation.signal.reason);
    return channel;
  }
  // ------------------------------------------------------------ channels
  /** Gives credit for a channel, in totals. */
  grant(h, n, bytes) {
    this.#session.send(writeControl({ t: "credit", h, n, bytes }));
  }
  /** Forgets a channel that has ended, and the requests on it: those of this side fail, and the others are cancelled. */
  forget(channel, error) {
    if (this.#channels.get(channel.id) !== channel) return;
    this.#channels.delete(channel.id);
    remember(this.#endedChannels, channel.id, true);
    for (const [i, request] of this.#requests) {
      if (request.channel.h !== channel.id) continue;
      this.#giveUp(i, true);
      request.reject(error);
    }
    for (const invocation of [...this.#invocations.values()]) {
      if (invocation.h === channel.id) invocation.cancel(error);
    }
    this.#finished();
  }
  // ------------------------------------------------------------ the session
  opened() {
    this.#owner.opened();
  }
  detached(code, reason) {
    this.#owner.sessionDetached(lost(code, reason, "not_sent"));
  }
  resumed() {
    this.#owner.resumed();
  }
  over({ code, reason }) {
    this.end(code, reason);
  }
  control(control) {
    const limits = Object(control.limits);
    this.#largest = count(limits, "message") || this.#largest;
    this.#running = count(limits, "running") || this.#running;
    this.#free(0);
    if (control.t === "welcome") {
      if (Array.isArray(control.features)) this.#features = control.features;
    } else if (control.t === "credit") {
      this.#channels.get(count(control, "h"))?.credited(count(control, "n"), count(control, "bytes"));
    } else if (control.t === "drain") {
      this.#drains(count(control, "after_ms"));
    }
  }
  /** The server closes in so many milliseconds, or in NaN. Until then, what had begun may need further calls. */
  #drains(ms) {
    if (this.#isSilent) return;
    clearTimeout(this.#drainTimer);
    this.closesAt = Date.now() + ms || void 0;
    this.#begun ??= /* @__PURE__ */ new Set([...this.#requests.keys(), ...this.#invocations.keys(), ...this.#channels.keys()]);
    this.#owner.draining();
    if (ms >= MARGIN) {
      this.#drainTimer = setTimeout(() => this.#beSilent(), Math.min(ms - MARGIN, LONGEST_TIMER2));
      this.#finished();
    } else this.#beSilent();
  }
  /** Begins nothing new when what had begun before the server drained has ended. */
  #finished() {
    if (!this.#begun) return;
    for (const id of this.#begun) {
      if (this.#isUsed(id)) return;
      this.#begun.delete(id);
    }
    this.#beSilent();
  }
  #beSilent() {
    if (this.#isSilent) return;
    this.#isSilent = true;
    clearTimeout(this.#drainTimer);
    this.#owner.requeue(this.#waiting);
    this.#waiting.clear();
    this.#session.send(writeControl({ t: "drain", after_ms: 0 }));
  }
  /** The session is over: everything in it fails. */
  end(code, reason) {
    this.#isSilent = true;
    clearTimeout(this.#drainTimer);
    const ended = (outcome) => lost(code, reason, outcome);
    const requests = [...this.#requests.values(), ...this.#waiting];
    this.#waiting.clear();
    this.#requests.clear();
    this.#givenUp.clear();
    for (const request of requests) {
      const wasSent = request.id && request.kept?.sent !== false;
      request.reject(ended(wasSent ? "unknown" : "not_sent"));
    }
    for (const invocation of [...this.#invocations.values()]) invocation.cancel(ended("unknown"));
    for (const channel of [...this.#channels.values()]) channel.end(ended("unknown"));
    this.#owner.sessionOver(ended("not_sent"));
  }
};
function lost(code, reason, outcome) {
  return new ConnectionLost(`the connection has ended: ${code} ${reason}`.trim(), outcome, code);
}
var placesOf = (request) => request.channel.h === void 0 ? 1 : 0;
function remember(ids, id, value) {
  ids.set(id, value);
  const [[oldest, forgotten]] = ids;
  if (ids.size <= REMEMBERED) return void 0;
  ids.delete(oldest);
  return forgotten;
}
function reasonOnWire(key, reason) {
  reason ??= { message: key === "x" ? "Request aborted" : "Error" };
  if (!(reason instanceof Error) && !reason.message) return { [key]: reason };
  const { message, code, data } = reason;
  return { [key]: { message, code: reason instanceof DOMException ? void 0 : code, data }, _: 1 };
}

// src/core.ts
var ROOM = 20;
var TOKEN = /^[\w!#$%&'*+.^`|~-]*$/;
function checked(address) {
  const { url = address, token = "" } = Object(address);
  if (typeof (url?.href ?? url) !== "string") {
    throw new TypeError("a client takes one URL, { url, token } or a function that returns one");
  }
  if (TOKEN.test(token)) return address;
  throw new TypeError("the token can only have letters, digits and !#$%&'*+-.^_`|~");
}
var ClientCore = class {
  options;
  #target;
  #handlers = /* @__PURE__ */ new Map();
  #subscribers = /* @__PURE__ */ new Set();
  #listening = new AbortController();
  #backoff = new Backoff();
  #queue = /* @__PURE__ */ new Set();
  ignored = {};
  state = "connecting";
  /** Why there is no connection. */
  error;
  #peer;
  /** When the session has begun. 0 if there is none. */
  #openedAt = 0;
  #roomTimer;
  #dialTimer;
  #retryAt;
  constructor(target, options) {
    if (!(options.WebSocket ?? globalThis.WebSocket)) {
      throw new TypeError("there is no WebSocket: pass the class of the package ws, new Client(url, { WebSocket })");
    }
    this.#target = typeof target === "function" ? async () => checked(await target()) : checked(target);
    this.options = options;
    this.#dial();
    onWake(() => this.connect(), this.#listening.signal);
  }
  connect() {
    if (this.#peer) this.#peer.retry();
    else if (this.state === "connecting") this.#dial();
  }
  get retryAt() {
    return this.#peer ? this.#peer.retryAt : this.#retryAt;
  }
  get closesAt() {
    return this.#peer?.closesAt;
  }
  #dial() {
    clearTimeout(this.#dialTimer);
    this.#retryAt = void 0;
    this.#peer = new PeerCore(this.#target, this.options, this.options.codec ?? json, this);
  }
  subscribe(subscriber) {
    this.#subscribers.add(subscriber);
    return () => void this.#subscribers.delete(subscriber);
  }
  /** Tells the subscribers of a state, which may be the one before: an attempt has failed. */
  #move(state, resumed = false) {
    this.state = state;
    for (const subscriber of [...this.#subscribers]) {
      if (this.state !== state) break;
      guarded(() => subscriber(state, resumed));
    }
  }
  // ------------------------------------------------------------ sending
  request(request) {
    request.holder = this;
    try {
      if (!request.isDone) this.#start(request, { a: [request.event, ...request.args], ...request.channel });
    } catch (error) {
      request.reject(error);
    }
    return request.answer;
  }
  withdraw(request) {
    return !this.#queue.delete(request);
  }
  emit(channel, event, args) {
    const message = { a: [event, ...args], ...channel };
    this.#start({ start: (peer) => void peer.send(message), reject() {
    } }, message);
  }
  #start(queued, message) {
    if (this.#canStart(queued)) queued.start(this.#peer);
    else if (this.state === "closed") throw this.error;
    else if (this.#queue.size >= (this.options.offline ?? 256) && !(this.#isConnected && queued instanceof Request)) {
      throw new Refused(`${this.#queue.size} messages wait to be sent already`);
    } else {
      if (this.#peer) this.#peer.check(message);
      else (this.options.codec ?? json).encode(message, false);
      this.#queue.add(queued);
      this.#watchRoom();
    }
  }
  /** If the session is lost, what is sent while it is detached goes to the next one. */
  get #isConnected() {
    return this.state === "open" || this.state === "draining";
  }
  #canStart(queued) {
    return this.#isConnected && this.#peer.hasRoom && this.#peer.takes(queued instanceof Request && queued.opens);
  }
  // ------------------------------------------------------------ the course of a session
  handlers(channel) {
    return this.#handlers.get(channel);
  }
  handle(channel, event, handler) {
    const handlers = this.#handlers.get(channel) ?? new Handlers();
    this.#handlers.set(channel, handlers);
    return handlers.add(event, handler);
  }
  /** Aborted when the client is closed. */
  get ended() {
    return this.#listening.signal;
  }
  opened() {
    this.#openedAt = now();
    this.error = void 0;
    this.#move("open");
    this.#startQueue();
  }
  sessionDetached(error) {
    this.error = error;
    this.#move("detached");
  }
  resumed() {
    this.state = this.#peer.drains ? "draining" : "open";
    this.#startQueue();
    this.error = void 0;
    this.#move(this.state, true);
  }
  draining() {
    this.#move("draining");
  }
  requeue(requests) {
    for (const request of requests) {
      request.holder = this;
      this.#queue.add(request);
    }
  }
  #startQueue() {
    for (const queued of [...this.#queue]) {
      if (!this.#canStart(queued)) continue;
      this.#queue.delete(queued);
      guarded(() => queued.start(this.#peer));
    }
    this.#watchRoom();
  }
  /** A WebSocket does not tell when it has written what it was given, so this asks, as long as something waits. */
  #watchRoom() {
    if (!this.#queue.size || !this.#isConnected || this.#peer.hasRoom) return;
    this.#roomTimer ??= setTimeout(() => {
      this.#roomTimer = void 0;
      this.#startQueue();
    }, ROOM);
  }
  sessionOver(error) {
    const code = error.code;
    const lasted = this.#openedAt && now() - this.#openedAt;
    this.#openedAt = 0;
    this.#peer = void 0;
    if (this.state === "closed") return;
    if (mayDialAgain(code)) {
      this.error = error;
      const delay = this.#backoff.delay(code, lasted);
      this.#retryAt = Date.now() + delay;
      this.#dialTimer = setTimeout(() => this.#dial(), delay);
      this.#move("connecting");
    } else this.#end(error);
  }
  close(code, reason) {
    if (this.state === "closed") return;
    const peer = this.#peer;
    peer?.close(code, reason);
    this.#end(new ConnectionLost("the client is closed", "not_sent", code));
    peer?.end(code, reason);
  }
  #end(error) {
    this.error = error;
    this.#retryAt = void 0;
    this.#listening.abort();
    clearTimeout(this.#dialTimer);
    this.#move("closed");
    for (const queued of this.#queue) guarded(() => queued.reject(error));
    this.#queue.clear();
  }
  ignore(kind) {
    this.ignored[kind] = (this.ignored[kind] ?? 0) + 1;
  }
};
function guarded(run) {
  try {
    run();
  } catch (error) {
    report(error);
  }
}

// src/client.ts
var MOST_ATTEMPTS = 8;
function pause(ms, signals) {
  return new Promise((resolve) => {
    const go = () => {
      clearTimeout(timer);
      for (const signal of signals) signal?.removeEventListener("abort", go);
      resolve();
    };
    const timer = setTimeout(go, ms);
    for (const signal of signals) signal?.addEventListener("abort", go);
    if (signals.some((signal) => signal?.aborted)) go();
  });
}
var Caller = class _Caller {
  core;
  #channel;
  #options;
  constructor(core, channel, options) {
    this.core = core;
    this.#channel = channel;
    this.#options = { timeout: core.options.requestTimeout ?? 6e4, ...options };
  }
  /** Returns the same caller with other options. */
  with(options) {
    const signal = options.signal ?? this.#options.signal;
    return new _Caller(this.core, this.#channel, { ...this.#options, ...options, signal });
  }
  /** Returns the caller of a named channel. */
  of(channel) {
    return new _Caller(this.core, { c: channel }, this.#options);
  }
  /**
   * Handles events and requests of the server. The result, or what an iterable yields, is sent to it.
   *
   * @returns a function that removes the handler
   */
  on(event, handler) {
    return this.core.handle(this.#channel.c, event, handler);
  }
  /**
   * Sends an event. Without a connection it waits.
   *
   * @throws ConnectionLost if the client is closed
   * @throws Refused if too much waits for a connection, or the event is larger than the server accepts
   * @throws TypeError if an argument cannot be encoded
   */
  emit(event, ...args) {
    this.core.emit(this.#channel, event, args);
  }
  request(event, ...args) {
    return this.#options.retry ? this.#repeat(event, args) : this.#request(event, args, false);
  }
  async #repeat(event, args) {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#request(event, args, false);
      } catch (error) {
        if (attempt === MOST_ATTEMPTS || !this.#isRepeated(error)) throw error;
        await pause(Math.random() * 250 * 2 ** attempt, [this.#options.signal, this.core.ended]);
      }
    }
  }
  #request(event, args, opens) {
    return this.core.request(new Request(this.#channel, event, args, this.#options, opens));
  }
  #isRepeated(error) {
    if (this.core.state === "closed" || !(error instanceof WsrpcError)) return false;
    if (error instanceof ConnectionLost) return error.outcome === "not_sent" || this.#options.retry === "idempotent";
    return error.code === "wsrpc.overloaded" || error.code === "wsrpc.draining";
  }
  /** Opens a channel for a conversation with the handler. The signal aborts the channel, too. */
  open(event, ...args) {
    return this.#request(event, args, true);
  }
  /** Returns the items that the handler yields. The request is sent when reading begins. */
  stream(event, ...args) {
    return new Stream(() => this.#request(event, args, true));
  }
  /**
   * Sends the items of an iterable to the handler, as fast as it reads them, and returns its result. The timeout is for
   * the begin, until the handler can read, and for the end, from the last item to the result.
   */
  async upload(event, ...[source, ...args]) {
    const { progress, timeout } = this.#options;
    const channel = await this.#request(event, args, true);
    try {
      await new Producer(channel, progress).run(source);
      const answer = channel.ask("next", [{ done: true }], { timeout });
      const end = (error) => void (error instanceof RemoteError && channel.hasCredit && channel.end(error));
      await answer.then(() => channel.end(FINISHED), end);
      return await answer;
    } catch (error) {
      if (!channel.isOpen) throw await channel.closed ?? error;
      channel.abort(error);
      throw error;
    }
  }
};
var Client = class extends Caller {
  /** The state now, and its changes: `useSyncExternalStore(client.status.subscribe, client.status.get)`. */
  status;
  /**
   * @throws TypeError if there is no WebSocket class, or the address or the token is not valid. Those of a function are
   *   checked at each attempt
   * @throws SyntaxError if the address is not one of `http`, `https`, `ws` or `wss`
   */
  constructor(target, options = {}) {
    super(new ClientCore(target, options), {}, {});
    this.status = {
      get: () => this.core.state,
      subscribe: (subscriber) => this.core.subscribe(subscriber)
    };
  }
  /**
   * Why there is no connection: how the last attempt to connect has failed, or the last connection has ended. Its
   * `code` is the close code. Undefined while the client is `open`.
   */
  get error() {
    return this.core.error;
  }
  /** When the next attempt to connect begins, as `Date.now()` will be then. Undefined if none waits. */
  get retryAt() {
    return this.core.retryAt;
  }
  /**
   * When the server closes the connection, because it drains, as `Date.now()` will be then. Undefined if it does not
   * drain, or does not say when.
   */
  get closesAt() {
    return this.core.closesAt;
  }
  /** Connects now, if the next attempt waits. Otherwise it has no effect. */
  connect() {
    this.core.connect();
  }
  /** Counts the messages that were ignored, by kind. */
  get ignored() {
    return this.core.ignored;
  }
  /** Ends the session, and connects no more. The server is told. */
  close(code = 1e3, reason = "") {
    this.core.close(code, reason);
  }
};
export {
  Aborted,
  Caller,
  ChannelClosed,
  Client,
  ConnectionLost,
  Refused,
  RemoteError,
  RequestTimeout,
  WsrpcError
};
