// What the training text says of a context: the counts of bardlet/analysis/evidence.py, by a suffix
// array that is built here. The text is the bytes of its tokens.

const BORDER = 0xff; // between documents; no text in UTF-8 has this byte
const LONGEST = 6; // tokens of context of the n-gram table
const LOOKED_AT = 1024; // bytes of a context, at most
const LETTER = /[\p{L}\p{N}_]/u;
// of scripts whose words have no spaces between them
const UNSPACED =
  /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}\p{sc=Tibetan}]/u;
const KINDS = 2000, TOP = 20, PLACES = 4, SNIPPET = 48;

/** Text out of the bytes of tokens, with its suffixes in order. */
class SplitText {
  /** `ids` are the tokens of the text, a typed array; `pieces` the bytes of each token. */
  constructor(ids, pieces) {
    let size = 0;
    for (const id of ids) size += pieces[id].length;
    this.bytes = new Uint8Array(size);
    this.tokenAt = new Int32Array(size + 1).fill(-1); // the token that begins at each byte
    let at = 0;
    for (const id of ids) {
      const piece = pieces[id];
      if (piece.length === 0) continue;
      this.bytes.set(piece, at);
      this.tokenAt[at] = id;
      at += piece.length;
    }
    this.suffixes = suffixArray(this.bytes);
    this.inWord = letters(this.bytes);
    this.kinds = pieces.length;
  }

  /** The range of suffixes that begin with a pattern. */
  range(pattern) {
    return [this.bound(pattern, false), this.bound(pattern, true)];
  }

  /** How many suffixes come before those that begin with a pattern; with `upper`, these too. */
  bound(pattern, upper) {
    let low = 0, high = this.suffixes.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const order = this.compare(this.suffixes[middle], pattern);
      if (order < 0 || (upper && order === 0)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** How the text at a place is ordered to a pattern: negative before it, 0 where it stands. */
  compare(at, pattern) {
    const { bytes } = this;
    for (let i = 0; i < pattern.length; i++) {
      if (at + i >= bytes.length) return -1;
      const difference = bytes[at + i] - pattern[i];
      if (difference !== 0) return difference;
    }
    return 0;
  }

  /** How often each token follows a pattern of `size` bytes, (V,); none does within a token. */
  next(from, to, size) {
    const counts = new Int32Array(this.kinds);
    for (let i = from; i < to; i++) {
      const id = this.tokenAt[this.suffixes[i] + size];
      if (id >= 0) counts[id] += 1;
    }
    return counts;
  }

  /** What stands around some of the places, from the beginning of the text to its end. */
  snippets(from, to, size) {
    const places = this.suffixes.slice(from, to).sort();
    const n = Math.min(PLACES, places.length);
    const picked = new Set();
    for (let i = 0; i < n; i++) {
      picked.add(n === 1 ? 0 : Math.floor((i * (places.length - 1)) / (n - 1)));
    }
    return [...picked].map((i) => this.snippet(places[i], size));
  }

  snippet(place, size) {
    const { bytes } = this, end = place + size, reach = 4 * SNIPPET;
    const before = bytes.subarray(Math.max(0, place - reach), place);
    const after = bytes.subarray(end, end + reach);
    const border = after.indexOf(BORDER);
    return {
      place, match: text(bytes.subarray(place, end)),
      before: characters(before.subarray(before.lastIndexOf(BORDER) + 1)).slice(-SNIPPET).join(""),
      after: characters(border < 0 ? after : after.subarray(0, border)).slice(0, SNIPPET).join(""),
    };
  }

  /** How often a word stands where no other letter is before or behind it. */
  wholeWords(word) {
    const [from, to] = this.range(word);
    let count = 0;
    for (let i = from; i < to; i++) {
      const at = this.suffixes[i];
      if (!this.inWord[at] && !this.inWord[at + word.length + 1]) count += 1;
    }
    return count;
  }
}

export class Evidence {
  /** `splits` are the tokens of the training text, and those of texts that were kept apart. */
  constructor(splits, tokenizer) {
    this.pieces = tokenizer.tokens.map((token) => Uint8Array.from(token));
    for (const special of tokenizer.special) this.pieces[special] = Uint8Array.of(BORDER);
    this.splits = splits.map((ids) => new SplitText(ids, this.pieces));
    this.split = this.splits[0];
  }

  /** {context, count, next, left_out, word, snippets, ngram} of the end of `ids`: evidence.py. */
  of(ids) {
    const { split } = this;
    const context = this.longest(this.join(ids.slice(-LOOKED_AT)).slice(-LOOKED_AT));
    const [from, to] = split.range(context);
    const counts = split.next(from, to, context.length);
    const kinds = [];
    counts.forEach((count, id) => count > 0 && kinds.push({ id, count }));
    kinds.sort((a, b) => b.count - a.count || a.id - b.id);
    const ngram = this.ngram(ids);
    const order = Uint32Array.from(ngram, (_, id) => id).sort((a, b) => ngram[b] - ngram[a] || a - b);
    return {
      context: text(context), count: to - from,
      next: kinds.slice(0, KINDS),
      left_out: Math.max(0, kinds.length - KINDS), word: this.lastWord(context),
      snippets: context.length > 0 ? split.snippets(from, to, context.length) : [],
      ngram: [...order.subarray(0, TOP)].map((id) => [id, ngram[id]]),
    };
  }

  /** How often the last word of a context is a whole word in the training text, and in all. */
  lastWord(context) {
    const word = /[\p{L}\p{N}_]+$/u.exec(text(context))?.[0];
    const ends = [...(word ?? "")];
    if (ends.length === 0 || UNSPACED.test(ends[0]) || UNSPACED.test(ends.at(-1))) return null;
    const counts = this.splits.map((split) => split.wholeWords(new TextEncoder().encode(word)));
    return { text: word, count: counts[0], all: counts.reduce((sum, count) => sum + count, 0) };
  }

  join(ids) {
    return Uint8Array.from(ids.flatMap((id) => [...this.pieces[id]]));
  }

  /** The longest end of a context, of whole characters, that stands in the text. */
  longest(context) {
    const starts = [];
    for (let i = 0; i < context.length; i++) if ((context[i] & 0xc0) !== 0x80) starts.push(i);
    starts.push(context.length);
    let low = 0, high = starts.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      const [from, to] = this.split.range(context.subarray(starts[middle]));
      if (to > from) high = middle;
      else low = middle + 1;
    }
    return context.slice(starts[low]);
  }

  /** What an n-gram table gives each token after `ids`: by Witten and Bell, as in evidence.py. */
  ngram(ids) {
    const V = this.pieces.length;
    const table = new Float64Array(V).fill(1 / V);
    for (let size = 0; size <= Math.min(LONGEST, ids.length); size++) {
      const context = this.join(ids.slice(ids.length - size));
      const [from, to] = this.split.range(context);
      if (to === from) break;
      const counts = this.split.next(from, to, context.length);
      let kinds = 0, total = 0;
      for (const count of counts) {
        kinds += count > 0;
        total += count;
      }
      if (kinds === 0) continue;
      for (let id = 0; id < V; id++) table[id] = (counts[id] + kinds * table[id]) / (total + kinds);
    }
    return table;
  }
}

function text(bytes) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}

