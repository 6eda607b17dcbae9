// One chart in SVG: lines, bands, dots, levels and marks over a common x axis, with a crosshair.

import { extent, scale, short, ticks } from "./curves.js";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 62, RIGHT = 14, TOP = 14, BOTTOM = 34;

/** An element with attributes and children; texts are texts, never HTML. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A chart in `container`. `onZoom` gets [low, high] of x, or null for the whole range. */
export class Chart {
  constructor(container, { title, height, onZoom }) {
    this.container = container;
    this.height = height;
    this.onZoom = onZoom;
    this.root = svg("svg", { class: "chart", tabindex: "0", role: "img", "aria-label": title });
    this.readout = document.createElement("p");
    this.readout.className = "readout";
    this.readout.setAttribute("aria-live", "polite");
    container.append(this.root, this.readout);
    this.cursor = null;
    this.listen();
  }

  /** Draw: series [{class, name, points, line, dots}], levels [{y, text}], marks [{x, class, text, label}]. */
  draw(view) {
    this.view = view;
    const width = Math.max(280, Math.min(1600, this.container.clientWidth || 700));
    const { log, logX, xName, empty } = view;
    this.root.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.root.setAttribute("height", this.height);
    this.root.replaceChildren();
    const drawn = view.series.filter((one) => one.points.length);
    const allX = drawn.flatMap((one) => [one.points[0].x, one.points[one.points.length - 1].x]);
    const whole = extent(logX ? drawn.flatMap((one) => one.points.map((p) => p.x).filter((x) => x > 0)) : allX);
    const range = view.range ?? whole;
    if (!range) {
      this.x = null;
      this.root.append(svg("text", { x: width / 2, y: this.height / 2, class: "empty" }, empty));
      return;
    }
    const [lowX, highX] = range[0] === range[1] ? [range[0] - 0.5, range[1] + 0.5] : range;
    const inside = (p) => p.x >= lowX && p.x <= highX;
    const positive = (v) => (log && !(v > 0) ? null : v);
    const values = drawn.flatMap((one) => one.points.filter(inside).flatMap((p) =>
      [p.mean, p.low, p.high].map(positive)));
    let [lowY, highY] = extent(values) ?? [0, 1];
    if (lowY === highY) [lowY, highY] = log ? [lowY / 1.1, highY * 1.1] : [lowY - 0.5 * Math.abs(lowY || 1), highY + 0.5 * Math.abs(highY || 1)];
    const margin = log ? 0 : (highY - lowY) * 0.04;
    const low = lowY - margin < 0 && lowY >= 0 ? 0 : lowY - margin;
    this.x = scale(lowX, highX, LEFT, width - RIGHT, logX);
    this.y = scale(log ? lowY / 1.03 : low, log ? highY * 1.03 : highY + margin, this.height - BOTTOM, TOP, log);
    this.span = [lowX, highX];
    this.width = width;
    this.axes(width, [this.y.invert(this.height - BOTTOM), this.y.invert(TOP)], log, logX, xName);
    const clip = `clip${Chart.number = (Chart.number ?? 0) + 1}`;
    const frame = { x: LEFT, y: TOP - 6, width: width - LEFT - RIGHT, height: this.height - TOP - BOTTOM + 10 };
    this.root.append(svg("clipPath", { id: clip }, svg("rect", frame)));
    const plot = svg("g", { "clip-path": `url(#${clip})` });
    this.root.append(plot);
    for (const level of view.levels ?? []) this.level(plot, level, width);
    for (const mark of view.marks ?? []) this.mark(plot, mark);
    for (const one of drawn) this.series(plot, one, log);
    this.cross = svg("g", { class: "cross" });
    this.root.append(this.cross);
    if (this.cursor !== null) this.point(this.cursor);
  }

