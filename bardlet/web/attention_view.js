// Where each head of each layer looks: a small triangle for each, one of them large, and the text
// shaded by what one token takes from those before it.

import { debounced, h } from "./dom.js";
import { listed, running } from "./tokens.js";

const TOKENS = 64; // at most, shown at once; more cannot be told apart
const SMALL = 56; // pixels of a small triangle
const CELL = 8; // least pixels of a cell of the large one

export class AttentionView {
  constructor(t, engine) {
    Object.assign(this, { t, engine });
    this.layer = 0;
    this.head = -1; // the mean of all
    this.asked = 0;
    this.ids = [];
    this.grid = h("div", { class: "heads", role: "group", "aria-label": t("attentionOpen") });
    this.large = h("canvas", { class: "large", onmousemove: (event) => this.point(event) });
    this.strip = h("div", { class: "strip", role: "listbox", tabindex: 0, "aria-label": t("attention"),
      onmouseover: (event) => this.over(event), onkeydown: (event) => this.key(event) });
    this.caption = h("h3", {});
    this.says = h("p", { class: "help says", "aria-live": "polite" });
    this.note = h("p", { class: "help" });
    this.element = h("details", { class: "panel attention", ontoggle: () => this.refresh() },
      h("summary", {}, h("h2", {}, t("attention")), h("span", { class: "help" }, t("attentionOpen"))),
      h("div", { class: "attention-body" }, this.grid,
        h("div", { class: "look" }, this.caption, this.strip, this.says, this.large, this.note)));
    this.later = debounced(() => this.refresh(), 150);
  }

  // The text that is looked at, and which of its tokens; drawn while the panel is open.
  show(ids, at) {
    this.ids = ids;
    this.at = at;
    this.later();
  }

  async refresh() {
    if (!this.element.open || !this.ids.length) return;
    const turn = ++this.asked;
    const [start, end] = this.range(Math.min(TOKENS, this.engine.info.context));
    const ids = this.ids.slice(start, end);
    const key = ids.join();
    try {
      if (key !== this.drawn) {
        const [told, texts] = await Promise.all([this.engine.attention(ids), running(this.engine, ids)]);
        if (turn !== this.asked) return;
        Object.assign(this, { told, texts, drawn: key, size: ids.length });
      }
    } catch (error) {
      this.note.textContent = this.t("error", { message: error.message });
      return;
    }
    this.query = Math.min(this.at ?? this.ids.length, end - 1) - start;
    const note = start ? this.t("newest", { count: this.size }) : "";
    this.note.textContent = this.t("attentionNote", { note });
    this.buildGrid();
    this.buildStrip();
    this.draw();
  }

  // From where to where the text is shown: its newest tokens, or others where that looked at is.
  range(limit) {
    const size = this.ids.length;
    const at = this.at ?? size - 1;
    const end = at >= size - limit ? size : Math.max(at + 1, Math.min(size, limit));
    return [Math.max(0, end - limit), end];
  }

  // The weights of a layer's head; of -1 the mean of all: (T * T).
  weights(layer, head) {
    const { n_head, weights } = this.told;
    const cells = this.size * this.size;
    const of = (one) => weights.subarray((layer * n_head + one) * cells, (layer * n_head + one + 1) * cells);
    if (head >= 0) return of(head);
    const mean = new Float32Array(cells);
    for (let one = 0; one < n_head; one++) of(one).forEach((value, i) => { mean[i] += value / n_head; });
    return mean;
  }

  buildGrid() {
    const { n_layer, n_head } = this.told;
    const rows = [];
    this.small = [];
    for (let layer = 0; layer < n_layer; layer++) {
      const row = h("div", { class: "layer" }, h("span", { class: "help" }, this.t("layer", { layer: layer + 1 })));
      for (let head = -1; head < n_head; head++) {
        const name = this.name(layer, head);
        const canvas = h("canvas", { "aria-hidden": "true" });
        const button = h("button", { type: "button", class: "head", title: name, "aria-label": name,
          onclick: () => this.pick(layer, head) }, canvas);
        paint(canvas, this.weights(layer, head), this.size, SMALL);
        this.small.push({ layer, head, button });
        row.append(button);
      }
      rows.push(row);
    }
    this.grid.replaceChildren(...rows);
  }