/** Whether each byte is of a letter, a digit or an underscore, with what is before and behind. */
function letters(bytes) {
  const inWord = new Uint8Array(bytes.length + 2), known = new Map();
  for (let at = 0, length; at < bytes.length; at += length) {
    const byte = bytes[at];
    length = byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : byte < 0xf8 ? 4 : 1;
    let point = length === 1 ? byte : byte & (0x7f >> length);
    for (let i = 1; i < length; i++) {
      point = (point << 6) | (bytes[at + i] & 0x3f);
      if ((bytes[at + i] & 0xc0) !== 0x80) length = 1;
    }
    if (length === 1 && byte >= 0x80) continue; // of no character
    if (!known.has(point)) known.set(point, LETTER.test(String.fromCodePoint(Math.min(point, 0x10ffff))));
    if (known.get(point)) inWord.fill(1, at + 1, at + 1 + length);
  }
  return inWord;
}

/** The characters of bytes; a character that is there in part, at an end, is left out. */
function characters(bytes) {
  return [...text(bytes)].filter((char) => char !== "\ufffd");
}

/** Where the suffixes of bytes begin, in the order of the suffixes: an Int32Array. */
export function suffixArray(bytes) {
  // By doubling: an order by the first k bytes, and that of what stands k bytes on, give that by 2k.
  const n = bytes.length;
  let suffixes = new Int32Array(n), sorted = new Int32Array(n);
  let rank = new Int32Array(n), next = new Int32Array(n);
  const counts = new Int32Array(Math.max(n, 256) + 1);
  for (let i = 0; i < n; i++) {
    rank[i] = bytes[i];
    sorted[i] = n - 1 - i;
  }
  let ranks = 256;
  for (let k = 0; n > 0; k = Math.max(1, 2 * k)) {
    if (k > 0) {
      // by what stands k bytes on: what has nothing there comes first
      let at = 0;
      for (let i = n - k; i < n; i++) sorted[at++] = i;
      for (let i = 0; i < n; i++) if (suffixes[i] >= k) sorted[at++] = suffixes[i] - k;
    }
    // then, keeping that order, by the first k bytes
    counts.fill(0, 0, ranks + 1);
    for (let i = 0; i < n; i++) counts[rank[i] + 1]++;
    for (let i = 0; i < ranks; i++) counts[i + 1] += counts[i];
    for (let i = 0; i < n; i++) suffixes[counts[rank[sorted[i]]]++] = sorted[i];
    let last = 0;
    next[suffixes[0]] = 0;
    for (let i = 1; i < n; i++) {
      const a = suffixes[i - 1], b = suffixes[i];
      const behindA = a + k < n ? rank[a + k] : -1, behindB = b + k < n ? rank[b + k] : -1;
      if (rank[a] !== rank[b] || behindA !== behindB) last++;
      next[b] = last;
    }
    [rank, next] = [next, rank];
    ranks = last + 1;
    if (ranks === n || k >= n) break;
  }
  return suffixes;
}
