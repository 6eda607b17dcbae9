// What the training text says of a context: how often it stands there, and places to read.

import { h } from "./dom.js";
import { listed } from "./tokens.js";

const LONG = 60; // characters of a context that are shown, the newest
const STEPS = 16; // tokens of the longest end that can be asked for
const ENDS = 7; // how many can

export class EvidenceView {
  // `shorten` is called with how many of the newest tokens are to be counted; 0: as many as stand.
  constructor(t, engine, shorten) {
    Object.assign(this, { t, engine, shorten });
    this.body = h("div", { class: "evidence-body", "aria-live": "polite" });
    this.ends = h("div", { class: "ends", role: "group", "aria-label": t("ends") });
    this.element = h("section", { class: "panel evidence", "aria-label": t("evidence") },
      h("header", {}, h("h2", {}, t("evidence"))), this.ends, this.body);
  }

  waiting() {
    if (!this.body.hasChildNodes()) this.say(this.t("counting"));
  }

  none(reason) {
    this.say(reason ? this.t("missing", { reason }) : this.t("noText"));
  }

  clear() {
    this.say();
  }

  say(text) {
    this.ends.replaceChildren();
    this.body.replaceChildren(...(text ? [h("p", { class: "help" }, text)] : []));
  }

  // `told` is the evidence of the tokens `asked`, the newest of `context`; `whole` is that of all.
  async show({ whole, told, context, asked }) {
    const text = await this.engine.decode(asked);
    const parts = [h("p", { class: "count" }, this.sentence(told, text))];
    const { word } = told;
    if (word?.all && word.text.length > 1) {
      parts.push(h("p", { class: "help word" }, this.t("word",
        { word: word.text, times: this.t.times(word.count), all: this.t.times(word.all) })));
    }
    const places = told.snippets.map(({ before, match, after }) => h("li", {},
      h("span", { class: "before" }, h("bdi", { dir: "ltr" }, one(before))),
      h("mark", {}, one(shortened(match, LONG / 3))), h("span", { class: "after" }, one(after))));
    if (places.length) parts.push(h("ul", { class: "places" }, ...places));
    await this.showEnds(whole, context, asked);
    this.body.replaceChildren(...parts);
  }

  sentence(told, text) {
    const times = this.t.times(told.count);
    if (!told.context) return this.t("standsNone");
    const context = one(shortened(told.context, LONG));
    return this.t(told.context === text ? "stands" : "standsShort", { context, times });
  }

  // Buttons for the ends of the context that stand in the text, the shortest first.
  async showEnds(whole, context, asked) {
    const buttons = [];
    for (let size = 1; size <= Math.min(STEPS, context.length) && buttons.length < ENDS; size++) {
      const text = await this.engine.decode(context.slice(-size));
      if (text.length >= whole.context.length) break;
      if (text.includes("\ufffd")) continue; // a part of a character
      buttons.push(this.end(listed(text).text, size, asked.length === size));
    }
    const all = asked.length === context.length;
    if (buttons.length) buttons.push(this.end(this.t("longest"), 0, all));
    const focused = [...this.ends.children].indexOf(document.activeElement);
    this.ends.replaceChildren(...buttons);
    if (focused >= 0) buttons[Math.min(focused, buttons.length - 1)]?.focus();
  }

  end(text, size, pressed) {
    return h("button", { type: "button", class: "end", "aria-pressed": String(pressed),
      onclick: () => this.shorten(size) }, text);
  }
}

// The newest characters of a text.
function shortened(text, size) {
  const characters = Array.from(text);
  return characters.length > size ? `\u2026${characters.slice(-size).join("")}` : text;
}

// A text on one line.
function one(text) {
  return text.replace(/\n/g, "\u21b5");
}