  name(layer, head) {
    if (head < 0) return `${this.t("layer", { layer: layer + 1 })}, ${this.t("mean")}`;
    return this.t("layerHead", { layer: layer + 1, head: head + 1 });
  }

  buildStrip() {
    this.cells = this.texts.map((text, at) => h("span", { class: "token", role: "option", "data-at": at },
      text.includes("\n") ? "\u21b5" : text));
    this.strip.replaceChildren(...this.cells);
  }

  pick(layer, head) {
    this.layer = layer;
    this.head = head;
    this.draw();
  }

  draw() {
    this.layer = Math.min(this.layer, this.told.n_layer - 1);
    this.head = Math.min(this.head, this.told.n_head - 1);
    for (const { layer, head, button } of this.small) {
      button.setAttribute("aria-pressed", String(layer === this.layer && head === this.head));
    }
    const weights = this.weights(this.layer, this.head);
    const row = weights.subarray(this.query * this.size, (this.query + 1) * this.size);
    this.caption.textContent = this.name(this.layer, this.head);
    paint(this.large, weights, this.size, Math.max(CELL * this.size, 256), this.query);
    this.cells.forEach((cell, at) => {
      cell.style.setProperty("--weight", (at <= this.query ? row[at] : 0).toFixed(3));
      cell.classList.toggle("later", at > this.query);
      cell.classList.toggle("query", at === this.query);
      cell.setAttribute("aria-selected", String(at === this.query));
    });
    const order = Array.from(row.keys()).sort((a, b) => row[b] - row[a]).slice(0, 3);
    const named = order.filter((at) => row[at] > 0.005).map((at) =>
      `\u201c${listed(this.texts[at]).text}\u201d ${this.t.percent(row[at])}`);
    this.says.textContent = `${this.t("looks", { token: listed(this.texts[this.query]).text })} ${named.join(", ")}`;
  }

  over(event) {
    const at = event.target.closest("[data-at]")?.dataset.at;
    if (at !== undefined) this.turn(Number(at));
  }

  point(event) {
    const box = this.large.getBoundingClientRect();
    this.turn(Math.floor(((event.clientY - box.top) / box.height) * this.size));
  }

  turn(query) {
    const to = Math.min(Math.max(query, 0), this.size - 1);
    if (to === this.query || !this.told) return;
    this.query = to;
    this.draw();
  }

  key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    if (!(event.key in moves) || !this.told) return;
    this.turn(this.query + moves[event.key]);
    event.preventDefault();
  }
}

// Weights (T * T) as squares, darker for more, `query`'s row framed; of the page's own colours.
function paint(canvas, weights, size, pixels, query = -1) {
  const cell = Math.max(1, Math.floor((pixels * (window.devicePixelRatio || 1)) / size));
  canvas.width = canvas.height = cell * size;
  const context = canvas.getContext("2d");
  const colors = getComputedStyle(document.documentElement);
  context.fillStyle = colors.getPropertyValue("--accent");
  for (let row = 0; row < size; row++) {
    for (let column = 0; column <= row; column++) {
      // a square root, so that small weights can be seen beside large ones
      context.globalAlpha = 0.04 + 0.96 * Math.sqrt(weights[row * size + column]);
      context.fillRect(column * cell, row * cell, cell, cell);
    }
  }
  context.globalAlpha = 1;
  if (query < 0) return;
  context.strokeStyle = colors.getPropertyValue("--text-evidence");
  context.lineWidth = Math.max(1, cell / 6);
  context.strokeRect(0.5, query * cell + 0.5, (query + 1) * cell - 1, cell - 1);
}
