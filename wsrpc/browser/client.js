// src/data.ts
var OVERHEAD = 64;
var encoder = new TextEncoder();
var SHORT = 4096;
var counted = new Uint8Array(3 * SHORT);
function sizeOf(data) {
  if (typeof data === "string") {
    return data.length > SHORT ? encoder.encode(data).length : encoder.encodeInto(data, counted).written;
  }
  return data.byteLength;
}

// src/errors.ts
var NOT_RUN = /* @__PURE__ */ new Set([
  "wsrpc.bad_arguments",
  "wsrpc.unknown_event",
  "wsrpc.overloaded",
  "wsrpc.draining",
  "wsrpc.key_reused",
  "wsrpc.not_read"
]);
var WsrpcError = class extends Error {
  name = "WsrpcError";
  constructor(message, outcome, code, data) {
    super(message);
    this.outcome = outcome;
    this.code = code;
    this.data = data;
  }
};
var textOf = (value) => typeof value === "object" && value ? Object.prototype.toString.call(value) : String(value);
var RemoteError = class extends WsrpcError {
  name = "RemoteError";
  /**
   * @param isError whether the value is an error object. If not, it can be of any type
   * @param hasStarted whether the handler has certainly started, because it has opened a channel
   */
  constructor(value, isError, hasStarted = false) {
    const isObject = isError && typeof value === "object" && value !== null;
    const { message, code, data, error_id, retry_after } = isObject ? value : { message: value };
    const known = typeof code === "string" || typeof code === "number" ? code : void 0;
    const isUnknown = code === "wsrpc.run_lost" || code === "wsrpc.items_gone";
    const outcome = !hasStarted && NOT_RUN.has(code) ? "not_run" : isUnknown ? "unknown" : "ran";
    super(isObject ? textOf(message ?? "") : textOf(value), outcome, known, data);
    this.value = value;
    this.errorId = typeof error_id === "string" ? error_id : void 0;
    this.retryAfter = typeof retry_after === "number" ? retry_after : void 0;
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
    return () => handlers.delete(handler);
  }
  /** Returns the handlers in the order in which they were added. */
  of(event) {
    return [...this.#byEvent.get(event) ?? []];
  }
};
function report(error) {
  ;
  (globalThis.reportError ?? console.error)(error);
}
function guarded(run) {
  try {
    run();
  } catch (error) {
    report(error);
  }
}

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
function readControl(text) {
  if (text.length >= LARGEST || !text.includes('"wsrpc"')) return void 0;
  try {
    const { "ws-wrapper": ours, wsrpc, ...others } = JSON.parse(text);
    if (ours === false && typeof wsrpc?.t === "string" && !Object.keys(others).length) return wsrpc;
  } catch {
  }
  return void 0;
}
function count(control, field) {
  const value = control[field];
  return Number.isSafeInteger(value) && value >= 0 ? value : NaN;
}

// src/call_context.ts
function contextOf({ metadata = {}, key, message, after, kind }, ms = Infinity, isTime = true) {
  const texts = Object.entries(metadata);
  const isValid = isTime && texts.every(([name, text]) => /^[!-~]{1,64}$/.test(name) && typeof text === "string");
  if (!isValid || textOf(metadata) !== textOf({}) || texts.length > 32 || sizeOf(texts.flat().join("")) > 4096) {
    throw new TypeError("wrong context: 32 texts, 4096 bytes, ASCII names");
  }
  if (after != null && key == null) throw new TypeError("`after` needs a key");
  const isLimited = ms <= LONGEST_TIMER;
  const upload = kind === "upload" || void 0;
  if (!texts.length && !isLimited && key == null && !upload) return void 0;
  const end = now() + ms;
  return {
    metadata: texts.length ? metadata : void 0,
    key: key ?? void 0,
    message,
    after: after ?? void 0,
    upload,
    get remaining_ms() {
      return isLimited ? Math.max(0, Math.ceil(end - now())) : void 0;
    }
  };
}
function readContext(ctx) {
  if (ctx.key !== void 0) throw new TypeError("a page cannot handle a key");
  const ms = count(ctx, "remaining_ms");
  const context = contextOf(ctx, ms, ms <= LONGEST_TIMER || ctx.remaining_ms === void 0);
  const [room, position] = ctx.at ?? [];
  return typeof room === "string" && typeof position === "string" ? { ...context, at: [room, position] } : context;
}

// src/request.ts
var Request = class {
  /** The id in the present session. 0 while the request waits. */
  id = 0;
  isDone = false;
  #resolve;
  #reject;
  #timer;
  #abort;
  /**
   * @param opens whether the answer is a channel
   * @throws TypeError if the metadata is not valid, or too large, or there is a position without a key
   */
  constructor(channel, event, args, options, opens = false) {
    const { signal, timeout, requestTimeout } = options;
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.message = { a: [event, ...args], ctx: contextOf(options, timeout || void 0), ...channel };
    this.signal = signal;
    this.opens = opens;
    const limit = timeout ?? requestTimeout;
    if (limit && limit <= LONGEST_TIMER) {
      const text = `no answer to "${event}" within ${limit} ms`;
      this.expire = () => this.#giveUp((outcome) => new RequestTimeout(text, outcome));
      this.#timer = setTimeout(this.expire, limit);
    }
    if (signal) {
      this.#abort = () => this.#giveUp((outcome) => new Aborted(outcome, signal.reason), signal.reason);
      signal.addEventListener("abort", this.#abort);
      if (signal.aborted) this.#abort();
    }
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

// src/channel_core.ts
var FINISHED = { message: "closed", code: "wsrpc.closed" };
var MAX_EARLY = 1024 * 1024;
var ChannelCore = class {
  #owner;
  #handlers = new Handlers();
  /** The messages that arrived before anything listened, with their sizes. Undefined once something listens. */
  #early = [];
  #earlyBytes = 0;
  #credit;
  #recipient;
  #ended;
  #resolve;
  #signal;
  #onAbort = () => {
    const reason = this.#signal.reason;
    this.abort(reason, new Aborted("unknown", reason));
  };
  /** @param signal aborts the channel */
  constructor(id, owner, signal) {
    this.id = id;
    this.#owner = owner;
    this.closed = new Promise((resolve) => this.#resolve = resolve);
    this.#signal = signal;
    signal?.addEventListener("abort", this.#onAbort);
  }
  get isOpen() {
    return !this.#ended;
  }
  // ------------------------------------------------------------ for users
  on(event, handler) {
    queueMicrotask(() => this.#deliverEarly());
    return this.#handlers.add(event, handler);
  }
  /** Sends an event, and returns its message. */
  emit(event, ...args) {
    this.#check();
    return this.#owner.send({ h: this.id, a: [event, ...args] });
  }
  request(event, ...args) {
    return this.with({}).request(event, ...args);
  }
  with(options) {
    return {
      request: async (event, ...args) => {
        this.#check();
        return this.#owner.request(new Request({ h: this.id }, event, args, options));
      }
    };
  }
  close() {
    this.abort(FINISHED);
  }
  /** @param error the reason on this side. Default: the reason for the server */
  abort(reason, error = reason) {
    if (this.#ended) return;
    this.#owner.sendReason({ h: this.id }, "x", reason);
    this.end(error);
  }
  // ------------------------------------------------------------ for readers, producers and handlers
  /** Answers a message that arrived on the channel, if the message is a request. */
  answer(message, result = {}) {
    if (message.i !== void 0 && !this.#ended) this.#owner.send({ i: message.i, ...result });
  }
  /** Whether the server sends items only within its credit. */
  get hasCredit() {
    return this.#owner.hasCredit;
  }
  /** Grants the server credit, in totals. */
  grant(items, bytes) {
    this.#owner.grant(this.id, items, bytes);
  }
  /** Sets the reader or the producer that gets the messages of the channel. */
  setRecipient(recipient) {
    this.#recipient = recipient;
    if (this.#credit) recipient.credited?.(...this.#credit);
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
  // ------------------------------------------------------------ for the peer
  receive(message, size) {
    if (this.#early) {
      this.#early.push([message, size]);
      this.#earlyBytes += size + OVERHEAD;
      if (this.#earlyBytes > MAX_EARLY) {
        this.#early = void 0;
        this.abort(new ChannelClosed("nothing reads the channel", "ran"));
      }
    } else if (!this.#recipient?.receive(String(message.a[0]), message, size)) {
      this.#owner.run(this.#handlers, message);
    }
  }
  credited(items, bytes) {
    if (Number.isNaN(items + bytes)) return;
    this.#credit = [items, bytes];
    this.#recipient?.credited?.(items, bytes);
  }
  /** Ends the channel on this side only: the server knows already that the channel has ended. */
  end(reason) {
    if (this.#ended) return;
    const { code, data, message } = reason ?? {};
    const closed = new ChannelClosed(textOf(message ?? reason ?? "the channel has ended"), "unknown", code, data);
    closed.cause = reason;
    this.#ended = { error: code === FINISHED.code ? void 0 : reason instanceof Error ? reason : closed };
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#owner.channelEnded(this, closed);
    this.#recipient?.channelEnded(this.#ended.error);
    this.#resolve(this.#ended.error);
  }
};

// src/backoff.ts
var INITIAL = 500;
var LONGEST = 3e4;
var STABLE = 1e4;
var SERVED = 1e3;
var RESTART = 1012;
var FINAL = /* @__PURE__ */ new Set([1008, 3e3, 3003, 4410]);
var mayDialAgain = (code) => !FINAL.has(code);
var Backoff = class {
  #dial;
  #failures = 0;
  #timer;
  constructor(dial) {
    this.#dial = dial;
  }
  /**
   * Waits for the next attempt.
   *
   * @param code the close code of the last connection
   * @param lasted the milliseconds for which the connection was open; 0 for a failed attempt
   * @param kept the milliseconds for which the server keeps the session, which is asked for several times meanwhile
   */
  start(code, lasted, kept = Infinity) {
    if (lasted >= (kept < Infinity || code === RESTART ? SERVED : STABLE)) this.#failures = 0;
    const least = code === 1013 ? 1e4 : 0;
    const delay = least + Math.random() * Math.min(LONGEST, kept / 8, INITIAL * 2 ** this.#failures++);
    this.retryAt = Date.now() + delay;
    this.#timer = setTimeout(this.#dial, delay);
  }
  /** Gives up the wait. */
  stop() {
    clearTimeout(this.#timer);
    this.retryAt = void 0;
  }
};

// src/codec.ts
function refuseBytes(value) {
  if (typeof value !== "object" || value === null) return;
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
    throw new TypeError("bytes need the codec of the entry point msgpack");
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

// src/page_events.ts
function listen(target, type, listener, signal) {
  target?.addEventListener?.(type, listener, { signal });
}
var program = globalThis;
function listenToPage(owner, signal) {
  const page = globalThis.document;
  listen(program, "online", () => owner.wake(true), signal);
  listen(program, "pageshow", () => owner.wake(false), signal);
  listen(page, "resume", () => owner.wake(true), signal);
  listen(page, "visibilitychange", () => page.visibilityState !== "hidden" && owner.wake(false), signal);
  listen(program, "pagehide", ({ persisted }) => owner.park(persisted), signal);
  listen(page, "freeze", () => owner.park(true), signal);
}

// src/draining.ts
var MARGIN = 1e3;
var Draining = class {
  #inProgress;
  #onSilent;
  /** Ids of the requests, calls and channels that started before, and may still be in progress. */
  #ids;
  #isSilent = false;
  #timer;
  /** @param onSilent is called when this side becomes silent */
  constructor(inProgress, onSilent) {
    this.#inProgress = inProgress;
    this.#onSilent = onSilent;
    this.#ids = new Set(inProgress.flatMap((table) => [...table.keys()]));
  }
  /** The server has announced that it closes in so many milliseconds, or in NaN if it does not announce the time. */
  received(ms) {
    if (this.#isSilent) return;
    clearTimeout(this.#timer);
    this.closesAt = Date.now() + ms || void 0;
    if (ms >= MARGIN) {
      this.#timer = setTimeout(() => this.#becomeSilent(), Math.min(ms - MARGIN, LONGEST_TIMER));
      this.update();
    } else this.#becomeSilent();
  }
  /**
   * Whether an event or a request can be sent in this session.
   *
   * @param opens whether the request opens a channel, which might not end in time
   */
  accepts(opens = false) {
    if (!this.#isSilent && !opens) return true;
    if (this.closesAt - Date.now() < MARGIN) return false;
    return this.#inProgress.some((table) => [...table.keys()].some((id) => id % 2 === 0));
  }
  /** Becomes silent if everything that started before has ended. */
  update() {
    for (const id of this.#ids) {
      if (this.#inProgress.some((table) => table.has(id))) return;
      this.#ids.delete(id);
    }
    this.#becomeSilent();
  }
  #becomeSilent() {
    if (this.#isSilent) return;
    this.stop();
    this.#onSilent();
  }
  /** The session has ended. */
  stop() {
    this.#isSilent = true;
    clearTimeout(this.#timer);
  }
};

// src/producer.ts
var PIECE = 64 * 1024;
async function* piecesOf(blob) {
  for (let at = 0; at < blob.size; at += PIECE) yield new Uint8Array(await blob.slice(at, at + PIECE).arrayBuffer());
}
var Producer = class {
  #channel;
  #progress;
  #started = false;
  /** Whether the consumer grants credit. If not, each item is a request, and the next item waits for its answer. */
  #credit = false;
  #granted = 0;
  #grantedBytes = 0;
  #sent = 0;
  #sentBytes = 0;
  /** Bytes of the items, for `progress`. */
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
   * Sends items until the source ends or the consumer stops, and closes the source.
   *
   * @throws ChannelClosed if the channel ends before, and any error of the source
   */
  async run(source) {
    const given = source.arrayBuffer ? piecesOf(source) : source;
    const items = given[Symbol.asyncIterator]?.() ?? given[Symbol.iterator]();
    try {
      while (await this.#waitForRoom()) {
        const next = await this.#unlessStopped(items.next());
        if (!next) continue;
        if (next.done) return;
        const item = { value: next.value, done: false };
        let size = 0;
        if (this.#credit) this.#sentBytes += size = this.#channel.emit("next", item).size;
        else await this.#channel.request("next", item);
        this.#bytes += next.value?.byteLength ?? size;
        this.#progress?.({ items: ++this.#sent, bytes: this.#bytes });
      }
    } finally {
      const closed = (async () => items.return?.())().catch(report);
      if (!this.#end && !this.#stopped) await closed;
    }
  }
  /** Waits for an item. Returns undefined if the consumer stops before. */
  #unlessStopped(item) {
    return new Promise((resolve, reject) => {
      this.#wake = () => {
        if (this.#end || this.#stopped) resolve(void 0);
      };
      Promise.resolve(item).then(resolve, reject);
    });
  }
  /** Waits until the next item may be sent. Returns false if the consumer stops. */
  async #waitForRoom() {
    for (; ; ) {
      if (this.#end) throw this.#end.error ?? new ChannelClosed("the channel has ended", "unknown");
      if (this.#stopped) return false;
      const hasRoom = this.#sent < this.#granted && this.#sentBytes < this.#grantedBytes;
      if (this.#started && (hasRoom || !this.#credit)) return true;
      await new Promise((resolve) => this.#wake = resolve);
    }
  }
  // ------------------------------------------------------------ for the channel
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
var MAX_UNREAD = 1024 * 1024;
var OVER = { done: true, value: void 0 };
var Stream = class {
  /** Opens the channel when the first item is read. Undefined when the loop has exited. */
  #open;
  #started;
  #sendMessage;
  #onLast;
  #options;
  /** The run that a stream with a key reads: its id, and how many of its items are skipped. */
  #run;
  #channel;
  #queue = [];
  #unreadBytes = 0;
  #read = 0;
  #readBytes = 0;
  /** The items and bytes at which the producer gets more credit. */
  #renewAt = 0;
  #renewBytesAt = 0;
  #isOver = false;
  #error;
  /** Wakes each call of `next` that waits. There may be several at once. */
  #waiting = [];
  /**
   * @param open opens the channel of the stream
   * @param sendMessage sends a message to the handler
   * @param onLast is called with the last request of an upload. With it, the channel stays open when the loop exits
   */
  constructor(open, onLast, options = {}, sendMessage) {
    this.#open = open;
    this.#sendMessage = sendMessage;
    this.#onLast = onLast;
    this.#options = options;
  }
  [Symbol.asyncIterator]() {
    return this;
  }
  get position() {
    const { after } = this.#options;
    if (this.#run) return `${this.#run[1] + this.#read}-${this.#run[0]}`;
    return after == null ? void 0 : `${after}`;
  }
  async stop() {
    const hasKey = this.#options.key != null;
    if (hasKey) await (this.#started ??= this.#start());
    if (!hasKey || !this.#channel) throw new TypeError("only an open stream with a key stops");
    try {
      await this.#channel.request("cancel");
    } catch (error) {
      if (!this.#isOver || !this.#open) throw error;
    }
  }
  async send(message, options) {
    if (this.#options.key == null) throw new TypeError("only a stream with a key gets messages");
    await this.#sendMessage(message, options);
  }
  async next() {
    await (this.#started ??= this.#start());
    while (!this.#queue.length && !this.#isOver) {
      await new Promise((resolve) => this.#waiting.push(resolve));
    }
    const item = this.#queue.shift();
    if (item) {
      this.#read++;
      this.#readBytes += item.size;
      this.#unreadBytes -= item.size + OVERHEAD;
      this.#channel.answer(item.message);
      this.#grant();
      return { done: false, value: item.value };
    }
    const error = this.#error;
    this.#error = void 0;
    if (error) throw error;
    return OVER;
  }
  async return() {
    const wasOver = this.#isOver;
    const unread = this.#queue.splice(0);
    this.#error = void 0;
    this.#finish();
    if (!this.#onLast) this.#channel?.abort();
    else if (!wasOver) {
      const channel = this.#channel ??= await this.#open();
      channel.setRecipient(this);
      for (const { message } of unread) channel.answer(message);
      if (channel.isOpen) channel.emit("stop");
    }
    this.#open = void 0;
    return OVER;
  }
  /** Opens the channel and asks for the items. */
  async #start() {
    if (!this.#open) return;
    try {
      this.#channel = await this.#open();
    } catch (error) {
      this.#finish();
      throw error;
    }
    if (this.#isOver) return this.#onLast ? void 0 : this.#channel.abort();
    this.#channel.setRecipient(this);
    if (this.#channel.isOpen) {
      if (this.#channel.hasCredit) this.#grant();
      else this.#renewAt = this.#renewBytesAt = Infinity;
      this.#channel.emit("start");
    }
  }
  #grant() {
    if (this.#isOver || this.#read < this.#renewAt && this.#readBytes < this.#renewBytesAt) return;
    this.#channel.grant(this.#read + WINDOW, this.#readBytes + WINDOW_BYTES);
    this.#renewAt = this.#read + WINDOW / 2;
    this.#renewBytesAt = this.#readBytes + WINDOW_BYTES / 2;
  }
  // ------------------------------------------------------------ for the channel
  receive(event, message, size) {
    if (event === "start" && !this.#onLast) {
      this.#channel.abort(new WsrpcError("the handler reads items: use upload() or open()", "ran"));
      return true;
    }
    if (event === "run" && !this.#onLast) {
      const [, id, skipped] = message.a;
      if (typeof id === "string" && typeof skipped === "number") this.#run = [id, skipped];
      return true;
    }
    if (event !== "next") return false;
    const argument = message.a[1];
    if (Array.isArray(argument)) {
      argument.forEach((value, index) => this.#add({ value, size: index ? 0 : size, message }));
    } else if (argument?.done) {
      this.#finish();
      if (this.#onLast) this.#onLast(message);
      else {
        this.#channel.answer(message);
        this.#channel.end(FINISHED);
      }
    } else this.#add({ value: argument?.value, size, message });
    return true;
  }
  #add(item) {
    if (this.#isOver) return this.#channel.answer(item.message);
    this.#queue.push(item);
    this.#unreadBytes += item.size + OVERHEAD;
    this.#notify();
    if (this.#unreadBytes > MAX_UNREAD + WINDOW_BYTES && this.#queue.length > 1) {
      this.#channel.abort(new ChannelClosed("the stream was read too slowly", "ran"));
    }
  }
  channelEnded(error) {
    if (error instanceof Aborted) this.#queue.splice(0);
    this.#finish(error ?? new ChannelClosed("the handler ended the channel before the end of the items", "ran"));
  }
  #finish(error) {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#error = error;
    this.#notify();
  }
  #notify() {
    for (const wake of this.#waiting.splice(0)) wake();
  }
};

// src/invocation.ts
var Invocation = class {
  #owner;
  #context;
  #controller = new AbortController();
  signal = this.#controller.signal;
  #channel;
  #items;
  /** The request with which an upload ends, and the result of the handler, which answers this request. */
  #lastRequest;
  #result;
  constructor(owner, id, context, h) {
    this.#owner = owner;
    this.id = id;
    this.h = h;
    this.#context = context;
  }
  get metadata() {
    return this.#context?.metadata ?? {};
  }
  get room() {
    return this.#context?.at?.[0];
  }
  get position() {
    return this.#context?.at?.[1];
  }
  get remaining() {
    return this.#context?.remaining_ms;
  }
  channel() {
    if (this.id === void 0) throw new TypeError("an event opens no channel");
    if (!this.#channel) {
      this.#channel = this.#owner.openChannel(this);
      void this.#channel.closed.then((error) => this.#controller.abort(error));
    }
    return this.#channel;
  }
  items() {
    const channel = this.channel();
    const ended = (message) => {
      this.#lastRequest = message;
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
        if (!this.#lastRequest) await this.#items.return();
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
    if (!this.#result || !this.#lastRequest) return;
    try {
      this.#channel.answer(this.#lastRequest, this.#result);
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

// src/recent.ts
var MAX_RECENT = 1024;
function addRecent(ids, id) {
  ids.add(id);
  if (ids.size <= MAX_RECENT) return void 0;
  const [oldest] = ids;
  ids.delete(oldest);
  return oldest;
}

// src/pending.ts
var FIRST_ID = 2 ** 30 + 1;
var LAST_ID = 2 ** 31 - 1;
var PendingRequests = class {
  requests = /* @__PURE__ */ new Map();
  #owner;
  /** Ids of abandoned requests, whose answers no caller awaits, until the server answers them. */
  #abandoned = /* @__PURE__ */ new Set();
  /** Ids of the requests that the server runs, and how many it runs at the same time. */
  #running = /* @__PURE__ */ new Set();
  #limit = Infinity;
  #waiting = /* @__PURE__ */ new Set();
  #nextId = FIRST_ID + 2 * Math.floor(Math.random() * (LAST_ID - FIRST_ID) / 4);
  constructor(owner) {
    this.#owner = owner;
  }
  /** Sends a request, now or when the server can run it. */
  add(request) {
    if (!request.isDone) {
      request.holder = this;
      if (this.#isFull && request.message.h === void 0) this.#waiting.add(request);
      else this.#send(request);
    }
    return request.answer;
  }
  get #isFull() {
    return this.#running.size >= this.#limit;
  }
  #send(request) {
    const id = request.id = this.#newId();
    try {
      request.outgoing = this.#owner.send({ i: id, ...request.message });
    } catch (error) {
      return request.reject(error);
    }
    this.requests.set(id, request);
    if (request.message.h === void 0) this.#running.add(id);
  }
  #newId() {
    do
      this.#nextId = this.#nextId + 2 > LAST_ID ? FIRST_ID : this.#nextId + 2;
    while (this.#owner.hasId(this.#nextId) || this.#abandoned.has(this.#nextId));
    return this.#nextId;
  }
  /** Sets how many requests the server runs at the same time. With NaN, the limit stays the same. */
  setLimit(limit) {
    this.#limit = limit || this.#limit;
    this.#sendWaiting();
  }
  #sendWaiting() {
    for (const request of this.#waiting) {
      if (this.#isFull) break;
      this.#waiting.delete(request);
      this.#send(request);
    }
  }
  /** Removes the requests that wait, and returns them. */
  popWaiting() {
    const requests = [...this.#waiting];
    this.#waiting.clear();
    return requests;
  }
  // ------------------------------------------------------------ the end of requests
  /** Whether the server may answer this request: it is pending, or abandoned. */
  expects(id) {
    return this.requests.has(id) || this.#abandoned.has(id);
  }
  /** Removes a request that the server no longer runs. */
  remove(id) {
    this.requests.delete(id);
    this.#abandoned.delete(id);
    this.#running.delete(id);
    this.#owner.requestEnded();
    this.#sendWaiting();
  }
  withdraw(request, reason) {
    if (this.#waiting.delete(request)) return false;
    const wasSent = this.#owner.cancelRequest(request, reason);
    if (wasSent) this.#giveUp(request.id);
    else this.remove(request.id);
    return wasSent;
  }
  /** Abandons a request: the server still runs it, but no caller awaits the answer. */
  #giveUp(id) {
    this.requests.delete(id);
    const dropped = addRecent(this.#abandoned, id);
    if (dropped) this.remove(dropped);
    else this.#owner.requestEnded();
  }
  /** Rejects the requests on an anonymous channel. */
  channelEnded(h, error) {
    for (const [id, request] of this.requests) {
      if (request.message.h !== h) continue;
      this.#giveUp(id);
      request.reject(error);
    }
  }
  /** Rejects all requests, because the session has ended. */
  end(error) {
    const requests = [...this.requests.values(), ...this.popWaiting()];
    this.requests.clear();
    for (const request of requests) {
      request.reject(error(request.outgoing?.sent ? "unknown" : "not_sent"));
    }
  }
};

// src/dialing.ts
var ABNORMAL = 1006;
var SILENT = "the server does not answer";
var REFUSED = "the server refuses the connection, or is not reachable";
var RESUMES = 4412;
var HINT = "wsrpc.resume";
var NEUTRAL = "wsrpc";
var ATTEMPT_TIMEOUT = 1e4;
var patience = ATTEMPT_TIMEOUT;
var HTTP_TIMEOUT = 4e3;
var PASSES = 3e4;
var FAILED = { code: ABNORMAL, reason: SILENT };
var networks = /* @__PURE__ */ new Map();
globalThis.addEventListener?.("online", () => networks.clear());
var Dialing = class {
  #target;
  #options;
  #owner;
  backoff = new Backoff(() => this.dial());
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
  /** The open connection, until a message has arrived. */
  #mute;
  #network;
  /** The connection that is being made. */
  #connection;
  /** Ends the present attempt. */
  #timer;
  constructor(target, options, owner) {
    this.#target = target;
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
    const fail = (error) => this.#fail(error, attempt);
    this.isDialing = true;
    this.since = now();
    const ask = () => typeof target === "function" ? target() : target;
    if (!this.url && typeof target !== "function") open(target);
    else Promise.resolve().then(ask).then(open).catch(fail);
    const overdue = () => {
      patience = 2 * ATTEMPT_TIMEOUT;
      fail(SILENT);
    };
    this.#timer = setTimeout(overdue, patience);
  }
  #fail(error, attempt) {
    if (attempt === this.#attempt) this.#owner.connectionLost(ABNORMAL, String(error));
  }
  /** Reads an address, and returns the subprotocols to offer there. */
  #read(address) {
    const { url = address, token } = address;
    this.url = absolute(url);
    const offers = token === void 0 ? [] : [`bearer.${token}`, NEUTRAL];
    return this.asksToResume ? [...offers, HINT] : offers;
  }
  #open(address) {
    const offers = this.#read(address);
    const { WebSocket: own, transports = own ? ["websocket"] : ["websocket", "http"] } = this.#options;
    const network = this.#network = networks.get(this.url) ?? { blockedUntil: 0, passesUntil: 0 };
    networks.set(this.url, network);
    network.passesUntil = Math.min(network.passesUntil, now() + PASSES);
    if (transports[0] === "http" || network.blockedUntil > now()) return void this.#openHttp(FAILED, offers);
    const WebSocketClass = own ?? globalThis.WebSocket;
    const connection = new WebSocketClass(this.url, offers);
    this.#use(connection);
    if (!transports.includes("http") || network.passesUntil > now()) return;
    const lost2 = connection.onclose;
    const isOpening = () => connection === this.#connection;
    connection.onclose = (event) => isOpening() ? void this.#openHttp(event) : lost2(event);
    setTimeout(() => {
      if (isOpening()) void this.#openHttp(FAILED);
      else if (this.#mute === connection && connection.readyState === 1) void this.#openHttp();
    }, HTTP_TIMEOUT);
  }
  #use(connection) {
    this.#connection = connection;
    connection.onopen = () => {
      this.#connection = void 0;
      this.stop();
      this.since = this.openedAt = now();
      patience = ATTEMPT_TIMEOUT;
      this.#mute = connection;
      this.#owner.dialed(connection);
    };
    connection.onerror = () => {
    };
    connection.onclose = (event) => this.#lost(event, connection === this.#connection);
  }
  #lost({ code, reason }, isAttempt = true) {
    this.#owner.connectionLost(code, String(reason) || (isAttempt ? REFUSED : ""));
  }
  /** A message has arrived. */
  arrived() {
    if (this.#mute && !("onreplace" in this.#mute)) this.#network.passesUntil = Infinity;
    this.#mute = void 0;
  }
  /**
   * Tries HTTP.
   *
   * @param failed how the attempt with a WebSocket has failed. Without it, there is a WebSocket on which nothing arrives.
   *   If HTTP opens, its session moves, or ends. (Some servers send nothing at first, and have no HTTP.)
   * @param offers the subprotocols to offer. Without them, the address is asked for again: a token may be for one
   *   connection, and the server may have got it with the WebSocket.
   */
  async #openHttp(failed, offers) {
    const attempt = this.#attempt;
    const target = this.#target;
    const triesWebSocket = this.#options.transports?.[0] !== "http";
    const module = await import("./http.js").catch(() => void 0);
    if (attempt !== this.#attempt) return;
    if (!module) return failed && failed !== FAILED ? this.#lost(failed) : void 0;
    try {
      offers ??= this.#read(typeof target === "function" ? await target() : target);
    } catch (error) {
      return failed && this.#fail(error, attempt);
    }
    if (attempt !== this.#attempt) return;
    if (this.#connection) disown(this.#connection, RESUMES);
    const connection = new module.HttpSocket(this.url, failed ? offers : [...offers, HINT], target, this.#network);
    const use = (other) => {
      this.#use(other);
      other.onopen({});
    };
    if (failed) this.#use(connection);
    else connection.onopen = () => this.#mute && attempt === this.#attempt ? use(connection) : connection.close();
    if (triesWebSocket) connection.onreplace = (other) => this.asksToResume ? use(other) : other.close();
  }
  /**
   * Gives up the attempt, or the wait for the next one.
   *
   * @param code the close code for the connection that is being made
   */
  stop(code = RESUMES) {
    clearTimeout(this.#timer);
    this.backoff.stop();
    if (this.#connection) disown(this.#connection, code);
    this.#connection = void 0;
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
var PROBE_TIMEOUT = 4e3;
var Heartbeat = class {
  #owner;
  /** When something has arrived or left. */
  #movedAt = 0;
  /** The unsent bytes at the last check. */
  #unsent = 0;
  /** When the answer to a probe is due. Undefined if no probe was sent. */
  #answerDue;
  #patience = PROBE_TIMEOUT;
  #timer;
  constructor(owner) {
    this.#owner = owner;
  }
  /** Starts with a connection. The time for an answer stays the same, because the large message may be sent again. */
  start() {
    this.#moved();
    this.#check();
  }
  /** A message has arrived. */
  received() {
    this.#moved();
    this.#patience = PROBE_TIMEOUT;
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
    const isLost = probablyLost || now() - this.#movedAt > QUIET_UNSEEN + PROBE_TIMEOUT;
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
  #probe(patience2) {
    this.#answerDue = Math.min(this.#answerDue ?? Infinity, now() + patience2);
    this.#owner.sendControl({ t: "probe" });
  }
};

// src/parts.ts
var MARK = 193;
var HEAD = 2;
var LARGEST2 = 16 * 1024;
var Parts = class {
  /** What has arrived of a message. */
  #contents = [];
  /** Returns the parts of a message that is sent, or only the message if it is not large. */
  cut(message) {
    const { data, sent, size } = message;
    if (size <= LARGEST2) return [message];
    const isText = typeof data === "string";
    const bytes = new Uint8Array(HEAD + size);
    bytes.set(isText ? encoder.encode(data) : new Uint8Array(data), HEAD);
    const parts = [];
    for (let at = 0; at < size; at += LARGEST2 - HEAD) {
      const part = bytes.slice(at, at + LARGEST2);
      part.set([MARK, at + LARGEST2 < bytes.length ? 0 /* More */ : isText ? 1 /* Text */ : 2 /* Binary */]);
      parts.push({ data: part.buffer, sent, size: part.length });
    }
    return parts;
  }
  /** Returns the message that is complete with this part, or undefined. Returns what is not a part as it is. */
  join(data) {
    if (typeof data === "string") return data;
    const part = new Uint8Array(data);
    if (part[0] !== MARK) return data;
    this.#contents.push(part.subarray(HEAD));
    if (part[1] === 0 /* More */) return void 0;
    const contents = this.#contents.splice(0);
    const joined = new Uint8Array(contents.reduce((at, { length }) => at + length, 0));
    contents.reduce((at, content) => (joined.set(content, at), at + content.length), 0);
    return part[1] === 1 /* Text */ ? new TextDecoder().decode(joined) : joined.buffer;
  }
};

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
  #bytes = 0;
  /** Bytes of memory that the messages occupy, approximately. */
  get memory() {
    return this.#bytes + OVERHEAD * this.#messages.length;
  }
  /** Adds a message. If it is sent now, it may be cut. Returns what is to be sent. */
  add(message) {
    const parts = message.sent && this.parts?.cut(message) || [message];
    this.#messages.push(...parts);
    for (const { size } of parts) this.#bytes += size;
    return parts;
  }
  /** Removes a message. Returns false if a connection has got it already. */
  drop(message) {
    if (message.sent) return false;
    this.#messages.splice(this.#messages.lastIndexOf(message), 1);
    this.#bytes -= message.size;
    return true;
  }
  /**
   * Removes the acknowledged messages.
   *
   * @param n the number of messages that have arrived in the session, or NaN
   * @param bytes their bytes, or NaN
   * @returns false if the server cannot have received these messages
   */
  acknowledge(n, bytes) {
    const arrived = this.#messages.slice(0, Math.max(0, n - this.#arrived));
    const size = arrived.reduce((sum, message) => sum + message.size, 0);
    const isPossible = n === this.#arrived + arrived.length && bytes === this.#arrivedBytes + size;
    if (!isPossible || arrived.at(-1)?.sent === false) return false;
    this.#messages.splice(0, arrived.length);
    this.#arrived += arrived.length;
    this.#arrivedBytes += size;
    this.#bytes -= size;
    return true;
  }
  /** Sends all messages in the buffer. Those that have not arrived can be cut although they were sent. */
  sendAll(send) {
    this.#bytes = 0;
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
    [2 /* Counted */]: 3 /* Resumable */,
    [4 /* Asked */]: 5 /* Asking */
    // over HTTP, which only a wsrpc server has
  },
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
  }
};

// src/session.ts
var RESUMABLE = /* @__PURE__ */ new Set([1001, ABNORMAL, 4411]);
var WELCOME_TIMEOUT = 1e4;
var ANSWER_TIMEOUT = 5e3;
var MAX_REASON = 123;
var randomText = () => globalThis.crypto?.getRandomValues(new Uint32Array(4)).join("");
var Session = class {
  state = 0 /* New */;
  #owner;
  #options;
  /** Undefined if the server answers no probes. */
  #heartbeat;
  /** The name of the session, and the secret with which this side resumes it. Before a welcome, they are its own. */
  #named = { sid: randomText(), token: randomText() };
  #isWelcome = false;
  /** Milliseconds after which the server ends a session without a connection. */
  #ttl = 3e4;
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
  constructor(target, options, owner) {
    this.#owner = owner;
    this.#options = options;
    this.dialing = new Dialing(target, options, this);
    this.dialing.dial();
  }
  #move(happened) {
    const next = TABLE[this.state]?.[happened];
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
  get #buffer() {
    return this.#options.buffer ?? 2 ** 24;
  }
  /** How full the option `buffer` is, with messages that wait or may be sent again. Above 1, the session ends. */
  get fullness() {
    const kept = this.state !== 1 /* Plain */ && this.#replay?.memory;
    return (kept || this.unsent) / this.#buffer;
  }
  /** Bytes that the connection has not written so far. */
  get unsent() {
    return this.connection?.bufferedAmount ?? 0;
  }
  /** Drops a message, so that it is never sent. Returns false if a connection has got it already. */
  drop(message) {
    return this.#replay?.drop(message) ?? false;
  }
  // ------------------------------------------------------------ receiving
  #receive(data) {
    const control = typeof data === "string" ? readControl(data) : void 0;
    this.dialing.arrived();
    if (this.state === 5 /* Asking */) return this.#resumeAnswered(control);
    if (!this.#isConnected) return;
    this.#heartbeat?.received();
    if (control && !isCounted(control)) return this.#receiveUncounted(control);
    const size = sizeOf(data);
    if (this.state === 3 /* Resumable */) this.#received.count(size);
    if (control) return this.#owner.receiveControl(control);
    const message = this.#parts ? this.#parts.join(data) : data;
    if (message !== void 0) this.#owner.receive(message, message === data ? size : sizeOf(message));
  }
  #receiveUncounted(control) {
    if (control.t === "welcome" && !this.#isWelcome) this.#welcomed(control);
    if (control.t === "ack" && this.state === 3 /* Resumable */) this.#acknowledge(control, "n");
  }
  /** Drops the messages that have arrived at the server. Ends the session, and returns false, if its counts differ. */
  #acknowledge(control, field) {
    const isPossible = this.#replay.acknowledge(count(control, field), count(control, "bytes"));
    if (!isPossible) this.#end(4400, "the counts differ");
    return isPossible;
  }
  #welcomed(welcome) {
    this.#isWelcome = true;
    const features = this.serverFeatures = Array.isArray(welcome.features) ? welcome.features : [];
    if (features.includes("probe")) this.#heartbeat = new Heartbeat(this);
    if (features.includes("parts")) this.#parts = new Parts();
    const resumes = typeof welcome.sid === "string";
    if (resumes && this.#replay) {
      clearTimeout(this.#answerTimer);
      this.#move(2 /* Counted */);
      this.dialing.asksToResume = true;
      this.#named.sid = welcome.sid;
      this.#named.token = welcome.token;
      this.#ttl = typeof welcome.ttl === "number" ? Math.min(1e3 * welcome.ttl, LONGEST_TIMER) : 0;
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
    connection.binaryType = "arraybuffer";
    connection.onmessage = ({ data }) => this.#receive(data);
    const hello = { v: 1, features: [...this.#owner.features, "resume", "probe"], limits: {}, program: this.#options.program };
    if (this.#move(0 /* Bound */)) {
      this.sendControl({ t: "hello", ...hello, ...this.#named });
      this.#replay = new ReplayBuffer();
      this.#answerTimer = setTimeout(() => this.#replay = void 0, WELCOME_TIMEOUT);
      this.#owner.opened();
    } else if (!this.#replay) this.#end(ABNORMAL, SILENT);
    else {
      this.#move(4 /* Asked */);
      this.dialing.asksToResume = true;
      const { n: rx, bytes } = this.#received.acknowledge();
      this.sendControl({ t: "resume", ...hello, ...this.#named, gen: ++this.#gen, rx, bytes });
      const unanswered = () => (this.#unanswered++, this.#detach(ABNORMAL, SILENT));
      this.#answerTimer = setTimeout(unanswered, ANSWER_TIMEOUT * (1 + this.#unanswered));
    }
  }
  #resumeAnswered(answer) {
    if (answer?.t !== "resumed") {
      const why = answer?.why ?? "no answer";
      this.#end(ABNORMAL, `not resumed: ${why === "elsewhere" ? "another process" : textOf(why)}`);
    } else if (this.#acknowledge(answer, "rx")) {
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
  connectionLost(code, reason) {
    const isDrop = this.state === 3 /* Resumable */ && RESUMABLE.has(code);
    if (isDrop || this.#isDetached && mayDialAgain(code)) this.#detach(code, reason);
    else this.#end(code, reason);
  }
  /** Continues without a connection, and dials again. */
  #detach(code, reason) {
    const lasted = this.state === 3 /* Resumable */ ? now() - this.dialing.openedAt : 0;
    this.#disown(RESUMES);
    this.#move(3 /* Cut */);
    this.dialing.backoff.start(code, lasted, this.#ttl);
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
  /**
   * Disowns the connection, because the page stops. Chrome would close the connection, and so end the session.
   *
   * @param mayWake whether the page may wake up again. If not, the session ends
   */
  park(mayWake) {
    if (!mayWake) return this.close();
    if (this.state !== 3 /* Resumable */ && !this.#isDetached) return;
    this.#detach(ABNORMAL, "closed");
    this.dialing.stop();
  }
  /**
   * Probes the connection, or dials, at once, because the page has woken up.
   *
   * @param probablyLost whether the connection has probably ended
   */
  wake(probablyLost) {
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
    if (sizeOf(reason) > MAX_REASON) throw new DOMException("reason is too long", "SyntaxError");
    if (this.#isConnected) {
      if (this.#replay) this.sendControl({ t: "gone", why: "closed" });
      this.#stopTimers();
      this.state = 6 /* Closing */;
      this.connection.close(code, reason);
    } else if (this.state === 0 /* New */) this.#end(ABNORMAL, "closed");
    else if (this.#isDetached) this.#end(code, reason);
  }
  #end(code, reason) {
    this.state = 7 /* Over */;
    this.#disown(code >= 3e3 ? code : 1e3);
    clearTimeout(this.#expiryTimer);
    this.#replay = void 0;
    queueMicrotask(() => this.#owner.sessionOver(code, reason));
  }
};

// src/peer_core.ts
var MAX_RUNNING = 1e4;
var WELCOME_TIMEOUT2 = 2e3;
var OPEN_TIMEOUT = 1e4;
var LARGE = 65536;
var PeerCore = class {
  #owner;
  #codec;
  #pending = new PendingRequests(this);
  /** Requests of the server whose handlers run, by their ids. */
  #invocations = /* @__PURE__ */ new Map();
  #channels = /* @__PURE__ */ new Map();
  #inProgress = [this.#pending.requests, this.#invocations, this.#channels];
  /** Channels that have ended. Messages on them were sent before the server knew. */
  #endedChannels = /* @__PURE__ */ new Set();
  /** Whether messages wait for the features of the server, because one of them is large. */
  #isLarge = false;
  /** The largest message that the server accepts. */
  #maxSize = Infinity;
  constructor(target, options, codec, owner) {
    this.#owner = owner;
    this.#codec = codec;
    this.features = ["batches", "context", "credit", "drain", "parts", ...codec.feature ? [codec.feature] : []];
    this.session = new Session(target, options, this);
  }
  /**
   * Whether events and requests can be sent. The other half of the buffer is for answers and messages on channels. A call
   * with a key waits until the features of the server are known, and from the first large message on, others wait, too.
   *
   * @param next the message that is to be sent
   */
  hasRoom(next) {
    const age = this.session.serverFeatures ? Infinity : now() - this.openedAt;
    const waits = next.ctx?.key !== void 0 ? age < OPEN_TIMEOUT : age < WELCOME_TIMEOUT2 && (this.#isLarge ||= this.encode(next)[1] > LARGE);
    return !waits && this.session.fullness <= 1 / 2;
  }
  get isBusy() {
    return this.#inProgress.some((table) => table.size > 0);
  }
  /** Whether the server sends items only within its credit. */
  get hasCredit() {
    return this.#supports("credit");
  }
  #supports(feature) {
    return !!this.session.serverFeatures?.includes(feature);
  }
  hasId(id) {
    return this.#inProgress.some((table) => table.has(id));
  }
  // ------------------------------------------------------------ sending
  /**
   * Sends a message.
   *
   * @throws Refused if it is larger than the server accepts, or the server might ignore its key
   * @throws TypeError if it cannot be encoded
   */
  send(message) {
    if (message.ctx?.key !== void 0 && !this.#supports("context")) throw new Refused("the server offers no keys");
    return this.session.send(...this.encode(message));
  }
  /** Returns the data of a message and their size. Throws what `send` throws. */
  encode(message) {
    if (this.session.serverFeatures && !this.#supports("context")) message = { ...message, ctx: void 0 };
    const data = this.#codec.encode(message, this.#supports(this.#codec.feature));
    const size = sizeOf(data);
    if (size > this.#maxSize) throw new Refused(`${size} bytes, the server takes ${this.#maxSize}`);
    return [data, size];
  }
  /** Sends the reason why something has ended. If the reason cannot be sent, the server gets the text of that error. */
  sendReason(message, key, reason) {
    try {
      this.send({ ...message, ...reasonOnWire(key, reason) });
    } catch (error) {
      this.session.send(JSON.stringify({ ...message, [key]: { message: error.message }, _: 1 }));
    }
  }
  /** Sends a request, now or when the server can run it. */
  request(request) {
    return this.#pending.add(request);
  }
  cancelRequest({ id: i, outgoing }, reason) {
    if (this.session.drop(outgoing)) return false;
    this.sendReason({ i }, "x", reason);
    return true;
  }
  requestEnded() {
    this.draining?.update();
  }
  // ------------------------------------------------------------ receiving
  receive(data, size) {
    let message = {};
    try {
      message = (typeof data === "string" ? json : this.#codec).decode(data) ?? message;
    } catch {
    }
    for (const key of ["a", "c", "ctx", "h", "i"]) if (message[key] === null) delete message[key];
    const { a, h = 0, i = 0 } = message;
    const isCall = Array.isArray(a) && typeof a[0] === "string";
    if (typeof h !== "number" || typeof i !== "number" || a && !isCall) this.#owner.ignore("foreign");
    else if (a) this.#receiveCall(message, size);
    else if ("x" in message) this.#receiveCancellation(message);
    else if (message.i !== void 0) this.#receiveResponse(i, message);
    else this.#owner.ignore("foreign");
  }
  #receiveCall(call, size) {
    const { ctx, h, i } = call;
    try {
      if (ctx) {
        call.ctx = readContext(ctx);
        const [name, position] = call.ctx?.at ?? [];
        const room = this.#owner.rooms.get(name);
        if (room?.isLeft) return this.#owner.ignore("event of a left room");
        if (room) room.position = position;
      }
    } catch (error) {
      if (i === void 0) return this.#owner.ignore("wrong arguments");
      return this.#refuse(i, error.message, "wsrpc.bad_arguments");
    }
    if (h === void 0) return this.run(this.#owner.handlers(call.c), call);
    const channel = this.#channels.get(h);
    if (channel) return channel.receive(call, size);
    const message = `Anonymous channel '${textOf(h)}' does not exist`;
    if (i !== void 0) this.#refuse(i, message);
    if (!this.#endedChannels.has(h)) this.sendReason({ h }, "x", { message });
  }
  /** Answers a call of the server with an error, because no handler runs. */
  #refuse(i, message, code) {
    this.sendReason({ i }, "e", { message, code });
  }
  /** Cancels a call of the server, or ends a channel. If it has ended already, nothing happens. */
  #receiveCancellation({ i, h, x, _ }) {
    const reason = new RemoteError(x, _, true);
    if (h !== void 0) this.#channels.get(h)?.end(reason);
    else if (this.#invocations.has(i)) this.#invocations.get(i).cancel(reason);
    else this.#channels.get(i)?.end(reason);
  }
  #receiveResponse(i, message) {
    this.session.serverFeatures ??= [];
    if (!this.#pending.expects(i)) return this.#owner.ignore("response to no request");
    const request = this.#pending.requests.get(i);
    if ("e" in message) {
      if (request?.message.ctx?.remaining_ms === 0) request.expire();
      else request?.reject(new RemoteError(message.e, message._));
    } else if (message.h) this.#channelOpened(i, request);
    else if (request?.opens) request.reject(new WsrpcError(`"${request.message.a[0]}" answers with a value: use request()`, "ran"));
    else request?.resolve(message.d);
    this.#pending.remove(i);
  }
  /** The answer to a request is a channel. */
  #channelOpened(i, request) {
    const channel = new ChannelCore(i, this, request?.signal);
    this.#channels.set(i, channel);
    if (request?.opens) return request.resolve(channel);
    channel.abort();
    if (!this.hasCredit) request?.resolve(null);
    else {
      const text = `"${request?.message.a[0]}" answers with a channel: use stream(), upload() or open()`;
      request?.reject(new WsrpcError(text, "ran"));
    }
  }
  // ------------------------------------------------------------ calls of the server
  /** Runs the handlers of an event, or the handler of a request. */
  run(handlers, { a, c, ctx, h, i }) {
    const [event, ...args] = a;
    const found = handlers?.of(event) ?? [];
    const [handler] = found;
    if (i === void 0) {
      if (!found.length) this.#owner.ignore("unknown event");
      for (const each of found) (async () => each.apply(new Invocation(this, void 0, ctx), args))().catch(report);
    } else if (this.hasId(i)) this.#owner.ignore("duplicate id");
    else if (!handler) {
      const exists = handlers || c === void 0;
      const text = exists ? `No event listener for '${event}'` : `Channel '${textOf(c)}' does not exist`;
      this.#refuse(i, text, "wsrpc.unknown_event");
    } else if (ctx?.remaining_ms === 0) {
      this.#owner.ignore("expired before its handler began");
      this.#refuse(i, "expired", "wsrpc.overloaded");
    } else if (this.#invocations.size >= MAX_RUNNING) {
      this.#refuse(i, `the page handles ${MAX_RUNNING} requests already`, "wsrpc.overloaded");
    } else {
      const invocation = new Invocation(this, i, ctx, h);
      this.#invocations.set(i, invocation);
      void invocation.run(() => handler.apply(invocation, args));
    }
  }
  /** Whether the server still awaits the answer of a call. */
  #isCurrent(invocation) {
    return this.#invocations.get(invocation.id) === invocation;
  }
  reply(invocation, answer) {
    if (!this.#isCurrent(invocation)) return;
    this.send({ i: invocation.id, ...answer });
    this.#invocations.delete(invocation.id);
    if (!answer.h) this.draining?.update();
  }
  reject(invocation, reason) {
    if (!this.#isCurrent(invocation)) return;
    this.#invocations.delete(invocation.id);
    this.sendReason({ i: invocation.id }, "e", reason);
    this.draining?.update();
  }
  openChannel(invocation) {
    const channel = new ChannelCore(invocation.id, this);
    if (this.#isCurrent(invocation)) {
      this.reply(invocation, { h: 1 });
      this.#channels.set(invocation.id, channel);
    } else channel.end(invocation.signal.reason);
    return channel;
  }
  // ------------------------------------------------------------ channels
  /** Grants credit for a channel, in totals. */
  grant(h, n, bytes) {
    this.session.send(writeControl({ t: "credit", h, n, bytes }));
  }
  /** Removes a channel that has ended. This side's requests on it fail, and the server's calls on it are cancelled. */
  channelEnded(channel, error) {
    if (this.#channels.get(channel.id) !== channel) return;
    this.#channels.delete(channel.id);
    addRecent(this.#endedChannels, channel.id);
    this.#pending.channelEnded(channel.id, error);
    for (const invocation of this.#invocations.values()) {
      if (invocation.h === channel.id) invocation.cancel(error);
    }
    this.draining?.update();
  }
  // ------------------------------------------------------------ the session
  opened() {
    this.openedAt = now();
    this.#owner.opened();
  }
  sessionDetached(code, reason) {
    this.#owner.sessionDetached(lost(code, reason, "not_sent"));
  }
  resumed() {
    this.#owner.resumed();
  }
  receiveControl(control) {
    const limits = Object(control.limits);
    this.#maxSize = count(limits, "message") || this.#maxSize;
    this.#pending.setLimit(count(limits, "running"));
    if (control.t === "welcome") {
      this.#owner.contract = control.contract;
      this.#owner.sendQueue();
    } else if (control.t === "credit") {
      this.#channels.get(count(control, "h"))?.credited(count(control, "n"), count(control, "bytes"));
    } else if (control.t === "drain") {
      this.draining ??= new Draining(this.#inProgress, () => this.#becomeSilent());
      this.draining.received(count(control, "after_ms"));
      this.#owner.drainAnnounced();
    }
  }
  /** Starts nothing new, because the server drains. */
  #becomeSilent() {
    this.#owner.requeue(this.#pending.popWaiting());
    this.session.send(writeControl({ t: "drain", after_ms: 0 }));
  }
  /** The session is over: its requests fail, and its calls and channels end. */
  sessionOver(code, reason) {
    this.draining?.stop();
    const ended = (outcome) => lost(code, reason, outcome);
    this.#pending.end(ended);
    for (const invocation of this.#invocations.values()) invocation.cancel(ended("unknown"));
    for (const channel of this.#channels.values()) channel.end(ended("unknown"));
    this.#owner.sessionOver(this, ended("not_sent"));
  }
};
function lost(code, reason, outcome) {
  return new ConnectionLost(`the connection has ended: ${code} ${reason}`.trim(), outcome, code);
}
function reasonOnWire(key, reason) {
  reason ??= { message: key === "x" ? "Request aborted" : "Error" };
  if (!(reason instanceof Error) && !reason.message) return { [key]: reason };
  const { message, code, data } = reason;
  return { [key]: { message, code: reason instanceof DOMException ? void 0 : code, data }, _: 1 };
}

// src/client_core.ts
var ROOM_CHECK = 20;
var TOKEN = /^[\w!#$%&'*+.^`|~-]*$/;
function checked(address) {
  const { url = address, token = "" } = Object(address);
  if (typeof (url?.href ?? url) !== "string") {
    throw new TypeError("a client takes one URL, { url, token } or a function");
  }
  if (TOKEN.test(token)) return address;
  throw new TypeError("a token has letters, digits and _!#$%&'*+.^`|~-");
}
var ClientCore = class {
  #options;
  #codec;
  #target;
  #handlers = /* @__PURE__ */ new Map();
  #subscribers = /* @__PURE__ */ new Set();
  #listening = new AbortController();
  #backoff = new Backoff(() => this.#dial());
  #queue = /* @__PURE__ */ new Set();
  outgoing = /* @__PURE__ */ new Set();
  rooms = /* @__PURE__ */ new Map();
  ignored = {};
  state = "connecting";
  #roomTimer;
  constructor(target, options) {
    if (!(options.WebSocket ?? globalThis.WebSocket)) {
      throw new TypeError("no WebSocket: pass { WebSocket } of the package ws");
    }
    this.#target = typeof target === "function" ? async () => checked(await target()) : checked(target);
    this.#options = options;
    this.#codec = options.codec ?? json;
    this.#start();
  }
  #start() {
    this.#dial();
    listenToPage(this, this.ended);
  }
  connect() {
    if (this.peer) this.peer.session.retry();
    else if (this.state === "connecting") this.#dial();
    else {
      this.#listening = new AbortController();
      this.#start();
      this.#enter("connecting");
    }
  }
  wake(probablyLost = true) {
    this.peer?.session.wake(probablyLost);
    if (this.state !== "closed") this.connect();
  }
  park(mayWake) {
    this.peer?.session.park(mayWake);
  }
  /** Aborted when the client is closed. */
  get ended() {
    return this.#listening.signal;
  }
  get retryAt() {
    return (this.peer?.session.dialing.backoff ?? this.#backoff).retryAt;
  }
  #dial() {
    this.#backoff.stop();
    this.peer = new PeerCore(this.#target, this.#options, this.#codec, this);
  }
  subscribe(subscriber) {
    this.#subscribers.add(subscriber);
    return () => this.#subscribers.delete(subscriber);
  }
  /** Enters a state and notifies the subscribers. After a failed attempt to connect, the state may be the same. */
  #enter(state, resumed = false) {
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
      if (!request.isDone) this.add(request);
    } catch (error) {
      request.reject(error);
    }
    return request.answer;
  }
  withdraw(request) {
    return !this.#queue.delete(request);
  }
  /** Sends a request or an event, or adds it to the queue. */
  add(queued) {
    if (!this.#roomTimer && this.#canSend(queued)) this.#send(queued);
    else if (this.state === "closed") throw this.error;
    else if (this.#queue.size >= (this.#options.offline ?? 256) && !(this.#isConnected && queued instanceof Request)) {
      throw new Refused(`${this.#queue.size} messages wait`);
    } else {
      this.peer?.encode(queued.message);
      queued.message.a = this.copied(queued.message.a);
      this.#queue.add(queued);
      this.#waitForRoom();
    }
  }
  /**
   * Returns a copy of the arguments of a call that waits, because the page may change them meanwhile.
   *
   * @throws TypeError if an argument cannot be encoded
   */
  copied(a) {
    return this.#codec.decode(this.#codec.encode({ a }, true)).a;
  }
  #send(queued) {
    if (queued instanceof Request) void this.peer.request(queued);
    else this.peer.send(queued.message);
  }
  /** Not while the session is detached: if the session is lost, the messages of that time go to the next session. */
  get #isConnected() {
    return this.state === "open" || this.state === "draining";
  }
  #canSend(queued) {
    return this.#isConnected && this.peer.hasRoom(queued.message) && (this.peer.draining?.accepts(queued.opens) ?? true);
  }
  // ------------------------------------------------------------ for the peer
  handlers(channel) {
    return this.#handlers.get(channel);
  }
  handle(channel, event, handler) {
    const handlers = this.#handlers.get(channel) ?? new Handlers();
    this.#handlers.set(channel, handlers);
    return handlers.add(event, handler);
  }
  opened() {
    this.error = void 0;
    const before = [...this.#queue];
    this.#enter("open");
    for (const queued of before) if (this.#queue.delete(queued)) this.#queue.add(queued);
    this.sendQueue();
  }
  sessionDetached(error) {
    this.error = error;
    this.#enter("detached");
  }
  resumed() {
    this.state = this.peer.draining ? "draining" : "open";
    this.sendQueue();
    this.error = void 0;
    this.#enter(this.state, true);
  }
  drainAnnounced() {
    this.#enter("draining");
  }
  requeue(requests) {
    for (const request of requests) {
      request.holder = this;
      this.#queue.add(request);
    }
  }
  sendQueue() {
    clearTimeout(this.#roomTimer);
    this.#roomTimer = void 0;
    for (const queued of [...this.#queue]) {
      if (this.#canSend(queued) && this.#queue.delete(queued)) guarded(() => this.#send(queued));
    }
    this.#waitForRoom();
  }
  /** Sends the queue when the connection has room. A WebSocket has no event for that, so a timer checks it. */
  #waitForRoom() {
    const [first] = this.#queue;
    if (first && this.#isConnected && !this.peer.hasRoom(first.message)) {
      this.#roomTimer ??= setTimeout(() => this.sendQueue(), ROOM_CHECK);
    }
  }
  sessionOver(peer, error) {
    if (peer !== this.peer) return;
    const code = error.code;
    const { openedAt } = peer;
    this.peer = void 0;
    if (mayDialAgain(code)) {
      this.error = error;
      this.#backoff.start(code, openedAt === void 0 ? 0 : now() - openedAt);
      this.#enter("connecting");
    } else this.#end(error);
  }
  close(code, reason) {
    if (this.state === "closed") return;
    const peer = this.peer;
    peer?.session.close(code, reason);
    this.#end(new ConnectionLost("the client is closed", "not_sent", code));
    peer?.sessionOver(code, reason);
  }
  #end(error) {
    this.peer = void 0;
    this.error = error;
    this.#listening.abort();
    this.#backoff.stop();
    this.#enter("closed");
    for (const queued of this.#queue) if (queued instanceof Request) queued.reject(error);
    this.#queue.clear();
  }
  ignore(kind) {
    this.ignored[kind] = (this.ignored[kind] ?? 0) + 1;
  }
};

// src/following.ts
var Following = class {
  #open;
  #items;
  /**
   * @param open opens a stream after a position
   * @throws TypeError if the options have no key
   */
  constructor(open, { key, after }) {
    if (key == null) throw new TypeError("to follow a stream, give it a key");
    this.#open = open;
    this.#items = open(after);
  }
  [Symbol.asyncIterator]() {
    return this;
  }
  get position() {
    return this.#items.position;
  }
  stop() {
    return this.#items.stop();
  }
  send(message, options) {
    return this.#items.send(message, options);
  }
  return() {
    return this.#items.return();
  }
  async next() {
    for (; ; ) {
      const items = this.#items;
      try {
        return await items.next();
      } catch (error) {
        if (!(error instanceof ConnectionLost) || error.outcome === "not_sent") throw error;
        this.#items = this.#open(items.position);
      }
    }
  }
};

// src/room.ts
var Room = class {
  /** Whether no event was missed, or the state has come that contains it. */
  complete = true;
  /** Whether events that arrive are new. False while the page joins, and those from the log arrive. */
  live = false;
  /** Whether the page has called `leave`. */
  isLeft = false;
  /** Resolves when the page has joined, and the state and the events from the log have arrived. Rejects if it may not. */
  ready;
  /** The users in the room, for `useSyncExternalStore`. `get` returns the same array until something changes. */
  present = {
    get: () => this.#list,
    subscribe: (subscriber) => this.#handlers.add("presence", subscriber)
  };
  #core;
  #channel;
  #options;
  #handlers = new Handlers();
  #finish;
  /** Whether the event "missed" has come since the page has begun to join. */
  #isNotified = false;
  #users = /* @__PURE__ */ new Map();
  #stops;
  #list = [];
  constructor(core, channel, name, options) {
    this.#core = core;
    this.#channel = channel;
    this.name = name;
    this.#options = options;
    core.rooms.set(name, this);
    this.ready = new Promise((resolve, reject) => {
      this.#finish = (error) => error ? reject(error) : resolve();
    });
    this.ready.catch(() => {
    });
    const on = (event, handle) => channel.on(event, (room, ...args) => {
      if (room === name && !this.isLeft) handle(...args);
    });
    this.#stops = [
      core.subscribe((state, resumed) => {
        if (state === "closed") this.#finish(core.error);
        if (state !== "open" || resumed || this.isLeft) return;
        this.live = false;
        void this.#join();
      }),
      on("missed", () => this.#miss()),
      on("state", (_, state) => {
        if (this.position !== void 0 && !this.#handlers.of("state").length) return this.#miss();
        this.complete = true;
        this.#call("state", state);
      }),
      on("presence", (changes, isSnapshot) => this.#change(changes, isSnapshot))
    ];
    if (core.state !== "connecting") void this.#join();
  }
  async #join() {
    const { position } = this;
    this.#isNotified = false;
    try {
      const answer = await this.#request();
      if (!(answer?.complete ?? position === void 0) && !this.#isNotified) this.#miss();
    } catch (error) {
      if (error instanceof ConnectionLost) {
        if (this.#core.state === "closed") this.#finish(error);
        return;
      }
      this.#finish(error);
      if (this.isLeft) return;
      this.error = error;
      if (position === void 0) this.complete = false;
      else this.#miss();
      this.#change([], true);
    }
  }
  /** Requests to join. For a member, this only changes what it says of itself. */
  async #request() {
    const after = this.position ?? void 0;
    const answer = await this.#channel.request("join", this.name, { ...this.#options, after });
    this.position ??= answer?.position ?? null;
    this.error = void 0;
    if (!this.live) {
      this.live = true;
      this.#call("live");
    }
    this.#finish();
    return answer;
  }
  #miss() {
    this.#isNotified = true;
    this.complete = false;
    this.#call("missed");
  }
  #call(event, ...args) {
    for (const handler of this.#handlers.of(event)) guarded(() => handler(...args));
  }
  /**
   * Handles the state of a room with `state=`, which comes before the events that it does not contain, and comes again
   * after missed events; or what the page has to do if it has missed events without that; or that `live` is true.
   *
   * @returns a function that removes the handler
   */
  on(event, handler) {
    return this.#handlers.add(event, handler);
  }
  /** Changes what this connection says of itself, for `about` of `Present`. Rejects if the server refuses it. */
  async setAbout(about) {
    const before = this.#options;
    this.#options = { ...before, about };
    try {
      await this.#request();
    } catch (error) {
      if (error instanceof ConnectionLost) return;
      this.#options = before;
      throw error;
    }
  }
  #change(changes, isSnapshot) {
    if (isSnapshot) this.#users.clear();
    for (const each of changes) {
      if (each.state === "offline") this.#users.delete(each.user);
      else this.#users.set(each.user, each);
    }
    this.#list = [...this.#users.values()];
    this.#call("presence");
  }
  /** Leaves the room. Events of its log that arrive from now on are neither handled nor counted in `position`. */
  leave() {
    this.isLeft = true;
    const end = () => {
      for (const stop of this.#stops) stop();
      if (this.#core.rooms.get(this.name) === this) this.#core.rooms.delete(this.name);
    };
    void this.#channel.request("leave", this.name).then(end, end);
  }
};

// src/client.ts
var MAX_ATTEMPTS = 8;
function pause(ms, signals) {
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer);
      for (const signal of signals) signal?.removeEventListener("abort", finish);
      resolve();
    };
    const timer = setTimeout(finish, ms);
    for (const signal of signals) signal?.addEventListener("abort", finish);
    if (signals.some((signal) => signal?.aborted)) finish();
  });
}
var Caller = class _Caller {
  #channel;
  #options;
  constructor(core, channel, options) {
    this.core = core;
    this.#channel = channel;
    this.#options = options;
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
   * Handles events and requests of the server, which gets the result. If the result is a generator or another async
   * iterable, the server gets its items as a stream.
   *
   * @returns a function that removes the handler
   */
  on(event, handler) {
    return this.core.handle(this.#channel.c, event, handler);
  }
  /**
   * Sends an event. Without a connection, the event waits.
   *
   * @throws ConnectionLost if the client is closed
   * @throws Refused if too many messages wait for a connection, or the event is larger than the server accepts
   * @throws TypeError if an argument cannot be encoded
   */
  emit(event, ...args) {
    this.#leave("event", event, args)?.catch?.(report);
  }
  /** Sends a request, and returns the answer. */
  async request(event, ...args) {
    return this.#leave("request", event, args);
  }
  /** Sends a call or an event, with the middleware around it. */
  #leave(kind, event, args) {
    const call = {
      ...this.#options,
      kind,
      channel: this.#channel.c,
      event,
      args,
      metadata: { ...this.#options.metadata }
    };
    if (kind === "event" && this.#options.key != null) throw new TypeError("an event has no key: use request()");
    const send = () => kind === "event" ? this.core.add({ message: { a: [event, ...args], ctx: contextOf(call), ...this.#channel } }) : this.#request(call);
    const wrap = (next, middleware) => () => middleware(call, next);
    return [...this.core.outgoing].reduceRight(wrap, send)();
  }
  /** Sends a request, again and again if it has failed and has the option `retry`. */
  async #request(call) {
    const { kind, event, retry } = call;
    const opens = kind !== "request";
    const args = retry ? this.core.copied(call.args) : call.args;
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.core.request(new Request(this.#channel, event, args, call, opens));
      } catch (error) {
        if (opens || !retry || attempt === MAX_ATTEMPTS || !this.#mayRepeat(error)) throw error;
        await pause(Math.random() * 250 * 2 ** attempt, [this.#options.signal, this.core.ended]);
      }
    }
  }
  #mayRepeat(error) {
    if (this.core.state === "closed" || !(error instanceof WsrpcError)) return false;
    if (error instanceof ConnectionLost) return error.outcome === "not_sent" || this.#options.retry === "idempotent";
    return error.code === "wsrpc.overloaded" || error.code === "wsrpc.draining";
  }
  /** Opens a channel for a conversation with the handler. The signal aborts the channel, too. */
  async open(event, ...args) {
    return this.#leave("conversation", event, args);
  }
  /** Returns the items that the handler yields. The request is sent when the first item is read. */
  stream(event, ...args) {
    const sendMessage = (message, { id = randomText() ?? `${Math.random()}`, ...options } = {}) => {
      const own = { timeout: 0, ...options, message: id, after: 0, retry: "idempotent" };
      return this.with(own).#leave("request", event, [...args, message]);
    };
    return new Stream(async () => this.#leave("stream", event, args), void 0, this.#options, sendMessage);
  }
  /**
   * Returns the items of a stream with a key, which continues in each new session, until the client is closed:
   * `client.with({ key }).follow("generate", prompt)`.
   */
  follow(event, ...args) {
    return new Following((after) => this.with({ after }).stream(event, ...args), this.#options);
  }
  /**
   * Sends the items of an iterable to the handler, as fast as the handler reads them, and returns its result. The
   * timeout limits two waits: until the handler has started, and from the last item to the result.
   */
  async upload(event, ...[source, ...args]) {
    const { progress, timeout, requestTimeout } = this.#options;
    const channel = await this.#leave("upload", event, args);
    try {
      await new Producer(channel, progress).run(source);
      const answer = channel.with({ requestTimeout: timeout ?? requestTimeout }).request("next", { done: true });
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
  status = {
    get: () => this.core.state,
    subscribe: (subscriber) => this.core.subscribe(subscriber)
  };
  /**
   * @throws TypeError if there is no WebSocket class, or the address or the token is not valid. If `target` is a
   *   function, its results are checked at each attempt to connect
   * @throws SyntaxError if the scheme of the address is not `http`, `https`, `ws` or `wss`
   */
  constructor(target, options = {}) {
    super(new ClientCore(target, options), {}, { requestTimeout: options.requestTimeout ?? 6e4 });
  }
  /**
   * Runs a function around each event, request, stream, upload and conversation of the page, once for all attempts of a
   * request, and not for what is sent on an anonymous channel. The function that was added first is the outermost one.
   *
   * @returns a function that removes it
   */
  useOutgoing(middleware) {
    this.core.outgoing.add(middleware);
    return () => this.core.outgoing.delete(middleware);
  }
  /**
   * Joins a room of the server, now and in each new session. If the room has a log, the page then gets the events that
   * it has missed. Until the page leaves the room, each call with this name returns the same object.
   */
  room(name, options = {}) {
    const channel = new Caller(this.core, { c: "rooms" }, { retry: true });
    const room = this.core.rooms.get(name);
    return room && !room.isLeft ? room : new Room(this.core, channel, name, options);
  }
  /**
   * Why there is no connection: the error of the last attempt to connect, or of the end of the last connection. Its
   * `code` is the close code. Undefined while the client is `open`.
   */
  get error() {
    return this.core.error;
  }
  /** What carries the present connection. Undefined if there is none. */
  get transport() {
    const connection = this.core.peer?.session.connection;
    return connection && ("onreplace" in connection ? "http" : "websocket");
  }
  /**
   * What the server handles and emits, to compare with the `CONTRACT` of generated types. Known when the first
   * answer of a session has arrived, and not checked. Undefined if the server does not say its `program`.
   */
  get contract() {
    return this.core.contract;
  }
  /** When the next attempt to connect starts, as a time like `Date.now()`. Undefined if the client does not wait. */
  get retryAt() {
    return this.core.retryAt;
  }
  /**
   * When the server closes the connection, because it drains, as a time like `Date.now()`. Undefined if the server does
   * not drain, or does not announce the time.
   */
  get closesAt() {
    return this.core.peer?.draining?.closesAt;
  }
  /** Connects now, if the client waits for its next attempt, or is `closed`. Otherwise it has no effect. */
  connect() {
    this.core.connect();
  }
  /**
   * Looks whether the connection is alive, and dials another one at once. Call it when the program goes on after a
   * suspend, and has no page that says so: in React Native, Electron or a worker. It has no effect on a closed client.
   */
  wake() {
    this.core.wake();
  }
  /** The numbers of ignored messages, by kind. */
  get ignored() {
    return this.core.ignored;
  }
  /** Ends the session, which the server learns at once. The client does not connect again, except by `connect`. */
  close(code = 1e3, reason = "") {
    this.core.close(code, reason);
  }
};
export {
  Aborted,
  ChannelClosed,
  Client,
  ConnectionLost,
  Refused,
  RemoteError,
  RequestTimeout,
  WsrpcError
};
