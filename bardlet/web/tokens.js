// How tokens are shown: their text, what cannot be seen, and how surprising they were.

import { h } from "./dom.js";

const LEVELS = [0.5, 1.5, 3, 4.5, 6, 8]; // bits from which a token is as surprising as a class says
const PART = /^(?:\\x[0-9a-f]{2})+$/; // bytes that are a part of a character
const MARKS = { "\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d", " ": "\u2423", "\u3000": "\u2423" };

// The class of a token's surprise: s0 was expected, s6 a surprise of 8 bits or more; "" not known.
export function surpriseClass(logprob) {
  if (logprob === null || logprob === undefined) return "";
  const bits = -logprob / Math.LN2;
  return `s${LEVELS.filter((level) => bits >= level).length}`;
}

// What stands in a list for a token: white space as marks, and whether it is nothing but marks.
export function listed(piece) {
  const text = Array.from(piece, (char) => (/\s/.test(char) ? MARKS[char] || "\u2423" : char)).join("");
  return { text: text || "\u2205", blank: !piece.trim() };
}

// What each of some tokens shows in running text. Tokens that are bytes of one character share it:
// the first shows it, and the others nothing.
export async function running(engine, ids) {
  const pieces = await engine.pieces(ids);
  const shown = [...pieces];
  for (let start = 0; start < ids.length; start++) {
    if (!PART.test(pieces[start])) continue;
    for (let end = start + 2; end <= Math.min(start + 4, ids.length); end++) {
      if (!PART.test(pieces[end - 1])) break;
      const text = await engine.decode(ids.slice(start, end));
      if (text.includes("\ufffd")) continue;
      shown.fill("", start, end);
      shown[start] = text;
      start = end - 1;
      break;
    }
  }
  return shown;
}

// An element for one token of a running text.
export function tokenElement(text, at, logprob, label) {
  const surprise = surpriseClass(logprob);
  const element = h("span", { class: `token ${surprise}`, role: "option", "data-at": at,
    tabindex: -1, "aria-selected": "false", "aria-label": label }, text);
  if (text === "") element.classList.add("part");
  if (PART.test(text)) element.classList.add("bytes");
  if (text.includes("\n")) element.classList.add("newline");
  return element;
}