  axes(width, [lowY, highY], log, logX, xName) {
    const bottom = this.height - BOTTOM;
    const lines = svg("g", { class: "grid" }), texts = svg("g", { class: "axis" });
    for (const v of ticks(lowY, highY, this.height / 60, log)) {
      const y = this.y(v);
      lines.append(svg("line", { x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));
      texts.append(svg("text", { x: LEFT - 7, y: y + 4, "text-anchor": "end" }, short(v)));
    }
    for (const v of ticks(this.span[0], this.span[1], width / 90, logX)) {
      const x = this.x(v);
      lines.append(svg("line", { x1: x, x2: x, y1: TOP, y2: bottom }));
      texts.append(svg("text", { x, y: bottom + 15, "text-anchor": "middle" }, short(v)));
    }
    texts.append(svg("text", { x: width - RIGHT, y: this.height - 3, "text-anchor": "end", class: "name" }, xName));
    this.root.append(lines, texts);
  }

  level(plot, { y, text, class: name }, width) {
    const at = this.y(y);
    if (!(at >= TOP - 6 && at <= this.height - BOTTOM)) return;
    plot.append(svg("line", { class: `level ${name ?? ""}`, x1: LEFT, x2: width - RIGHT, y1: at, y2: at }),
      svg("text", { class: "level", x: width - RIGHT - 4, y: at - 4, "text-anchor": "end" }, text));
  }

  mark(plot, { x, class: name, text, label }) {
    const at = this.x(x);
    if (!Number.isFinite(at)) return;
    const bottom = this.height - BOTTOM;
    const short = name.startsWith("saved") || name.startsWith("kept");
    const line = svg("line", { class: `mark ${name}`, x1: at, x2: at, y1: short ? bottom - 7 : TOP, y2: bottom },
      svg("title", {}, text));
    plot.append(line);
    if (label) plot.append(svg("text", { class: "mark", x: at + 3, y: TOP + 22 }, label, svg("title", {}, text)));
  }

  series(plot, { class: name, points, line, dots }, log) {
    const ok = (v) => v !== null && (!log || v > 0);
    const banded = points.filter((p) => ok(p.low) && ok(p.high));
    if (banded.length > 1) {
      const there = banded.map((p) => `${this.at(p.x, p.high)}`), back = banded.map((p) => this.at(p.x, p.low)).reverse();
      plot.append(svg("polygon", { class: `band ${name}`, points: [...there, ...back].join(" ") }));
    }
    if (line !== false) {
      let path = "", pen = "M";
      for (const p of points) {
        if (!ok(p.mean)) { pen = "M"; continue; }
        path += pen + this.at(p.x, p.mean);
        pen = "L";
      }
      if (path) plot.append(svg("path", { class: `line ${name}`, d: path }));
    }
    for (const p of dots ? points : points.length === 1 ? points : []) {
      if (!ok(p.mean)) continue;
      const [cx, cy] = this.at(p.x, p.mean).split(",");
      plot.append(svg("circle", { class: `dot ${name}`, cx, cy, r: p.best ? 5 : 3 }, svg("title", {}, p.title ?? "")));
    }
  }

  at(x, y) {
    return `${this.x(x).toFixed(1)},${this.y(y).toFixed(1)}`;
  }

  /** Show the values nearest to x. */
  point(x) {
    if (!this.x) return;
    this.cursor = x;
    this.cross.replaceChildren();
    this.readout.replaceChildren();
    if (x === null) return;
    const at = this.x(x);
    this.cross.append(svg("line", { x1: at, x2: at, y1: TOP, y2: this.height - BOTTOM }));
    const parts = [`${this.view.xName} ${short(x)}`];
    for (const one of this.view.series) {
      const p = nearest(one.points, x);
      if (!p || p.mean === null || !one.name) continue;
      parts.push(`${one.name} ${Number(p.mean.toPrecision(5))}`);
      if (!(this.view.log && p.mean <= 0)) {
        const [cx, cy] = this.at(p.x, p.mean).split(",");
        this.cross.append(svg("circle", { class: `dot ${one.class}`, cx, cy, r: 3 }));
      }
    }
    this.readout.textContent = parts.join("   ");
  }

  listen() {
    const toX = (event) => {
      const box = this.root.getBoundingClientRect();
      return this.x.invert(((event.clientX - box.left) / box.width) * this.width);
    };
    let from = null;
    this.root.addEventListener("pointerdown", (event) => { if (this.x && event.pointerType !== "touch") from = toX(event); });
    this.root.addEventListener("pointermove", (event) => { if (this.x) this.point(toX(event)); });
    this.root.addEventListener("pointerleave", () => { from = null; this.point(null); });
    this.root.addEventListener("pointerup", (event) => {
      if (from === null || !this.x) return;
      const to = toX(event), start = from;
      from = null;
      if (Math.abs(this.x(to) - this.x(start)) > 12) this.onZoom([Math.min(start, to), Math.max(start, to)]);
    });
    this.root.addEventListener("dblclick", () => this.onZoom(null));
    this.root.addEventListener("keydown", (event) => { if (this.x && this.key(event)) event.preventDefault(); });
  }

  /** Whether a key means something here. */
  key({ key }) {
    const [low, high] = this.span, middle = this.cursor ?? (low + high) / 2;
    const first = this.view.series.find((one) => one.points.length);
    if (key === "ArrowLeft" || key === "ArrowRight") {
      const xs = first.points.map((p) => p.x).filter((x) => x >= low && x <= high);
      const i = xs.findIndex((x) => x >= (this.cursor ?? low));
      const next = this.cursor === null ? (key === "ArrowRight" ? 0 : xs.length - 1) : (i < 0 ? xs.length : i) + (key === "ArrowRight" ? 1 : -1);
      this.point(xs[Math.max(0, Math.min(xs.length - 1, next))] ?? null);
    } else if (key === "+" || key === "=" || key === "-") {
      const half = ((high - low) / 2) * (key === "-" ? 2 : 0.5);
      this.onZoom([middle - half, middle + half]);
    } else if (key === "0") {
      this.onZoom(null);
    } else if (key === "Escape") {
      this.point(null);
    } else {
      return false;
    }
    return true;
  }
}

function nearest(points, x) {
  let low = 0, high = points.length - 1;
  if (high < 0) return null;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle].x < x) low = middle; else high = middle;
  }
  return Math.abs(points[low].x - x) <= Math.abs(points[high].x - x) ? points[low] : points[high];
}
