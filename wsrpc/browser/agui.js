// src/agui.ts
import { AbstractAgent, EventType } from "@ag-ui/client";
import { Observable } from "rxjs";

// src/chats.ts
var Run = class {
  /** The id of the message that the run writes. */
  answer;
  #found;
  #follow;
  #tools;
  /** The calls of tools that have no result yet. */
  #calls = /* @__PURE__ */ new Map();
  #items;
  #end;
  #ended = new Promise((resolve) => this.#end = resolve);
  constructor(found, follow, tools) {
    this.#found = found;
    this.#follow = follow;
    this.#tools = tools;
    this.answer = found.answer;
    this.#items = found.items === null ? follow() : follow(0);
  }
  async *[Symbol.asyncIterator]() {
    try {
      yield* this.#read();
    } catch (error) {
      if (error.code !== "wsrpc.key_reused") throw error;
      this.#items = this.#follow(0);
      yield* this.#read();
    } finally {
      this.#end();
    }
  }
  async *#read() {
    let read = 0;
    for await (const item of this.#items) {
      yield item;
      if (++read < (this.#found.items ?? 0)) continue;
      for (const [id, use] of this.#calls) if (!this.#using.has(id)) void this.#use(id, use);
    }
  }
  #using = /* @__PURE__ */ new Set();
  /** The run has called a tool. */
  called(id, name, input) {
    const tool = this.#tools[name];
    if (tool) this.#calls.set(id, async () => tool(await input()));
  }
  /** A call has its result. */
  answered(id) {
    this.#calls.delete(id);
  }
  async #use(id, use) {
    this.#using.add(id);
    const once = async () => {
      if (!this.#calls.has(id)) return;
      const result = await Promise.resolve().then(use).catch((error) => ({ error: `${error}` }));
      await this.#items.send(result, { id }).catch(console.warn);
      await this.#ended;
    };
    const { locks } = globalThis.navigator ?? {};
    await (locks ? locks.request(`${this.#found.key} ${id}`, once) : once());
  }
  /** Ends the reading. */
  leave() {
    void this.#items.return();
  }
};
var Chats = class {
  #caller;
  #event;
  #tools;
  /**
   * @param event the event of the handler: "event", or "channel:event" on a named channel
   */
  constructor(client, event, tools = {}) {
    const [, channel, name] = /^(?:(.*):)?(.*)$/.exec(event);
    this.#caller = channel ? client.of(channel) : client;
    this.#event = name;
    this.#tools = tools;
  }
  #request(...args) {
    return this.#caller.with({ retry: "idempotent" }).request(`${this.#event}.chat`, ...args);
  }
  #run(found, body, signal) {
    const follow = (after) => this.#caller.with({ key: found.key, after, signal }).follow(this.#event, ...after === void 0 ? [body] : []);
    return new Run(found, follow, this.#tools);
  }
  /** Returns the run that answers the last message: a new one, or the one that goes on. */
  async ask(chat, body, last, answer, again, signal) {
    return this.#run(await this.#request("ask", chat, last, answer, again), body, signal);
  }
  /** Returns the run that goes on, if there is one. */
  async join(chat, signal) {
    const found = await this.#request("join", chat);
    return found && this.#run(found, void 0, signal);
  }
  /** Stops the run that goes on, for all its readers. */
  async stop(chat) {
    await this.#request("stop", chat);
  }
};

// src/agui.ts
var WsrpcAgent = class extends AbstractAgent {
  chats;
  /**
   * @param event the event of the handler: "event", or "channel:event" on a named channel
   */
  constructor(client, event, { tools, ...config } = {}) {
    super(config);
    this.chats = new Chats(client, event, tools);
  }
  run(input) {
    return observe(input, () => this.chats.ask(input.threadId, input, input.messages.at(-1) ?? null, null, false));
  }
  connect(input) {
    return observe(input, () => this.chats.join(input.threadId));
  }
  /** Only ends the reading, as some pages do when a component is unmounted. */
  abortRun() {
    void this.detachActiveRun();
  }
  /** Stops the model, for all readers. */
  stop() {
    return this.chats.stop(this.threadId);
  }
  clone() {
    return Object.assign(super.clone(), { chats: this.chats });
  }
};
function observe(input, find) {
  return new Observable((subscriber) => {
    let run;
    const read = async () => {
      run = await find();
      if (!run || subscriber.closed) return;
      for await (const event of events(input, run)) subscriber.next(event);
    };
    read().then(
      () => subscriber.complete(),
      (error) => subscriber.error(error)
    );
    return () => run?.leave();
  });
}
async function* events({ threadId, runId }, run) {
  let [texts, inText, finished] = [0, false, false];
  const calls = /* @__PURE__ */ new Map();
  const message = () => ({ messageId: `${run.answer}-${texts}` });
  const endOfText = () => inText ? [{ type: EventType.TEXT_MESSAGE_END, ...message() }] : [];
  yield { type: EventType.RUN_STARTED, threadId, runId };
  try {
    for await (const item of run) {
      if (typeof item === "string") {
        if (!inText) yield { type: EventType.TEXT_MESSAGE_START, ...message(), role: "assistant" };
        inText = true;
        if (item) yield { type: EventType.TEXT_MESSAGE_CONTENT, ...message(), delta: item };
        continue;
      }
      const { type, toolCallId: id, toolCallName: name, delta } = item ?? {};
      if (!(type in EventType)) throw new TypeError(`a text, or an event of AG-UI, was expected; got '${type ?? item}'`);
      yield* endOfText();
      if (inText) texts++;
      inText = false;
      finished ||= type === EventType.RUN_FINISHED || type === EventType.RUN_ERROR;
      const call = calls.get(id);
      if (type === EventType.TOOL_CALL_START) calls.set(id, { name, input: "" });
      else if (type === EventType.TOOL_CALL_ARGS && call) call.input += delta;
      else if (type === EventType.TOOL_CALL_END && call) run.called(id, call.name, () => JSON.parse(call.input || "{}"));
      else if (type === EventType.TOOL_CALL_RESULT) run.answered(id);
      yield item;
    }
    yield* endOfText();
    if (!finished) yield { type: EventType.RUN_FINISHED, threadId, runId };
  } catch (error) {
    yield* endOfText();
    if (!finished) yield { type: EventType.RUN_ERROR, message: error.message, ...error.code != null && { code: `${error.code}` } };
  }
}
export {
  WsrpcAgent
};
