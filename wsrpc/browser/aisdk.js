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
  /** @param event the event of the handler: "event", or "channel:event" on a named channel */
  constructor(client, event, { tools } = {}) {
    this.#chats = new Chats(client, event, "aisdk", tools);
  }
  async sendMessages({ chatId, messages, trigger, messageId, body, abortSignal }) {
    const sent = { ...body, id: chatId, messages, trigger, messageId };
    const asked = { id: chatId, messages: messages.slice(-1), trigger };
    return stream(await this.#chats.find("ask", chatId, asked, sent, abortSignal), abortSignal);
  }
  async reconnectToStream({ chatId, abortSignal }) {
    const run = await this.#chats.find("join", chatId, void 0, void 0, abortSignal);
    return run && stream(run, abortSignal);
  }
  /** Stops the model, for all readers. The `stop` of a chat only ends its reading, as when its component is unmounted. */
  async stop(chatId) {
    await this.#chats.find("stop", chatId);
  }
};
function stream(run, signal) {
  const chunks = run.events({
    // Of a message that it continues, the results of tools belong to the step before.
    start: [{ type: "start", messageId: run.found.answer }, ...run.found.before, { type: "start-step" }],
    text: (kind, number, delta) => ({ type: `text-${kind}`, id: `text-${number}`, ...delta && { delta } }),
    look({ type, toolCallId, toolName, input }) {
      if (!CHUNKS.has(type) && !/^data-/.test(type)) throw new TypeError(`a text or a chunk of the AI SDK was expected; got '${type}'`);
      if (type === "tool-input-available") run.called(toolCallId, toolName, () => input);
      if (/^tool-output-/.test(type)) run.answered(toolCallId);
      return type === "finish";
    },
    end: { type: "finish" },
    error({ code, message }) {
      if (signal?.aborted) throw signal.reason;
      return code === "wsrpc.stopped" ? { type: "abort" } : { type: "error", errorText: message };
    }
  });
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await chunks.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    cancel: () => run.leave()
  });
}
export {
  WsrpcTransport
};
