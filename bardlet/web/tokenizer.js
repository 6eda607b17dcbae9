// Text to token ids and back, as bardlet/data/tokenizers does: characters, bytes, byte-level BPE.

const UTF8 = new TextEncoder();

/** The tokenizer that a page describes, see interop/html/tokenizer.py. */
export function tokenizer(described) {
  if (described.kind === "char") return new CharTokenizer(described);
  return new ByteLevelTokenizer(described);
}

/** What tokenizers share: tokens are bytes, and text is what all bytes together say. */
class Tokens {
  /**
   * `tokens` are the bytes of every token, by id; `end` is the id that ends a text, or null;
   * `special` are all ids that no text is encoded to.
   */
  constructor(tokens, end, special) {
    this.tokens = tokens;
    this.end = end;
    this.special = special;
  }

  /** The text of ids; bytes that are not UTF-8 become U+FFFD. */
  decode(ids) {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.bytes(ids));
  }

  bytes(ids) {
    const parts = ids.map((id) => this.tokens[id] ?? []);
    const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }

  /** The text of each token alone, or its bytes as \xNN where they are not whole characters. */
  pieces(ids) {
    return ids.map((id) => shown(this.tokens[id] ?? []));
  }
}

function shown(bytes) {
  try {
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    return decoder.decode(Uint8Array.from(bytes));
  } catch {
    return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  }
}

class CharTokenizer extends Tokens {
  /** `points` are the code points of the alphabet by id; two more ids may follow. */
  constructor({ points, unknown, ends, end, special }) {
    const extra = [...(unknown ? ["<unk>"] : []), ...(ends ? ["<|endoftext|>"] : [])];
    const tokens = [...points.map(bytesOf), ...extra.map((name) => UTF8.encode(name))];
    super(tokens, end, special);
    this.points = points;
    this.ids = new Map(points.map((point, id) => [point, id]));
    this.unknown = unknown ? points.length : undefined;
  }

  encode(text) {
    let position = 0;
    return Array.from(text, (char) => {
      const id = this.ids.get(char.codePointAt(0)) ?? this.unknown;
      if (id === undefined) {
        const shownChar = JSON.stringify(char);
        throw new Error(`The character ${shownChar} at position ${position} is not in the alphabet.`);
      }
      position += 1;
      return id;
    });
  }

  decode(ids) {
    if (this.tokens.length > this.points.length) return super.decode(ids);
    return ids.map((id) => String.fromCodePoint(this.points[id])).join("");
  }
}

/** The UTF-8 of a code point; half a surrogate pair is encoded as if it were a character. */
function bytesOf(point) {
  if (point < 0xd800 || point > 0xdfff) return UTF8.encode(String.fromCodePoint(point));
  return Uint8Array.of(0xed, 0x80 | ((point >> 6) & 63), 0x80 | (point & 63));
}

/** Bytes, merged by rank within words; without merges every byte is a token. */
class ByteLevelTokenizer extends Tokens {
  /**
   * `spelt` are the tokens in the alphabet that GPT-2 spells bytes in, by id, null for none; `own`
   * are those that stand as plain text, [id, text, whether it stands for itself in a text].
   * `merges` are pairs of ids, the first to be merged first, one after another. `patterns` split a
   * text into words, one after another.
   */
  constructor({ spelt, own, merges, patterns, normalize, whole_words, end, special }) {
    const byteOf = new Map(alphabet().map((char, byte) => [char, byte]));
    const tokens = spelt.map((token) => Array.from(token ?? "", (char) => byteOf.get(char)));
    for (const [id, text] of own) tokens[id] = [...UTF8.encode(text)];
    super(tokens, end, special);
    const ids = new Map(spelt.map((token, id) => [token, id]));
    this.idOfByte = alphabet().map((char) => ids.get(char));
    this.ranks = new Map();
    for (let i = 0; i < merges.length; i += 2) {
      const merged = ids.get(spelt[merges[i]] + spelt[merges[i + 1]]);
      this.ranks.set(this.pair(merges[i], merges[i + 1]), [i, merged]);
    }
    this.patterns = patterns.map(javascriptPattern);
    this.normalize = normalize;
    this.wholeWords = whole_words ? new Map(tokens.map((t, id) => [String.fromCharCode(...t), id])) : null;
    const inText = own.filter(([, , plain]) => plain);
    this.inText = new Map(inText.map(([id, text]) => [text, id]));
    const longest = [...this.inText.keys()].sort((a, b) => b.length - a.length);
    this.split = longest.length ? new RegExp(`(${longest.map(escaped).join("|")})`, "u") : null;
    this.words = new Map(); // ids of words that were encoded before
  }

  pair(left, right) {
    return left * 0x800000 + right;
  }

