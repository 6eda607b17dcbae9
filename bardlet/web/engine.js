// What computes in an exported page: the model, its tokenizer and the counts of its text, behind the
// calls that the playground makes. It runs in a Web Worker, or in the page where there is none.

import { Evidence } from "./evidence.js";
import { draw, reshape } from "./filters.js";
import { GPT } from "./gpt.js";
import { readTensors } from "./matrix.js";
import { Random } from "./random.js";
import { tokenizer } from "./tokenizer.js";

const TOP = 20; // likeliest tokens that are told
const DEFAULTS = { max_new_tokens: 500, seed: 1337, number: 0, temperature: 0.8, top_k: 200 };
const WRITING = 0, READING = 1; // caches: of the text that is written, and of all other questions

export class Engine {
  /**
   * `described` is what interop/html writes of a model, `weights` its bytes, `text` the tokens of
   * the training text and of what was kept apart, or null. `simd` false computes in JavaScript alone.
   */
  constructor(described, weights, text, { simd = true } = {}) {
    const { config } = described;
    this.size = config.block_size;
    this.tokenizer = tokenizer(described.tokenizer);
    this.gpt = new GPT(config, readTensors(described.tensors, weights), { simd, caches: 2 });
    this.cached = [[], []]; // the ids whose keys and values each cache holds
    this.scored = { ids: [], scores: [] };
    this.prompt = described.prompt;
    this.text = text;
    this.counts = null;
    this.info = {
      ...described.info, simd: this.gpt.arena.simd !== null,
      can: { attention: true, evidence: text !== null, lens: false },
    };
  }

  /** The tokens that a prompt becomes, as serve/model.py has it: behind what texts begin with. */
  encode(text) {
    const { pairs, beginning, behind } = this.prompt;
    if (pairs && text !== "" && text === text.trimEnd()) text += "\n";
    return { ids: [...behind, ...this.tokenizer.encode(text || beginning)] };
  }

  pieces(ids) {
    return this.tokenizer.pieces(ids);
  }

  decode(ids) {
    return this.tokenizer.decode(ids);
  }

  /** Logits of the token after the newest part of `ids`, at temperature 1: a new Float32Array. */
  logits(ids) {
    this.check(ids);
    return this.after(ids.slice(-this.size), READING).slice();
  }

  /** The log-probability of each token after the first, in windows of the context, and the top. */
  score(ids) {
    this.check(ids);
    let same = 0; // tokens whose scores are known from the last text
    while (same < ids.length && ids[same] === this.scored.ids[same]) same += 1;
    const scores = same > 0 ? this.scored.scores.slice(0, same) : [{ logprob: null, top: [] }];
    for (let at = scores.length; at < ids.length; at++) {
      const begin = Math.floor((at - 1) / this.size) * this.size;
      const logprobs = logSoftmax(this.after(ids.slice(begin, at), READING));
      scores.push({ logprob: logprobs[ids[at]], top: likeliest(logprobs) });
    }
    this.scored = { ids: [...ids], scores };
    return scores;
  }

  /**
   * Tokens one after another, each {id, logprob, top}, as `bardlet sample` writes them: the context
   * slides by a quarter, and a text ends before the token that ends texts.
   */
  *generate(ids, options = {}) {
    const { max_new_tokens, seed, number, ...filters } = { ...DEFAULTS, ...options };
    this.check(ids);
    const all = [...ids], random = new Random(seed, number);
    let begin = 0;
    for (let i = 0; i < max_new_tokens; i++) {
      begin = contextBegin(begin, all.length, this.size);
      const logits = this.after(all.slice(begin), WRITING);
      const logprobs = logSoftmax(logits);
      const id = draw(reshape(logits, filters), random.next());
      if (id === this.tokenizer.end) return;
      all.push(id);
      yield { id, logprob: logprobs[id], top: likeliest(logprobs) };
    }
  }

  /** The weights of every layer and head, of queries in rows, for the newest context of `ids`. */
  attention(ids) {
    this.check(ids);
    const seen = ids.slice(-this.size);
    const { n_layer, n_head } = this.gpt.config;
    const T = seen.length, size = this.size;
    const weights = new Float32Array(n_layer * n_head * T * T);
    const row = new Float32Array(n_layer * n_head * size);
    this.gpt.attention = row;
    try {
      this.cached[READING] = [];
      seen.forEach((id, at) => {
        this.step(id, at, READING);
        for (let i = 0; i < n_layer * n_head; i++) {
          weights.set(row.subarray(i * size, i * size + at + 1), (i * T + at) * T);
        }
      });
    } finally {
      this.gpt.attention = null;
    }
    return { n_layer, n_head, weights };
  }

  /** What the training text says of the end of `ids`; null where the page has no text. */
  evidence(ids) {
    if (this.text === null) return null;
    this.counts ??= new Evidence(this.text, this.tokenizer);
    return this.counts.of(ids);
  }

  /** Logits after `context`, a view that the next step changes; what is cached is not recomputed. */
  after(context, cache) {
    const cached = this.cached[cache];
    let same = 0;
    while (same < cached.length && same < context.length - 1 && cached[same] === context[same]) same++;
    cached.length = same;
    for (let at = same; at < context.length; at++) this.step(context[at], at, cache);
    return this.gpt.logits();
  }

  step(id, position, cache) {
    this.gpt.step(id, position, cache);
    this.cached[cache].push(id);
  }

  check(ids) {
    const { vocab_size } = this.gpt.config;
    const isToken = (id) => Number.isInteger(id) && id >= 0 && id < vocab_size;
    if (ids.length === 0) throw new Error("There is no text to go on from: type at least one character.");
    if (!ids.every(isToken)) throw new Error(`A token is a number from 0 to ${vocab_size - 1}.`);
  }
}

/** Where the context of `length` tokens begins: once it is full, its oldest quarter is forgotten. */
function contextBegin(begin, length, size) {
  return length - begin > size ? length - Math.max(1, size - Math.floor(size / 4)) : begin;
}

function logSoftmax(logits) {
  let max = -Infinity;
  for (const logit of logits) if (logit > max) max = logit;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  const shift = max + Math.log(sum);
  const logprobs = new Float64Array(logits);
  for (let id = 0; id < logprobs.length; id++) logprobs[id] -= shift;
  return logprobs;
}

/** The TOP likeliest tokens, [id, logprob], the likeliest first. */
function likeliest(logprobs) {
  const top = [];
  let lowest = -Infinity; // of a full list
  for (let id = 0; id < logprobs.length; id++) {
    const logprob = logprobs[id];
    if (top.length === TOP && !(logprob > lowest)) continue;
    let at = top.length;
    while (at > 0 && top[at - 1][1] < logprob) at--;
    top.splice(at, 0, [id, logprob]);
    if (top.length > TOP) top.pop();
    if (top.length === TOP) lowest = top[TOP - 1][1];
  }
  return top;
}
