// The GPT of model.py, a token at a time with its KV cache: both families, in float32.
//
// Nothing is allocated in a step. Letters as in model.py: C n_embd, H heads, K key-value heads,
// D head size, F width of the MLP, V vocabulary.

import { Arena, Matrix, padded } from "./matrix.js";

export class GPT {
  /**
   * `config` has the fields of GPTConfig and what it derives: head_size, kv_heads, mlp_size.
   * `tensors` are those of readTensors, by the names of the model's parameters. `simd` false
   * computes in JavaScript alone. Each of the `caches` holds a context of its own.
   */
  constructor(config, tensors, { simd = true, caches = 1 } = {}) {
    this.config = config;
    this.llama = config.family === "llama";
    const { n_embd: C, n_layer, n_head: H, kv_heads: K, head_size: D, mlp_size: F } = config;
    const size = config.block_size, V = config.vocab_size;
    this.group = H / K;
    this.headRoom = padded(D);
    this.sizeRoom = padded(size);
    const weights = [...tensors.values()].reduce((sum, t) => sum + Matrix.sizeOf(t, simd), 0);
    const cacheBytes = K * this.headRoom * this.sizeRoom * 4; // of a layer's keys, or its values
    const cache = caches * 2 * n_layer * cacheBytes;
    const widths = [C, C, C, (H + 2 * K) * D, H * this.headRoom + 8, 2 * F, F, this.headRoom, size, V];
    const vectors = widths.reduce((sum, width) => sum + 4 * padded(width, 8) + 16, 0);
    const arena = new Arena(weights + cache + vectors + 4096, simd);
    this.arena = arena;
    const matrix = (name) => {
      const tensor = tensors.get(name);
      if (tensor === undefined) throw new Error(`This file is damaged: it has no ${name}.`);
      return new Matrix(arena, tensor);
    };
    const vector = (name) => tensors.get(name)?.read().values ?? null;
    const norm = (name) => [vector(`${name}.weight`), vector(`${name}.bias`)];
    this.wte = matrix("transformer.wte.weight");
    this.wpe = this.llama ? null : matrix("transformer.wpe.weight");
    this.head = tensors.has("lm_head.weight") ? matrix("lm_head.weight") : this.wte;
    this.norm = norm("transformer.ln_f");
    this.layers = Array.from({ length: n_layer }, (_, i) => {
      const at = `transformer.h.${i}`;
      return {
        norm1: norm(`${at}.ln_1`), norm2: norm(`${at}.ln_2`),
        qkv: matrix(`${at}.attn.c_attn.weight`), qkvBias: vector(`${at}.attn.c_attn.bias`),
        out: matrix(`${at}.attn.c_proj.weight`), outBias: vector(`${at}.attn.c_proj.bias`),
        qNorm: vector(`${at}.attn.q_norm.weight`), kNorm: vector(`${at}.attn.k_norm.weight`),
        wide: matrix(`${at}.mlp.c_fc.weight`), wideBias: vector(`${at}.mlp.c_fc.bias`),
        narrow: matrix(`${at}.mlp.c_proj.weight`), narrowBias: vector(`${at}.mlp.c_proj.bias`),
        // keys a row each; values a column each, so that both products run along rows
        keys: Array.from({ length: caches }, () => arena.allocate(cacheBytes)),
        values: Array.from({ length: caches }, () => arena.allocate(cacheBytes)),
      };
    });
    this.rotary = this.llama ? rotaryTable(config) : null;
    const at = (n) => arena.vector(n);
    [this.x, this.h, this.y] = [at(C), at(C), at(C)];
    [this.qkv, this.mixed] = [at((H + 2 * K) * D), at(H * this.headRoom + 8)];
    [this.wide, this.hidden] = [at((1 + this.llama) * F), at(F)];
    [this.query, this.scores, this.logitsAt] = [at(this.headRoom), at(size), at(V)];
    this.attention = null; // where set: the weights of the step's query, (layer, head, block_size)
  }

  /** Take in token `id` at `position` of a context, whose cache holds the tokens before it. */
  step(id, position, cache = 0) {
    const { arena, x, h, y } = this;
    const C = this.config.n_embd;
    this.wte.copyRow(id, x);
    if (this.wpe !== null) {
      this.wpe.copyRow(position, y);
      addTo(arena.floats, x, y, C, null);
    }
    for (let i = 0; i < this.layers.length; i++) {
      const layer = this.layers[i];
      this.normalize(x, h, layer.norm1);
      layer.qkv.apply(h, this.qkv);
      if (layer.qkvBias !== null) addVector(arena.floats, this.qkv, layer.qkvBias);
      this.attend(layer, i, position, cache);
      layer.out.apply(this.mixed, y);
      addTo(arena.floats, x, y, C, layer.outBias);
      this.normalize(x, h, layer.norm2);
      layer.wide.apply(h, this.wide);
      if (layer.wideBias !== null) addVector(arena.floats, this.wide, layer.wideBias);
      this.activate();
      layer.narrow.apply(this.hidden, y);
      addTo(arena.floats, x, y, C, layer.narrowBias);
    }
  }

  /** Logits of the token after the last step: a view of V floats that the next step changes. */
  logits() {
    this.normalize(this.x, this.h, this.norm);
    this.head.apply(this.h, this.logitsAt);
    return this.arena.view(this.logitsAt, this.config.vocab_size);
  }

  /** to = norm(from) * weight (+ bias): LayerNorm for gpt2, RMSNorm for llama. */
  normalize(from, to, [weight, bias]) {
    const f = this.arena.floats, C = this.config.n_embd;
    from >>= 2;
    to >>= 2;
    let mean = 0;
    if (!this.llama) {
      for (let i = 0; i < C; i++) mean += f[from + i];
      mean /= C;
    }
    let square = 0;
    for (let i = 0; i < C; i++) square += (f[from + i] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / C + this.config.norm_eps);
    for (let i = 0; i < C; i++) f[to + i] = (f[from + i] - mean) * scale * weight[i];
    if (bias !== null) for (let i = 0; i < C; i++) f[to + i] += bias[i];
  }

