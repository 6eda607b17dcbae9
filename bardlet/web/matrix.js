// Matrices in one stretch of memory, and their product with a vector: by WebAssembly SIMD where the
// browser has it, else by the same loops in JavaScript.
//
// Rows are padded with zeros to a multiple of four floats, or eight bytes, and their number to a
// multiple of four. Vectors have the same room; what is behind their end is zero.

import { simdProducts } from "./wasm.js";

const PAGE = 65536;
export const padded = (n, to = 4) => Math.ceil(n / to) * to;

/** Memory that is handed out once, with the products that work in it. Addresses are in bytes. */
export class Arena {
  /** `bytes` is all that will be allocated; 16 are added for each allocation by `sizeOf`. */
  constructor(bytes, simd = true) {
    this.end = 0;
    this.simd = null;
    try {
      if (simd && typeof WebAssembly === "object") {
        const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE) + 1 });
        this.simd = simdProducts(memory);
        this.buffer = memory.buffer;
      }
      if (this.simd === null) this.buffer = new ArrayBuffer(padded(bytes, PAGE));
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      const size = Math.ceil(bytes / 1e6);
      throw new Error(`This model needs ${size} MB of memory, more than the browser gives it here.`);
    }
    this.floats = new Float32Array(this.buffer);
    this.bytes = new Int8Array(this.buffer);
    this.shorts = new Int16Array(this.buffer);
  }

  allocate(bytes) {
    const at = this.end;
    this.end += padded(bytes, 16);
    if (this.end > this.buffer.byteLength) throw new Error("the arena is too small");
    return at;
  }

  /** A vector of `n` zeros with the room that products need. */
  vector(n) {
    return this.allocate(4 * padded(n, 8));
  }

  /** The floats of a vector, as a view. */
  view(at, n) {
    return this.floats.subarray(at >> 2, (at >> 2) + n);
  }

  /** y = w x: `rows` rows of `size` bytes of floats, every `stride` bytes. */
  product(w, x, y, rows, size, stride) {
    if (this.simd) this.simd.floatProduct(w, x, y, rows, size, stride);
    else plainProduct(this.floats, w >> 2, x >> 2, y >> 2, rows, size >> 2, stride >> 2);
  }
}

/** The product in JavaScript; indices and sizes count floats. Four rows at once load x once. */
function plainProduct(f, w, x, y, rows, cols, stride) {
  for (let row = 0; row < rows; row += 4, w += 4 * stride) {
    const w1 = w + stride, w2 = w1 + stride, w3 = w2 + stride;
    let a = 0, b = 0, c = 0, d = 0;
    for (let i = 0; i < cols; i++) {
      const value = f[x + i];
      a += f[w + i] * value;
      b += f[w1 + i] * value;
      c += f[w2 + i] * value;
      d += f[w3 + i] * value;
    }
    f[y + row] = a;
    f[y + row + 1] = b;
    f[y + row + 2] = c;
    f[y + row + 3] = d;
  }
}

/** A matrix of weights: of floats, or of bytes with a scale for each row. */
export class Matrix {
  /** `tensor` is one of `readTensors`. Bytes stay bytes only where SIMD multiplies them. */
  constructor(arena, tensor) {
    const { rows, cols } = tensor;
    const { values, scales } = tensor.read();
    Object.assign(this, { arena, rows, cols, room: padded(rows) });
    this.quantized = scales !== undefined && arena.simd !== null;
    this.size = this.quantized ? padded(cols, 8) : 4 * padded(cols); // bytes of a row
    this.at = arena.allocate(this.room * this.size);
    if (this.quantized) {
      for (let i = 0; i < rows; i++) {
        arena.bytes.set(values.subarray(i * cols, (i + 1) * cols), this.at + i * this.size);
      }
      this.scales = arena.vector(rows);
      arena.view(this.scales, rows).set(scales);
      this.shorts = arena.allocate(2 * this.size); // x as integers
      // as many steps as no sum of 32 bits overflows with, in any of its four lanes
      this.steps = Math.min(32767, Math.floor((2 ** 31 - 1) / (127 * 2 * (this.size / 8))));
    } else {
      for (let i = 0; i < rows; i++) {
        const row = arena.view(this.at + i * this.size, cols);
        row.set(values.subarray(i * cols, (i + 1) * cols));
        if (scales !== undefined) for (let j = 0; j < cols; j++) row[j] *= scales[i];
      }
    }
  }

