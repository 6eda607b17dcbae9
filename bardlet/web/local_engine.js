// The engine of an exported page as the playground sees it: the calls of engine.js, each a promise,
// answered by a worker. Where the browser starts none, the page itself computes.

import { embeddedBytes, embeddedData, workerURL } from "./embedded.js";
import { Engine } from "./engine.js";

const START_MS = 10_000; // for a worker to come up
const UNSHOWN_MS = 30; // of writing, before the page is drawn
const METHODS = ["encode", "pieces", "decode", "logits", "score", "attention", "evidence"];

export class LocalEngine {
  /** The engine of this page, ready. Throws an Error with a plain sentence where it is damaged. */
  static async open(options = {}) {
    const described = embeddedData();
    const weights = await embeddedBytes("weights");
    const text = described.text === null ? null : splits(described.text, await embeddedBytes("text"));
    const [remote, counting] = options.worker === false ? [null, null]
      : await Promise.all([Remote.start(), text === null ? null : Remote.start()]);
    if (remote === null) return new LocalEngine(new Engine(described, weights, text, options));
    const args = [described, weights, counting === null ? text : null, options];
    remote.info = await remote.call("load", args, [weights.buffer]);
    const engine = new LocalEngine(remote);
    if (counting !== null) {
      engine.info.can.evidence = true;
      const ready = counting.call("loadText", [described.tokenizer, text], text.map((t) => t.buffer));
      engine.evidence = async (ids) => {
        await ready;
        return counting.evidence(ids);
      };
    }
    return engine;
  }

  constructor(engine) {
    this.engine = engine;
    this.info = engine.info;
    for (const method of METHODS) this[method] = async (...args) => engine[method](...args);
  }

  /** Tokens as they are written, until there are enough or `signal` aborts. */
  async *generate(ids, options = {}, signal = undefined) {
    let shown = performance.now();
    for await (const token of this.engine.generate(ids, options, signal)) {
      if (signal?.aborted) return;
      yield token;
      if (performance.now() - shown > UNSHOWN_MS) {
        await new Promise((resume) => setTimeout(resume)); // the page is drawn
        shown = performance.now();
      }
    }
  }
}

/** The tokens of each split out of those of all. */
function splits({ dtype, lengths }, bytes) {
  const Kind = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array }[dtype];
  const all = new Kind(bytes.buffer);
  let at = 0;
  return lengths.map((length) => all.slice(at, (at += length)));
}

/** An engine in a worker. */
class Remote {
  /** A worker that has answered, or null where none can be started. */
  static async start() {
    let url = null;
    try {
      url = workerURL();
      const worker = new Worker(url);
      await new Promise((resolve, reject) => {
        worker.onerror = reject;
        worker.onmessage = resolve;
        setTimeout(reject, START_MS);
        worker.postMessage({ call: 0, method: "ready" }); // which fails, and so is answered
      });
      return new Remote(worker);
    } catch {
      return null;
    } finally {
      if (url !== null) URL.revokeObjectURL(url);
    }
  }

  constructor(worker) {
    this.worker = worker;
    this.calls = 0;
    this.waiting = new Map(); // what to do with the messages of each call
    worker.onmessage = ({ data }) => this.waiting.get(data.call)?.(data);
    worker.onerror = (event) => {
      for (const tell of this.waiting.values()) tell({ error: event.message || "The worker ended." });
    };
    for (const method of METHODS) this[method] = (...args) => this.call(method, args);
  }

  call(method, args, transfer = []) {
    const call = ++this.calls;
    return new Promise((resolve, reject) => {
      this.waiting.set(call, ({ value, error }) => {
        this.waiting.delete(call);
        if (error === undefined) resolve(value);
        else reject(new Error(error));
      });
      this.worker.postMessage({ call, method, args }, transfer);
    });
  }

  async *generate(ids, options, signal) {
    const call = ++this.calls;
    const arrived = [];
    let wake = null, ended = false, finished = false, failure = null;
    this.waiting.set(call, ({ tokens, error }) => {
      if (tokens !== undefined) arrived.push(...tokens);
      else ended = finished = true;
      if (error !== undefined) failure = new Error(error);
      wake?.();
    });
    const stop = () => {
      ended = true;
      wake?.();
    };
    signal?.addEventListener("abort", stop);
    this.worker.postMessage({ call, method: "generate", args: [ids, options] });
    try {
      while (!signal?.aborted) {
        while (arrived.length > 0 && !signal?.aborted) yield arrived.shift();
        if (failure !== null) throw failure;
        if (ended) return;
        await new Promise((resolve) => (wake = resolve));
      }
    } finally {
      signal?.removeEventListener("abort", stop);
      this.waiting.delete(call);
      if (!finished) this.worker.postMessage({ call, stop: true });
    }
  }
}
