// Two products of a matrix and a vector in WebAssembly SIMD, written by hand: the bytes of a module
// are put together here, an instruction a name, as its text form would have them.
//
// All addresses and strides are in bytes. Rows come in fours, so that four sums run at once and the
// vector is loaded once for them; callers pad matrices with zeros.

const I32 = 0x7f, F32 = 0x7d, V128 = 0x7b;

// scalar instructions
const get = (local) => [0x20, local];
const set = (local) => [0x21, local];
const int = (value) => [0x41, ...signed(value)];
const add = [0x6a], sub = [0x6b], lessThan = [0x49], moreThan = [0x4a];
const loop = (...body) => [0x03, 0x40, body, 0x0b]; // runs again where `again` is reached
const again = [0x0d, 0]; // if the value before it is not zero

// vector instructions: four floats, four integers of 32 bits or eight of 16
const load = [0xfd, 0x00, 0, 0], load8As16 = [0xfd, 0x01, 0, 0], store = [0xfd, 0x0b, 0, 0];
const zero = [0xfd, 0x0c, Array(16).fill(0)];
const splat = [0xfd, 0x13];
const addFloats = [0xfd, 0xe4, 0x01], multiplyFloats = [0xfd, 0xe6, 0x01];
const addInts = [0xfd, 0xae, 0x01], toFloats = [0xfd, 0xfa, 0x01];
const multiplyPairs = [0xfd, 0xba, 0x01]; // of 16 bits, each two products added
/** Four lanes out of the eight of two vectors. */
const pick = (...lanes) => [0xfd, 0x0d, lanes.map((i) => [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3])];

/** Sums of the four lanes of each of four vectors, as one vector. */
function sums([a, b, c, d], pair) {
  const halves = (one, other) => [
    get(one), get(other), pick(0, 4, 1, 5), get(one), get(other), pick(2, 6, 3, 7), addFloats,
  ];
  return [
    halves(a, b), set(a), halves(c, d), set(pair),
    get(a), get(pair), pick(0, 1, 4, 5), get(a), get(pair), pick(2, 3, 6, 7), addFloats,
  ];
}

/** Set the addresses of the second to fourth row behind the first's. */
const setRows = (rows, stride) =>
  [1, 2, 3].map((i) => [get(rows[i - 1]), get(stride), add, set(rows[i])]);

/** y = w x: `rows` rows of `size` bytes of floats, every `stride` bytes. */
function floatProduct() {
  const [w, x, y, rows, size, stride, place, w1, w2, w3, a, b, c, d, vector] = Array(15).keys();
  const accumulate = (acc, row) => [
    get(acc), get([w, w1, w2, w3][row]), get(place), add, load, get(vector), multiplyFloats, addFloats,
    set(acc),
  ];
  return {
    parameters: [I32, I32, I32, I32, I32, I32],
    locals: [[4, I32], [5, V128]],
    body: loop(
      setRows([w, w1, w2, w3], stride),
      [a, b, c, d].map((acc) => [zero, set(acc)]), int(0), set(place),
      loop(
        get(x), get(place), add, load, set(vector),
        [a, b, c, d].map(accumulate),
        get(place), int(16), add, set(place), get(place), get(size), lessThan, again,
      ),
      get(y), sums([a, b, c, d], vector), store,
      nextRows([w, w3, y, rows, stride]),
    ),
  };
}

/** y = w x of bytes: x of 16-bit integers times `unit`, rows times their floats at `scale`. */
function byteProduct() {
  const [w, x, y, rows, size, scale, unit, place, w1, w2, w3, a, b, c, d, vector] =
    Array(16).keys();
  const accumulate = (acc, row) => [
    get(acc), get([w, w1, w2, w3][row]), get(place), add, load8As16, get(vector), multiplyPairs, addInts,
    set(acc),
  ];
  return {
    parameters: [I32, I32, I32, I32, I32, I32, F32],
    locals: [[4, I32], [5, V128]],
    body: loop(
      setRows([w, w1, w2, w3], size),
      [a, b, c, d].map((acc) => [zero, set(acc)]), int(0), set(place),
      loop(
        get(x), get(place), add, get(place), add, load, set(vector),
        [a, b, c, d].map(accumulate),
        get(place), int(8), add, set(place), get(place), get(size), lessThan, again,
      ),
      [a, b, c, d].map((acc) => [get(acc), toFloats, set(acc)]),
      get(y), sums([a, b, c, d], vector),
      get(scale), load, get(unit), splat, multiplyFloats, multiplyFloats, store,
      get(scale), int(16), add, set(scale),
      nextRows([w, w3, y, rows, size]),
    ),
  };
}

/** Move on by four rows, and begin the loop again while there are any. */
const nextRows = ([w, w3, y, rows, stride]) => [
  get(w3), get(stride), add, set(w), get(y), int(16), add, set(y),
  get(rows), int(4), sub, set(rows), get(rows), int(0), moreThan, again,
];

function unsigned(value) {
  const bytes = [];
  do {
    bytes.push((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
    value >>>= 7;
  } while (value > 0);
  return bytes;
}

function signed(value) { // of -64 to 63, which one byte holds
  return [value & 0x7f];
}

const vector = (items) => [...unsigned(items.length), ...items.flat(Infinity)];
const text = (name) => vector([...name].map((letter) => letter.charCodeAt(0)));
const section = (id, items) => {
  const content = vector(items);
  return [id, ...unsigned(content.length), ...content];
};

/** The bytes of the module: it imports `m.memory` and exports floatProduct and byteProduct. */
export function moduleBytes() {
  const functions = [floatProduct(), byteProduct()];
  return new Uint8Array([
    0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0, // "\0asm", version 1
    ...section(1, functions.map(({ parameters }) => [0x60, vector(parameters), 0])),
    ...section(2, [[text("m"), text("memory"), 2, 0, 1]]),
    ...section(3, functions.map((_, i) => i)),
    ...section(7, ["floatProduct", "byteProduct"].map((name, i) => [text(name), 0, i])),
    ...section(10, functions.map(({ locals, body }) => {
      const code = [...vector(locals), ...[body].flat(Infinity), 0x0b];
      return [...unsigned(code.length), ...code];
    })),
  ]);
}

/** The products over a WebAssembly.Memory; null where the browser has no SIMD, or forbids it. */
export function simdProducts(memory) {
  try {
    const module = new WebAssembly.Module(moduleBytes());
    return new WebAssembly.Instance(module, { m: { memory } }).exports;
  } catch {
    return null;
  }
}