  encode(text) {
    const half = /\p{Surrogate}/u.exec(text);
    if (half !== null) {
      const position = [...text.slice(0, half.index)].length;
      throw new Error(`Position ${position} of the text is a lone surrogate, not a character.`);
    }
    const ids = [];
    for (const part of this.split ? text.split(this.split) : [text]) {
      const own = this.inText.get(part);
      if (own !== undefined) ids.push(own);
      else for (const word of this.wordsOf(part)) for (const id of this.idsOf(word)) ids.push(id);
    }
    return ids;
  }

  wordsOf(text) {
    let parts = [this.normalize ? text.normalize(this.normalize) : text];
    for (const pattern of this.patterns) parts = parts.flatMap((part) => isolated(part, pattern));
    return parts.filter((part) => part !== "");
  }

  idsOf(word) {
    let ids = this.words.get(word);
    if (ids === undefined) {
      const bytes = UTF8.encode(word);
      const whole = this.wholeWords?.get(String.fromCharCode(...bytes.subarray(0, 1000)));
      if (whole !== undefined && bytes.length < 1000) ids = [whole];
      else ids = this.merged([...bytes].map((b) => this.idOfByte[b]).filter((id) => id !== undefined));
      if (this.words.size > 100_000) this.words.clear();
      this.words.set(word, ids);
    }
    return ids;
  }

  /** Merge neighbours, the pair of the lowest rank first, and of equal ones the leftmost. */
  merged(ids) {
    const next = ids.map((_, i) => i + 1), before = ids.map((_, i) => i - 1);
    const heap = new Heap();
    const offer = (left) => {
      const right = next[left];
      const rank = right < ids.length ? this.ranks.get(this.pair(ids[left], ids[right])) : undefined;
      if (rank !== undefined) heap.push([rank[0], left, ids[left], ids[right], rank[1]]);
    };
    for (let i = 0; i + 1 < ids.length; i++) offer(i);
    for (let top = heap.pop(); top !== undefined; top = heap.pop()) {
      const [, left, first, second, merged] = top;
      const right = next[left];
      // stale where one of the two has been merged with another since
      if (ids[left] !== first || right >= ids.length || ids[right] !== second) continue;
      ids[left] = merged;
      ids[right] = -1;
      next[left] = next[right];
      if (next[left] < ids.length) before[next[left]] = left;
      offer(left);
      if (before[left] >= 0) offer(before[left]);
    }
    return ids.filter((id) => id >= 0);
  }
}

/** Rows of numbers, the smallest by their first two first. */
class Heap {
  constructor() {
    this.rows = [];
  }

  push(row) {
    const { rows } = this;
    let i = rows.length;
    for (rows.push(row); i > 0 && before(row, rows[(i - 1) >> 1]); i = (i - 1) >> 1) {
      rows[i] = rows[(i - 1) >> 1];
    }
    rows[i] = row;
  }

  pop() {
    const { rows } = this;
    const top = rows[0], row = rows.pop();
    if (rows.length === 0) return top;
    let i = 0;
    for (let child = 1; child < rows.length; child = 2 * i + 1) {
      if (child + 1 < rows.length && before(rows[child + 1], rows[child])) child += 1;
      if (!before(rows[child], row)) break;
      rows[i] = rows[child];
      i = child;
    }
    rows[i] = row;
    return top;
  }
}

const before = (a, b) => a[0] < b[0] || (a[0] === b[0] && a[1] < b[1]);

/** The parts of a text that a pattern matches, and those between them, in order. */
function isolated(text, pattern) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    parts.push(text.slice(end, match.index), match[0]);
    end = match.index + match[0].length;
  }
  parts.push(text.slice(end));
  return parts.filter((part) => part !== "");
}

/**
 * A pattern of a tokenizer.json as JavaScript has it. Possessive repetitions are greedy here: in the
 * patterns of vocabularies nothing after them could match what they have taken. Spaces are
 * Unicode's, which are not JavaScript's. Letters of either case are spelt out.
 */
export function javascriptPattern(pattern) {
  const anyCase = (text) =>
    text.replace(/[a-z]/g, (c) => (c === "s" ? "[sS\u017f]" : c === "k" ? "[kK\u212a]" : `[${c}${c.toUpperCase()}]`));
  const source = pattern
    .replace(/\(\?i:([^()]*)\)/g, (_, inside) => `(?:${anyCase(inside)})`)
    .replace(/(\\.)|([+*?])\+/gs, (_, escape, repeat) => escape ?? repeat)
    .replace(/\\s/g, "\\p{White_Space}")
    .replace(/\\S/g, "\\P{White_Space}");
  return new RegExp(source, "gu");
}

const escaped = (text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");

/** The characters that spell the 256 bytes, see bardlet/data/tokenizers/byte_tokens.py. */
function alphabet() {
  let other = 0x100;
  const plain = (b) => (b >= 0x21 && b < 0x7f) || (b >= 0xa1 && b < 0xad) || b >= 0xae;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(plain(b) ? b : other++));
}
