// src/agui.ts
import { AbstractAgent, EventType } from "@ag-ui/client";
import { Observable } from "rxjs";

// src/chats.ts
var Run = class {
  constructor(found, follow, tools) {
    this.found = found;
    this.follow = follow;
    this.tools = tools;
    this.#items = found.items === null ? follow() : follow(0);
  }
  found;
  follow;
  tools;
  /** The calls of tools that have no result yet: what makes the call, until it is made. */
  #calls = /* @__PURE__ */ new Map();
  #left = new AbortController();
  #items;
  /** Yields the events of a protocol. */
  async *events({ start, text, look, end, error }) {
    let [texts, inText, finished] = [0, false, false];
    const endOfText = () => inText ? [text("end", texts++)] : [];
    yield* start;
    try {
      for await (const item of this.#read()) {
        const isText = typeof item === "string";
        if (!isText) finished ||= look(item ?? {});
        if (!isText) yield* endOfText();
        else if (!inText) yield text("start", texts);
        inText = isText;
        if (item !== "") yield isText ? text("delta", texts, item) : item;
      }
      yield* endOfText();
      if (!finished) yield end;
    } catch (reason) {
      const last = error(reason);
      yield* endOfText();
      yield last;
    } finally {
      this.leave();
    }
  }
  async *#read() {
    let read = 0;
    try {
      for await (const item of this.#items) {
        yield item;
        if (++read < (this.found.items ?? 0)) continue;
        for (const [id, use] of this.#calls) if (use) void this.#use(id, use);
      }
    } catch (error) {
      if (error.code !== "wsrpc.key_reused") throw error;
      this.#items = this.follow(0);
      yield* this.#read();
    }
  }
  /** The run has called a tool. */
  called(id, name, input) {
    const tool = this.tools[name];
    if (tool) this.#calls.set(id, async () => tool(input()));
  }
  /** A call has its result. */
  answered(id) {
    this.#calls.delete(id);
  }
  async #use(id, use) {
    this.#calls.set(id, void 0);
    const once = async () => {
      if (!this.#calls.has(id)) return;
      const result = await Promise.resolve(use()).catch((error) => ({ error: `${error}` }));
      const failed = (error) => this.#items.send({ error: `${error}` }, { id });
      await this.#items.send(result, { id }).catch(failed).catch(console.warn);
      const { signal } = this.#left;
      if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve));
    };
    const { locks } = globalThis.navigator ?? {};
    await (locks ? locks.request(`${this.found.key} ${id}`, once) : once());
  }
  /** Ends the reading. */
  leave() {
    this.#calls.clear();
    this.#left.abort();
    void this.#items.return();
  }
};
var Chats = class {
  #caller;
  #event;
  #protocol;
  #tools;
  /** @param event the event of the handler: "event", or "channel:event" on a named channel */
  constructor(client, event, protocol, tools = {}) {
    const [, channel, name] = /^(?:(.*):)?(.*)$/.exec(event);
    this.#caller = channel ? client.of(channel) : client;
    this.#event = name;
    this.#protocol = protocol;
    this.#tools = tools;
  }
  /**
   * Asks for the run that answers the last message, to "join" the one that goes on, or to "stop" it.
   *
   * @param asked what the server reads of `body`, which the handler gets
   */
  async find(wants, chat, asked, body, signal) {
    const event = this.#event;
    const found = await this.#caller.with({ retry: "idempotent" }).request(`${event}.${this.#protocol}`, wants, chat, ...asked ? [asked] : []);
    const follow = (after) => this.#caller.with({ key: found.key, after, signal }).follow(event, ...after === void 0 ? [body] : []);
    return found && new Run(found, follow, this.#tools);
  }
};

// src/agui.ts
var WsrpcAgent = class extends AbstractAgent {
  chats;
  /** @param event the event of the handler: "event", or "channel:event" on a named channel */
  constructor(client, event, { tools, ...config } = {}) {
    super(config);
    this.chats = new Chats(client, event, "agui", tools);
  }
  run(input) {
    const asked = { threadId: input.threadId, runId: input.runId, messages: input.messages.slice(-1) };
    return observe(input, () => this.chats.find("ask", input.threadId, asked, input));
  }
  connect(input) {
    return observe(input, () => this.chats.find("join", input.threadId));
  }
  /** Only ends the reading, as some pages do when a component is unmounted. */
  abortRun() {
    void this.detachActiveRun();
  }
  /** Stops the model, for all readers. */
  async stop() {
    await this.chats.find("stop", this.threadId);
  }
  clone() {
    return Object.assign(super.clone(), { chats: this.chats });
  }
};
function observe(input, find) {
  return new Observable((subscriber) => {
    const finding = find();
    const read = async () => {
      const run = await finding;
      if (run) for await (const event of eventsOf(input, run)) subscriber.next(event);
    };
    read().then(() => subscriber.complete(), (error) => subscriber.error(error));
    return () => void finding.then((run) => run?.leave(), () => {
    });
  });
}
function eventsOf({ threadId, runId }, run) {
  const calls = /* @__PURE__ */ new Map();
  const texts = {
    start: { type: EventType.TEXT_MESSAGE_START, role: "assistant" },
    delta: { type: EventType.TEXT_MESSAGE_CONTENT },
    end: { type: EventType.TEXT_MESSAGE_END }
  };
  return run.events({
    start: [{ type: EventType.RUN_STARTED, threadId, runId }],
    text: (kind, number, delta) => ({ ...texts[kind], messageId: `${run.found.answer}-${number}`, ...delta && { delta } }),
    look({ type, toolCallId: id, toolCallName: name, delta }) {
      if (!(type in EventType)) throw new TypeError(`a text or an event of AG-UI was expected; got '${type}'`);
      const call = calls.get(id);
      if (type === EventType.TOOL_CALL_START) calls.set(id, { name, input: "" });
      if (type === EventType.TOOL_CALL_ARGS && call) call.input += delta;
      if (type === EventType.TOOL_CALL_END && call) run.called(id, call.name, () => JSON.parse(call.input || "{}"));
      if (type === EventType.TOOL_CALL_RESULT) run.answered(id);
      return type === EventType.RUN_FINISHED || type === EventType.RUN_ERROR;
    },
    end: { type: EventType.RUN_FINISHED, threadId, runId },
    error: ({ code, message }) => ({ type: EventType.RUN_ERROR, message, ...code != null && { code: `${code}` } })
  });
}
export {
  WsrpcAgent
};
