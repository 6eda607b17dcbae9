// What could come at a place: candidates by the model's probability, as the settings reshape it,
// beside what follows in the training text and what counting alone would say.

import { h } from "./dom.js";
import { largest, reshape, softmax } from "./filters.js";
import { listed, running } from "./tokens.js";

const SHOWN = 20;

export class CandidatesView {
  // `actions`: choose(id), back().
  constructor(t, engine, actions) {
    Object.assign(this, { t, engine, actions });
    this.rows = [];
    this.asked = 0;
    this.title = h("h2", {});
    this.context = h("p", { class: "context" });
    this.list = h("ol", { class: "candidates", onkeydown: (event) => this.key(event) });
    this.rest = h("p", { class: "help rest" });
    const column = (name, tip) => h("span", { title: tip ? t(tip) : null }, t(name));
    this.head = h("div", { class: "row head", "aria-hidden": "true" },
      column("colToken"), h("span"), column("colModel", "tipModel"), column("colText", "tipText"),
      column("colNgram", "tipNgram"));
    const marks = [["solid", "keyModel"], ["outline", "keyPlain"], ["fact", "keyText"]];
    const legend = h("p", { class: "key" }, ...marks.map(([kind, name]) =>
      h("span", {}, h("span", { class: `mark ${kind}` }), t(name))));
    this.element = h("section", { class: "panel candidates-panel", "aria-label": t("next") },
      h("header", {}, this.title), this.context, legend, this.head, this.list, this.rest);
  }

  // The candidates after `ids`, one of which may have been `taken`; whether they are on show, and
  // not those of a place that was asked for later.
  async show(ids, taken, settings, logits) {
    const turn = ++this.asked;
    this.element.setAttribute("aria-busy", "true"); // what is on show is of another place
    try {
      return await this.read(turn, ids, taken, settings, logits);
    } finally {
      if (turn === this.asked) this.element.removeAttribute("aria-busy");
    }
  }

  async read(turn, ids, taken, settings, logits) {
    this.title.textContent = this.t(taken === null ? "next" : "instead");
    if (!ids.length) {
      this.clear(this.t("first"));
      return true;
    }
    const [values, before] = await Promise.all([logits(ids), running(this.engine, ids.slice(-24))]);
    if (turn !== this.asked) return false;
    this.context.replaceChildren(h("span", {}, listed(before.join("")).text));
    this.logits = values;
    this.plain = softmax(values);
    const wanted = largest(values, SHOWN);
    if (taken !== null && !wanted.includes(taken)) wanted.push(taken);
    const pieces = await this.engine.pieces(wanted);
    if (turn !== this.asked) return false;
    const focused = this.rows.findIndex((row) => row.button === document.activeElement);
    this.rows = wanted.map((id, i) => this.row(id, listed(pieces[i]), id === taken));
    this.list.replaceChildren(...this.rows.map((row) => row.item));
    this.head.hidden = false;
    this.evidence(null);
    this.reshape(settings);
    if (focused >= 0) this.rows[Math.min(focused, this.rows.length - 1)].button.focus();
    return true;
  }

  clear(message) {
    this.rows = [];
    this.logits = null;
    this.head.hidden = true;
    this.list.replaceChildren();
    this.context.textContent = message;
    this.rest.textContent = "";
  }

  row(id, { text, blank }, taken) {
    const parts = {};
    for (const name of ["ghost", "solid", "tick"]) parts[name] = h("span", { class: name });
    for (const name of ["model", "count", "share", "ngram"]) parts[name] = h("span", { class: name });
    const button = h("button", { type: "button", class: `row${taken ? " taken" : ""}`,
      "data-id": id, onclick: () => this.actions.choose(id) },
    h("span", { class: `piece${blank ? " blank" : ""}` }, text),
    h("span", { class: "bar" }, parts.ghost, parts.solid, parts.tick),
    parts.model, h("span", { class: "fact" }, parts.share, parts.count), parts.ngram);
    return { id, text, taken, button, item: h("li", {}, button), ...parts };
  }

  // The probabilities as settings make them.
  reshape(settings) {
    if (!this.logits) return;
    const now = reshape(this.logits, settings);
    let sum = 0;
    for (const row of this.rows) {
      const probability = now[row.id];
      sum += probability;
      row.ghost.style.width = `${100 * this.plain[row.id]}%`;
      row.ghost.hidden = this.plain[row.id] < 0.001;
      row.solid.style.width = `${100 * probability}%`;
      row.model.textContent = this.t.percent(probability);
      row.button.classList.toggle("out", probability === 0);
      row.now = probability;
      this.label(row);
    }
    const others = this.logits.length - this.rows.length;
    this.rest.textContent = others > 0
      ? this.t("others", { count: others, share: this.t.percent(Math.max(0, 1 - sum)) }) : "";
  }

  // A candidate as an engine's `score` has tokens.
  scored(id) {
    return { id, logprob: Math.log(this.plain[id]), top: [] };
  }

  label(row) {
    const values = { token: row.text, model: this.t.percent(row.now ?? 0),
      plain: this.t.percent(this.plain[row.id]), text: row.share.textContent || "\u2013" };
    row.button.setAttribute("aria-label",
      this.t("candidateLabel", values) + (row.taken ? `, ${this.t("taken")}` : ""));
    if (row.taken) row.button.setAttribute("aria-current", "true");
  }

  // What the training text says of the same candidates; null while it is not known.
  evidence(told) {
    this.element.classList.toggle("counted", Boolean(told));
    if (!told) return;
    const counts = new Map(told.next.map(({ id, count }) => [id, count]));
    const grams = new Map(told.ngram);
    const total = told.next.reduce((sum, { count }) => sum + count, 0);
    const rare = told.left_out ? told.next[told.next.length - 1].count : 0;
    for (const row of this.rows) {
      const count = counts.get(row.id) ?? rare;
      const sign = counts.has(row.id) || !rare ? "" : "\u2264";
      const share = total ? count / total : 0;
      row.share.textContent = total ? sign + this.t.percent(share) : "";
      row.count.textContent = sign + this.t.number(count);
      row.tick.style.left = `${100 * share}%`;
      row.tick.hidden = !count;
      row.button.classList.toggle("unseen", !count);
      const gram = grams.get(row.id);
      row.ngram.textContent = gram === undefined ? "\u2013" : this.t.percent(gram);
      this.label(row);
    }
  }

  focus() {
    const row = this.rows.find((one) => one.taken) || this.rows[0];
    row?.button.focus();
  }

  key(event) {
    const at = this.rows.findIndex((row) => row.button === document.activeElement);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: this.rows.length - 1 };
    if (event.key in moves) {
      this.rows[Math.min(Math.max(moves[event.key], 0), this.rows.length - 1)]?.button.focus();
    } else if (event.key === "Escape") {
      this.actions.back();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