  /** Attention of the newest position over all so far: from qkv into mixed, through the cache. */
  attend(layer, index, position, cache) {
    const { arena, config, headRoom, sizeRoom, group, query, scores } = this;
    const { n_head: H, kv_heads: K, head_size: D } = config;
    const f = arena.floats, qkv = this.qkv >> 2;
    const length = position + 1, room = padded(length);
    const plane = sizeRoom * headRoom * 4; // bytes of one head in the cache
    const keys = layer.keys[cache], values = layer.values[cache];
    for (let k = 0; k < K; k++) {
      const row = (keys + k * plane + position * headRoom * 4) >> 2;
      this.turn(qkv + (H + k) * D, row, layer.kNorm, position, 1);
      const column = (values + k * plane) >> 2, from = qkv + (H + K + k) * D;
      for (let i = 0; i < D; i++) f[column + i * sizeRoom + position] = f[from + i];
    }
    for (let h = 0; h < H; h++) {
      const k = Math.floor(h / group);
      this.turn(qkv + h * D, query >> 2, layer.qNorm, position, 1 / Math.sqrt(D));
      arena.product(keys + k * plane, query, scores, room, headRoom * 4, headRoom * 4);
      softmax(f, scores >> 2, length, room);
      if (this.attention !== null) {
        const to = (index * H + h) * config.block_size;
        for (let i = 0; i < length; i++) this.attention[to + i] = f[(scores >> 2) + i];
      }
      // a head's padding is overwritten by the next one; that of the last is behind the vector
      const out = this.mixed + h * D * 4;
      arena.product(values + k * plane, scores, out, headRoom, room * 4, sizeRoom * 4);
    }
  }

  /** Copy a head's D numbers from index to index: normed, rotated to its position, and scaled. */
  turn(from, to, weight, position, scale) {
    const f = this.arena.floats, D = this.config.head_size;
    if (weight !== null) {
      let square = 0;
      for (let i = 0; i < D; i++) square += f[from + i] ** 2;
      const norm = 1 / Math.sqrt(square / D + this.config.norm_eps);
      for (let i = 0; i < D; i++) f[from + i] *= norm * weight[i];
    }
    if (this.rotary === null) {
      for (let i = 0; i < D; i++) f[to + i] = f[from + i] * scale;
      return;
    }
    const half = D / 2, { cos, sin } = this.rotary;
    const angle = position * half;
    for (let i = 0; i < half; i++) {
      const a = f[from + i], b = f[from + half + i];
      f[to + i] = (a * cos[angle + i] - b * sin[angle + i]) * scale;
      f[to + half + i] = (b * cos[angle + i] + a * sin[angle + i]) * scale;
    }
  }

  /** hidden = silu(gate) * up for llama, gelu for gpt2, of what is in wide. */
  activate() {
    const f = this.arena.floats, F = this.config.mlp_size;
    const wide = this.wide >> 2, hidden = this.hidden >> 2;
    if (this.llama) {
      for (let i = 0; i < F; i++) {
        const gate = f[wide + i];
        f[hidden + i] = (gate / (1 + Math.exp(-gate))) * f[wide + F + i];
      }
    } else if (this.config.gelu_approximate === "tanh") {
      for (let i = 0; i < F; i++) {
        const x = f[wide + i];
        f[hidden + i] = 0.5 * x * (1 + Math.tanh(0.7978845608028654 * (x + 0.044715 * x ** 3)));
      }
    } else {
      for (let i = 0; i < F; i++) {
        const x = f[wide + i];
        f[hidden + i] = 0.5 * x * (1 + erf(x * Math.SQRT1_2));
      }
    }
  }
}

/** Cosines and sines of the angles of all positions, rounded to float32 where torch rounds. */
function rotaryTable({ head_size: D, block_size, rope_theta }) {
  const half = D / 2;
  const cos = new Float32Array(block_size * half), sin = new Float32Array(block_size * half);
  for (let i = 0; i < half; i++) {
    const frequency = Math.fround(rope_theta ** Math.fround((-2 * i) / D));
    for (let position = 0; position < block_size; position++) {
      const angle = Math.fround(position * frequency);
      cos[position * half + i] = Math.cos(angle);
      sin[position * half + i] = Math.sin(angle);
    }
  }
  return { cos, sin };
}

/** Softmax in place of n numbers from index `at`; those up to `room` become zero. */
function softmax(f, at, n, room) {
  let largest = -Infinity;
  for (let i = at; i < at + n; i++) if (f[i] > largest) largest = f[i];
  let sum = 0;
  for (let i = at; i < at + n; i++) {
    const share = Math.exp(f[i] - largest);
    f[i] = share;
    sum += share;
  }
  const scale = 1 / sum;
  for (let i = at; i < at + n; i++) f[i] *= scale;
  for (let i = at + n; i < at + room; i++) f[i] = 0;
}

/** x += y (+ bias), both addresses. */
function addTo(f, x, y, n, bias) {
  x >>= 2;
  y >>= 2;
  if (bias === null) for (let i = 0; i < n; i++) f[x + i] += f[y + i];
  else for (let i = 0; i < n; i++) f[x + i] += f[y + i] + bias[i];
}

function addVector(f, x, bias) {
  x >>= 2;
  for (let i = 0; i < bias.length; i++) f[x + i] += bias[i];
}

/** The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26). */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum =
    t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  const y = 1 - sum * Math.exp(-x * x);
  return x < 0 ? -y : y;
}
