// One text as a card: its tokens coloured by surprise, each of which can be pointed at and chosen.

import { h } from "./dom.js";
import { listed, running, tokenElement } from "./tokens.js";

export class TextView {
  // `actions`: select(branch, at), preview(branch, at), toCandidates(), close(branch).
  constructor(t, engine, branch, actions) {
    Object.assign(this, { t, engine, branch, actions });
    this.tokens = [];
    this.drawing = Promise.resolve();
    this.caret = h("span", { class: "token caret", role: "option", tabindex: -1,
      "aria-selected": "false", "aria-label": t("next") }, "\u200b");
    this.text = h("div", { class: "text", role: "listbox", "aria-label": t("text", { name: branch.name }),
      "aria-orientation": "horizontal",
      onclick: (event) => this.choose(event.target),
      onkeydown: (event) => this.key(event),
      onmouseover: (event) => this.hover(event.target) }, this.caret);
    this.measure = h("span", { class: "measure" });
    this.closer = h("button", { class: "quiet close", type: "button",
      "aria-label": t("close", { name: branch.name }), title: t("close", { name: branch.name }),
      onclick: () => actions.close(branch) }, "\u00d7");
    this.element = h("article", { class: "card", "aria-label": t("text", { name: branch.name }) },
      h("header", {}, h("b", { class: "name" }, branch.name), h("span", { class: "origin" }, this.origin()),
        this.measure, this.closer),
      this.text);
  }

  origin() {
    const origin = this.branch.origin;
    if (!origin) return this.t("fromPrompt");
    return origin.number ? this.t("sample", { number: origin.number, seed: String(origin.seed) })
      : this.t("fromBranch", { name: origin.name, token: origin.token });
  }

  // Show the tokens that have come since, one drawing after the other.
  update() {
    this.drawing = this.drawing.then(() => this.draw());
    return this.drawing;
  }

  // The same with the next frame, as tokens stream.
  updateSoon() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.update();
    });
  }

  async draw() {
    const { ids, scores, shared } = this.branch;
    // A character may be completed by a later token: the newest few are drawn again. They are read
    // from before that, where the first of them may be in the middle of a character.
    const start = Math.max(0, Math.min(this.tokens.length, ids.length) - 4);
    const before = Math.max(0, start - 4);
    const texts = (await running(this.engine, ids.slice(before))).slice(start - before);
    for (const old of this.tokens.splice(start)) old.remove();
    const added = texts.map((text, i) => {
      const at = start + i;
      const label = listed(text).text;
      const element = tokenElement(text, at, scores[at]?.logprob, label);
      if (at < shared) element.classList.add("shared");
      return element;
    });
    this.tokens.push(...added);
    this.caret.before(...added);
    this.caret.dataset.at = ids.length;
    this.element.classList.toggle("writing", this.branch.writing);
    const loss = this.branch.loss;
    this.measure.textContent = loss === null ? "" : this.t("measure", { nats: loss.toFixed(2) });
    this.mark();
  }

  // Say which token is looked at; null: the next one.
  show({ active, at, alone }) {
    this.at = at;
    this.active = active;
    this.element.classList.toggle("active", active && !alone);
    this.closer.hidden = alone;
    this.mark();
  }

  mark() {
    const here = this.at === null || this.at === undefined ? this.caret : this.tokens[this.at] || this.caret;
    for (const element of new Set([this.marked, here])) {
      if (!element) continue;
      const selected = element === here && Boolean(this.active);
      element.classList.toggle("selected", selected);
      element.setAttribute("aria-selected", String(selected));
      element.tabIndex = element === here ? 0 : -1;
    }
    this.marked = here;
  }

  // Mark the token whose candidates are shown without being selected; undefined: none.
  look(at) {
    this.looked?.classList.remove("looked");
    this.looked = at === undefined ? null : this.tokens[at] || this.caret;
    this.looked?.classList.add("looked");
  }

  place(target) {
    const at = target.closest?.("[data-at]")?.dataset.at;
    return at === undefined ? undefined : Number(at);
  }

  hover(target) {
    const at = this.place(target);
    if (at !== undefined) this.actions.preview(this.branch, at);
  }

  choose(target) {
    const at = this.place(target) ?? this.branch.ids.length;
    this.actions.select(this.branch, at);
    this.focus(at);
  }

  focus(at = this.at) {
    (at === null || at === undefined ? this.caret : this.tokens[at] || this.caret).focus();
  }

  key(event) {
    const size = this.branch.ids.length;
    const at = this.place(document.activeElement) ?? size;
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: size };
    if (event.key in moves && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const to = Math.min(Math.max(moves[event.key], 0), size);
      this.actions.select(this.branch, to);
      this.focus(to);
    } else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) {
      this.actions.select(this.branch, at);
      this.actions.toCandidates();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
