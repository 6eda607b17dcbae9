// The engine of a page that `bardlet serve` answers: every question goes to the server.

const MAX_IDS = 16384; // tokens that the server takes at once
const EVENTS = /\r?\n\r?\n/;

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class ServerEngine {
  // The engine of a model by its name; without one, of the server's first. Throws Refused.
  static async connect(model = null, key = "") {
    const engine = new ServerEngine(model, key);
    const query = model ? `?model=${encodeURIComponent(model)}` : "";
    engine.info = await (await engine.ask(`bardlet/info${query}`)).json();
    const texts = await (await engine.ask(`bardlet/vocabulary${query}`)).json();
    engine.bytes = texts.map((text) => Uint8Array.from(text, (char) => char.charCodeAt(0)));
    engine.model = engine.info.name;
    return engine;
  }

  constructor(model, key) {
    this.model = model;
    this.key = key;
    this.info = null;
    this.bytes = [];
    this.utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  }

  async encode(text) {
    return this.json("encode", { text });
  }

  async pieces(ids) {
    return ids.map((id) => this.piece(id));
  }

  piece(id) {
    const bytes = this.bytes[id];
    try {
      return this.utf8.decode(bytes);
    } catch {
      return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
    }
  }

  async decode(ids) {
    const parts = ids.map((id) => this.bytes[id]);
    const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(whole);
  }

  async logits(ids) {
    return this.floats("logits", { ids });
  }

  // A text is scored window by window, as evaluation does, and so in parts of whole windows; a window
  // is shorter than the context where that is larger than what the server takes.
  async score(ids) {
    const window = Math.min(this.info.context, MAX_IDS - 1);
    const part = window * Math.floor((MAX_IDS - 1) / window);
    const scores = [];
    for (let at = 0; at === 0 || at < ids.length - 1; at += part) {
      const told = await this.json("score", { ids: ids.slice(at, at + part + 1) });
      scores.push(...(at ? told.slice(1) : told));
    }
    return scores;
  }

  async attention(ids) {
    const { n_layer, n_head } = this.info;
    return { n_layer, n_head, weights: await this.floats("attention", { ids }) };
  }

  async evidence(ids) {
    const told = await this.json("evidence", { ids });
    if (told.missing) {
      this.info.missing = told.missing; // why there is none
      return null;
    }
    return told;
  }

  async *generate(ids, options, signal) {
    let response;
    try {
      response = await this.post("generate", { ids, ...options }, signal);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        const events = (rest + value).split(EVENTS);
        rest = events.pop();
        for (const event of events) {
          if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
          const told = JSON.parse(event.slice(6));
          if (told.error) throw new Refused(told.error.message, 500);
          yield* told.tokens;
        }
      }
    } catch (error) {
      if (!signal?.aborted) throw error;
    }
  }

  // --- how it asks

  async json(path, body) {
    return (await this.post(path, body)).json();
  }

  async floats(path, body) {
    return new Float32Array(await (await this.post(path, body)).arrayBuffer());
  }

  post(path, body, signal) {
    if (body.ids) body.ids = body.ids.slice(-MAX_IDS);
    const text = JSON.stringify({ model: this.model, ...body });
    return this.ask(`bardlet/${path}`, { method: "POST", body: text, signal });
  }

  async ask(path, options = {}) {
    const headers = { "content-type": "application/json" };
    if (this.key) headers.authorization = `Bearer ${this.key}`;
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response;
    let message = `${response.status} ${response.statusText}`;
    try {
      message = (await response.json()).error.message;
    } catch {
      // not from our server
    }
    throw new Refused(message, response.status);
  }
}
