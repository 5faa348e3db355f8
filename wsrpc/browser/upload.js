// src/upload.ts
var BLOCK = 2 ** 20;
var PAUSE = 500;
var PASSES = /* @__PURE__ */ new Set(["wsrpc.overloaded", "wsrpc.draining", "gap"]);
async function upload(client, name, file, { signal, progress } = {}) {
  if (!(file instanceof Blob)) throw new TypeError(`upload() takes a File or Blob, got ${String(file).slice(0, 99)}`);
  if (!globalThis.crypto?.subtle) throw new TypeError("upload() needs a page of https: or localhost");
  const caller = client.with({ signal, timeout: 0 }).of(name);
  let id = "";
  progress?.(0, file.size);
  for (; ; ) {
    try {
      if (!id) {
        await caller.request("size", `${"0".repeat(64)}-${file.size}`);
        id = await idOf(file, signal);
      }
      const offset = await caller.request("size", id);
      progress?.(offset, file.size);
      const sender = caller.with({ progress: ({ bytes }) => progress?.(offset + bytes, file.size) });
      await sender.upload("append", file.slice(offset), id, offset);
      return id;
    } catch (error) {
      const passes = error?.name === "ConnectionLost" || PASSES.has(error?.code);
      if (!passes || client.status.get() === "closed") throw error;
    }
    await new Promise((resolve) => {
      setTimeout(resolve, PAUSE * (1 + 3 * Math.random()));
      signal?.addEventListener("abort", resolve, { once: true });
    });
  }
}
async function idOf(file, signal) {
  let hash = new ArrayBuffer(32);
  for (let at = 0; at < file.size; at += BLOCK) {
    signal?.throwIfAborted();
    const block = await new Blob([hash, file.slice(at, at + BLOCK)]).arrayBuffer();
    hash = await crypto.subtle.digest("SHA-256", block);
  }
  const digits = Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0"));
  return `${digits.join("")}-${file.size}`;
}
export {
  upload
};
