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

// src/aisdk.ts
var CHUNKS = new Set(
  `abort custom error file finish finish-step message-metadata reasoning-delta reasoning-end reasoning-file
  reasoning-start reset-step source-document source-url start start-step steering-message text-delta text-end
  text-start tool-approval-request tool-approval-response tool-input-available tool-input-delta
  tool-input-error tool-input-start tool-output-available tool-output-denied tool-output-error`.split(/\s+/)
);
var WsrpcTransport = class {
  /** A run that is joined is read from its first word. */
  resumeStreamIsReplay = true;
  #chats;
  /**
   * @param event the event of the handler: "event", or "channel:event" on a named channel
   */
  constructor(client, event, { tools } = {}) {
    this.#chats = new Chats(client, event, tools);
  }
  async sendMessages({ chatId, messages, trigger, messageId, body, abortSignal }) {
    const sent = { ...body, id: chatId, messages, trigger, messageId };
    const last = messages.at(-1);
    const answer = last?.role === "assistant" ? last.id : null;
    const again = trigger === "regenerate-message";
    return stream(await this.#chats.ask(chatId, sent, last, answer, again, abortSignal), abortSignal);
  }
  async reconnectToStream({ chatId, abortSignal }) {
    const run = await this.#chats.join(chatId, abortSignal);
    return run && stream(run, abortSignal);
  }
  /** Stops the model, for all readers. The `stop` of a chat only ends its reading, as when its component is unmounted. */
  stop(chatId) {
    return this.#chats.stop(chatId);
  }
};
function stream(run, signal) {
  const found = chunks(run, signal);
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await found.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    cancel: () => run.leave()
  });
}
async function* chunks(run, signal) {
  let [texts, inText, finished] = [0, false, false];
  const endOfText = () => inText ? [{ type: "text-end", id: `text-${texts++}` }] : [];
  yield { type: "start", messageId: run.answer };
  yield { type: "start-step" };
  try {
    for await (const item of run) {
      if (typeof item === "string") {
        if (!inText) yield { type: "text-start", id: `text-${texts}` };
        inText = true;
        yield { type: "text-delta", id: `text-${texts}`, delta: item };
        continue;
      }
      const { type, toolCallId: id, toolName, input } = item ?? {};
      if (!CHUNKS.has(type) && !/^data-/.test(type)) throw new TypeError(`a text, or a chunk of the AI SDK, was expected; got '${type ?? item}'`);
      yield* endOfText();
      inText = false;
      finished ||= type === "finish";
      if (type === "tool-input-available") run.called(id, toolName, () => input);
      else if (/^tool-output-/.test(type)) run.answered(id);
      yield item;
    }
    yield* endOfText();
    if (!finished) yield { type: "finish" };
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    yield* endOfText();
    yield error.code === "wsrpc.stopped" ? { type: "abort" } : { type: "error", errorText: error.message };
  }
}
export {
  WsrpcTransport
};