  /** How many bytes of an arena a matrix of this tensor takes at most. */
  static sizeOf({ rows, cols, dtype }, simd) {
    const size = dtype === "int8" && simd ? padded(cols, 8) : 4 * padded(cols);
    return padded(rows) * size + 4 * padded(rows, 8) + 2 * size + 64;
  }

  /** y = this matrix times x, both addresses of vectors. */
  apply(x, y) {
    const { arena, at, room, size } = this;
    if (!this.quantized) return arena.product(at, x, y, room, size, size);
    const { floats, shorts } = arena;
    const from = x >> 2, to = this.shorts >> 1;
    let largest = 0;
    for (let i = 0; i < this.cols; i++) {
      const value = Math.abs(floats[from + i]);
      if (value > largest) largest = value;
    }
    const perUnit = largest > 0 ? this.steps / largest : 0;
    for (let i = 0; i < this.cols; i++) shorts[to + i] = Math.round(floats[from + i] * perUnit);
    arena.simd.byteProduct(at, this.shorts, y, room, size, this.scales, largest / this.steps);
  }

  /** Put row `i` at the address of a vector. */
  copyRow(i, to) {
    const { floats, bytes } = this.arena;
    const out = to >> 2;
    if (!this.quantized) {
      const from = (this.at + i * this.size) >> 2;
      floats.copyWithin(out, from, from + this.cols);
      return;
    }
    const from = this.at + i * this.size, scale = floats[(this.scales >> 2) + i];
    for (let j = 0; j < this.cols; j++) floats[out + j] = bytes[from + j] * scale;
  }
}

/**
 * The tensors of a page by name, each {rows, cols, dtype, read}; `read` gives the values, floats or
 * bytes, and of bytes the scale of each row. `table` says what stands in `bytes`, one after
 * another, as interop/html writes it. Throws an Error with a plain sentence where the two do not
 * fit each other.
 */
export function readTensors(table, bytes) {
  const tensors = new Map();
  let end = 0;
  for (const { name, rows, cols, dtype } of table) {
    const count = rows * cols, at = end;
    end += dtype === "int8" ? count + 4 * rows : dtype === "float16" ? 2 * count : 4 * count;
    const take = (from, to) => bytes.slice(at + from, at + to);
    const read = () => {
      if (dtype === "float16") return { values: float16(take(0, 2 * count)) };
      if (dtype === "float32") return { values: float32(take(0, 4 * count)) };
      const values = new Int8Array(take(0, count).buffer);
      return { values, scales: float32(take(count, count + 4 * rows)) };
    };
    tensors.set(name, { rows, cols, dtype, read });
  }
  if (end !== bytes.length) throw new Error("This file is damaged: weights are missing.");
  return tensors;
}

/** Floats of which all lowest bytes come first, then all second ones, and so on. */
function float32(planes) {
  const n = planes.length / 4;
  const bits = new Uint32Array(n);
  for (let i = 0; i < n; i++) {
    bits[i] = planes[i] | (planes[n + i] << 8) | (planes[2 * n + i] << 16) | (planes[3 * n + i] << 24);
  }
  return new Float32Array(bits.buffer);
}

/** The same of floats of 16 bits. */
function float16(planes) {
  const n = planes.length / 2;
  const values = new Float32Array(n);
  for (let i = 0; i < n; i++) values[i] = halves()[planes[i] | (planes[n + i] << 8)];
  return values;
}

let table = null;

/** The value of each of the 65,536 floats of 16 bits. */
function halves() {
  if (table === null) {
    table = Float32Array.from({ length: 65536 }, (_, bits) => {
      const exponent = (bits >> 10) & 31, fraction = bits & 1023;
      const sign = bits & 0x8000 ? -1 : 1;
      if (exponent === 31) return fraction ? NaN : sign * Infinity;
      if (exponent === 0) return sign * fraction * 2 ** -24;
      return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
    });
  }
  return table;
}
