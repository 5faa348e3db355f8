"use client";

// src/react.ts
import { createContext, createElement, useCallback, useContext, useEffect, useRef, useState, useSyncExternalStore } from "react";
var Context = createContext(void 0);
function Wsrpc({ client, children }) {
  return createElement(Context.Provider, { value: client }, children);
}
function useClient() {
  const client = useContext(Context);
  if (!client) throw new Error("no client: put the component into <Wsrpc client={client}>");
  return client;
}
function useStatus() {
  const client = useClient();
  const { subscribe, get } = client.status;
  const state = useSyncExternalStore(subscribe, get, () => "connecting");
  const error = useSyncExternalStore(subscribe, () => client.error, () => void 0);
  return { state, error, retryAt: useSyncExternalStore(subscribe, () => client.retryAt, () => void 0) };
}
function useCall(event, options = {}) {
  const client = useClient();
  const [state, show] = useState({ value: void 0, error: void 0, pending: false });
  const last = useRef({ number: 0, options });
  useEffect(() => void (last.current.options = options));
  const call = useCallback(
    async (...args) => {
      const number = ++last.current.number;
      const end = (value, error) => {
        if (number === last.current.number) show({ value, error, pending: false });
        return value;
      };
      show(({ value }) => ({ value, error: void 0, pending: true }));
      return client.with(last.current.options).request(event, ...args).then(end, (error) => end(void 0, error));
    },
    [client, event]
  );
  return { ...state, call };
}
var storesOf = /* @__PURE__ */ new WeakMap();
function useShared(name, initial, start) {
  const client = useClient();
  const stores = storesOf.get(client) ?? /* @__PURE__ */ new Map();
  storesOf.set(client, stores);
  const subscribe = useCallback(
    (subscriber) => {
      if (name === void 0) return () => {
      };
      const store = stores.get(name) ?? { value: initial, subscribers: /* @__PURE__ */ new Set() };
      const set = (value) => {
        store.value = value;
        for (const each of store.subscribers) each();
      };
      const startOrStop = () => {
        if (store.subscribers.size) store.stop ??= start(client, set);
        else if (stores.get(name) === store && stores.delete(name)) store.stop?.();
      };
      stores.set(name, store);
      store.subscribers.add(subscriber);
      queueMicrotask(startOrStop);
      return () => store.subscribers.delete(subscriber) && queueMicrotask(startOrStop);
    },
    [client, name]
  );
  return useSyncExternalStore(subscribe, () => stores.get(name)?.value ?? initial, () => initial);
}
var NOTHING = { items: [], ended: false, error: void 0, run: void 0 };
function useFollow(event, args, { key, after }) {
  const name = key == null ? void 0 : JSON.stringify([event, args, key, after]);
  return useShared(name, NOTHING, (client, set) => {
    const items = [];
    let run;
    let timer;
    let error;
    const show = (ended = false) => {
      timer = clearTimeout(timer);
      set({ items: [...items], ended, error, run });
    };
    const read = async () => {
      error = void 0;
      run = client.with({ key, after: run?.position ?? after }).follow(event, ...args);
      show();
      try {
        for await (const item of run) {
          items.push(item);
          timer ??= setTimeout(show);
        }
      } catch (reason) {
        error = reason;
      }
      show(!error);
    };
    const stop = client.status.subscribe((state) => {
      if (state !== "closed" && error?.name === "ConnectionLost") void read();
    });
    void read();
    return () => {
      stop();
      void run.return();
    };
  });
}
function useRoom(name, definition) {
  const { initial, on = {}, ...options } = definition;
  const before = { state: initial, present: [], live: false, complete: true, error: void 0, room: void 0 };
  return useShared(`room ${name}`, before, (client, set) => {
    let state = initial;
    const room = client.room(name, options);
    const show = (news = state) => {
      const { live, complete, error } = room;
      set({ state: state = news, present: room.present.get(), live, complete, error, room });
    };
    const stops = Object.entries(on).map(
      ([event, reduce]) => client.on(event, function(...args) {
        if (this.room === (room.position == null ? void 0 : name)) show(reduce(state, ...args));
      })
    );
    stops.push(room.on("state", show), room.on("missed", show), room.on("live", show));
    stops.push(room.present.subscribe(show), client.status.subscribe(() => show()));
    show();
    return () => {
      for (const stop of stops) stop();
      room.leave();
    };
  });
}
export {
  Wsrpc,
  useCall,
  useClient,
  useFollow,
  useRoom,
  useStatus
};
