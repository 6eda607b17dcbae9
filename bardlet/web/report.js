// The page of runs: curves of several runs over one another, and all that is known of each.

import { Chart } from "./chart.js";
import { axisOf, interpolate, points, smoothed } from "./curves.js";
import { h, remember, remembered } from "./dom.js";
import * as parts from "./report_parts.js";
import { count, getLanguage, setLanguage, word } from "./report_words.js";
import { language } from "./words.js";

const AT_ONCE = 8; // runs that are drawn, each in a colour
const SMALL = ["lr", "grad_norm", "tokens_per_s", "mfu", "data_ms"];
const POLL_MS = 1000;
const POINTS = 300; // of a curve that the smoothing's weight is for: it is as wide on shorter ones

/** Start the page in `element`. `source` has list(), run(name) and live. */
export function start(source, element) {
  setLanguage(language());
  const theme = remembered("theme");
  if (theme) document.documentElement.dataset.theme = theme;
  return new Report(source, element).begin();
}

class Report {
  constructor(source, element) {
    this.source = source;
    this.element = element;
    this.entries = [];
    this.runs = new Map(); // by name, those that were read
    this.shown = null; // names of the runs that are drawn
    this.colours = new Map();
    this.place = new Map();
    this.range = null;
    this.error = "";
    this.options = { x: "iterations", log: false, logX: false, smooth: 0.6 };
  }

  async begin() {
    await this.refresh();
    this.build();
    addEventListener("resize", () => this.draw());
    if (this.source.live) setInterval(() => this.poll(), POLL_MS);
    return this;
  }

  async poll() {
    if (document.hidden || this.busy) return;
    this.busy = true;
    try {
      if (await this.refresh()) this.update();
    } finally {
      this.busy = false;
    }
  }

  /** Read the list, and the runs that are drawn and have changed; whether anything is new. */
  async refresh() {
    let fresh = false;
    try {
      const entries = await this.source.list();
      fresh = JSON.stringify(entries) !== JSON.stringify(this.entries) || this.error !== "";
      this.entries = entries;
      this.error = "";
      const names = entries.map((e) => e.name);
      this.shown ??= names.slice(0, this.source.live ? 4 : AT_ONCE);
      if (!this.shown.length) this.shown = names.slice(0, 1);
      this.shown = this.shown.filter((name) => names.includes(name));
      for (const { name, version } of entries.filter((e) => this.shown.includes(e.name))) {
        const old = this.runs.get(name);
        if (old?.version === version && old.state !== "training") continue;
        this.runs.set(name, await this.source.run(name));
        fresh = true;
      }
    } catch (error) {
      fresh = fresh || this.error !== String(error.message);
      this.error = String(error.message);
    }
    return fresh;
  }

  drawn() {
    return this.shown.map((name) => this.runs.get(name)).filter(Boolean);
  }

  colour(name) {
    if (!this.colours.has(name)) {
      const taken = new Set(this.shown.map((other) => this.colours.get(other)));
      let free = 0;
      while (taken.has(free) && free < AT_ONCE - 1) free += 1;
      this.colours.set(name, free);
    }
    return `run${this.colours.get(name)}`;
  }

  /** Build everything anew, as after a change of language. */
  build() {
    document.documentElement.lang = getLanguage();
    document.title = word("title");
    this.status = h("p", { class: "status", role: "status" });
    this.list = h("ul", { class: "runs" });
    this.loss = h("div", { class: "chart-large" });
    this.small = h("div", { class: "small" });
    this.beside = h("div", {});
    this.below = h("div", {});
    this.note = h("p", { class: "note" });
    this.sections = new Map(); // of words, by their names
    this.element.replaceChildren(
      h("header", {}, h("h1", {}, word("title")), this.buttons()),
      this.status, h("nav", { "aria-label": word("runs") }, this.list), this.toolbar(),
      h("section", {}, h("h2", {}, word("loss")), h("p", { class: "note" }, word("legend")), this.loss, this.note),
      this.beside, this.small, this.below);
    const zoom = (range) => { this.range = range; this.draw(); };
    this.charts = new Map([["loss", new Chart(this.loss, { title: word("loss"), height: 380, onZoom: zoom })]]);
    for (const name of SMALL) {
      const place = h("figure", {}, h("figcaption", {}, word(name)));
      this.small.append(place);
      this.charts.set(name, new Chart(place, { title: word(name), height: 180, onZoom: zoom }));
    }
    this.update();
  }

  buttons() {
    const other = h("button", { type: "button", id: "language" }, word("other"));
    other.addEventListener("click", () => {
      setLanguage(getLanguage() === "en" ? "zh" : "en");
      remember("language", getLanguage());
      this.build();
      document.getElementById("language").focus();
    });
    const theme = h("button", { type: "button", id: "theme" }, word("theme"));
    theme.addEventListener("click", () => {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      remember("theme", root.dataset.theme);
    });
    return h("div", { class: "buttons" }, other, theme);
  }

  toolbar() {
    const { options } = this;
    const x = h("select", { id: "x" }, ...["iterations", "tokens", "seconds"].map((kind) => h("option", { value: kind }, word(kind))));
    x.value = options.x;
    x.addEventListener("change", () => { options.x = x.value; this.range = null; this.draw(); });
    const check = (key) => {
      const box = h("input", { type: "checkbox", id: key, checked: options[key] });
      box.addEventListener("change", () => { options[key] = box.checked; this.draw(); });
      return h("label", {}, box, " ", word(key));
    };
    const smooth = h("input", { type: "range", id: "smooth", min: 0, max: 0.99, step: 0.01, value: options.smooth });
    smooth.addEventListener("input", () => { options.smooth = Number(smooth.value); this.draw(); });
    const button = (key, act) => {
      const one = h("button", { type: "button", id: key }, word(key));
      one.addEventListener("click", act);
      return one;
    };
    return h("div", { class: "toolbar", title: word("keys") },
      h("label", {}, `${word("x")} `, x), check("log"), check("logX"), h("label", {}, `${word("smoothing")} `, smooth),
      button("reset", () => { this.range = null; this.draw(); }), button("csv", () => this.download()), button("print", () => print()));
  }

  /** Show what is new, without taking the focus or the place of anything away. */
  update() {
    this.status.textContent = this.error || (this.entries.length ? "" : word("none"));
    const focus = document.activeElement?.id;
    this.list.replaceChildren(...this.entries.map((entry, i) => this.row(entry, i)));
    const runs = this.drawn(), several = runs.length > 1;
    const named = (run, content) => h("div", {}, several ? h("h3", { class: this.colour(run.name) }, run.name) : null, content);
    const unread = runs.filter((run) => run.notes.length);
    this.section(this.beside, "notes", unread.length > 0, unread.map((run) => [run.name, run.notes]),
      () => unread.map((run) => named(run, h("p", {}, run.notes.join("; ")))));
    this.section(this.beside, "doctor", runs.length > 0, runs.map((run) => [run.name, run.findings, run.events, run.resumes, run.judged]),
      () => runs.map((run) => named(run, h("div", {}, parts.findings(run), parts.events(run)))));
    this.section(this.beside, "samples", runs.length > 0, runs.map((run) => [run.name, run.samples]),
      () => runs.map((run) => named(run, parts.samples(run, this.place))));
    this.section(this.below, "differences", several, runs.map((run) => [run.name, run.config, parts.bestText(run), run.done]),
      () => [parts.differences(runs)]);
    this.section(this.below, "about", runs.length > 0, runs.map((run) => [run.name, run.done, run.config, run.data, run.state]),
      () => runs.map(parts.about));
    if (focus) document.getElementById(focus)?.focus();
    this.draw();
  }

  /** A section in `within`, which is made anew only where `values` have changed. */
  section(within, key, shown, values, make) {
    const text = JSON.stringify(values), old = this.sections.get(key);
    if (old?.text === text && old.shown === shown) return;
    const place = old?.place ?? h("section", { class: key });
    if (!old) within.append(place);
    if (place.contains(document.activeElement) && document.activeElement.type === "range") return; // its reader is at it
    const open = [...place.querySelectorAll("details")].map((d) => d.open);
    place.hidden = !shown;
    place.replaceChildren(...(shown ? [h("h2", {}, word(key)), ...make()] : []));
    place.querySelectorAll("details").forEach((d, i) => { d.open = open[i] ?? false; });
    this.sections.set(key, { text, shown, place });
  }

  row(entry, i) {
    const run = this.runs.get(entry.name), shown = this.shown.includes(entry.name);
    const box = h("input", { type: "checkbox", id: `run-${i}`, checked: shown });
    box.addEventListener("change", async () => {
      this.shown = box.checked ? [...this.shown, entry.name] : this.shown.filter((name) => name !== entry.name);
      if (!box.checked) this.colours.delete(entry.name);
      const many = this.shown.length > AT_ONCE;
      this.shown = this.shown.slice(-AT_ONCE);
      await this.refresh();
      this.update();
      if (many) this.status.textContent = word("more", { n: AT_ONCE });
    });
    const state = !run ? [] : [word(run.state), parts.progress(run), parts.bestText(run) && `${word("val")} ${parts.bestText(run)}`,
      run.state === "training" ? word("updated", { s: run.age_s }) : ""];
    return h("li", {}, h("label", {}, box, " ", h("span", { class: `swatch ${shown ? this.colour(entry.name) : ""}` }), entry.name),
      " ", h("span", { class: "state" }, state.filter(Boolean).join(", ")));
  }

  draw() {
    const runs = this.drawn(), { x, log, logX, smooth } = this.options, several = runs.length > 1;
    const common = { logX, range: this.range, xName: word(x), empty: word("noValues") };
    const curves = [];
    const thinned = [];
    for (const run of runs) {
      const toX = axisOf(run, x), colour = this.colour(run.name), prefix = several ? `${run.name} ` : "";
      const raw = points(run.series.loss, toX);
      if (run.per_point > 1) thinned.push(`${prefix}${word("thinned", { n: count(run.lines), k: count(run.per_point) })}`);
      curves.push({ class: `raw ${colour}`, name: smooth ? "" : `${prefix}${word("train")}`, points: raw });
      if (smooth) {
        const means = smoothed(raw.map((p) => p.mean), smooth ** Math.max(1, POINTS / raw.length));
        curves.push({ class: `smooth ${colour}`, name: `${prefix}${word("train")}`, points: raw.map((p, i) => ({ ...p, mean: means[i], low: null, high: null })) });
      }
      const top = parts.best(run);
      const vals = run.evals.filter((e) => typeof e.val_loss === "number").map((e) => ({
        x: toX(e.iter), it: e.iter, mean: e.val_loss, low: null, high: null, best: e === top,
        title: `${word("val")} ${e.val_loss.toFixed(4)}, ${word("after", { i: e.iter })}${e.val_batches ? `, ${word("sampled", { n: e.val_batches })}` : ""}`,
      })).filter((p) => p.x !== null);
      curves.push({ class: `val ${colour}`, name: `${prefix}${word("val")}`, points: vals, dots: true });
    }
    const marks = runs.length === 1 ? parts.marks(runs[0]).map((m) => ({ ...m, x: axisOf(runs[0], x)(m.it) })).filter((m) => m.x !== null) : [];
    this.charts.get("loss").draw({ ...common, log, series: curves, marks, levels: this.levels(runs) });
    this.note.textContent = thinned.join(" ");
    for (const name of SMALL) {
      const series = runs.map((run) => ({ class: `small ${this.colour(run.name)}`, name: several ? run.name : word(name), points: points(run.series[name], axisOf(run, x)) }));
      const known = series.filter((one) => one.points.some((p) => p.mean !== null));
      this.charts.get(name).container.hidden = known.length === 0;
      this.charts.get(name).draw({ ...common, log: log && name === "grad_norm", series: known, marks: [], levels: [] });
    }
  }

  /** The losses to compare with that all drawn runs have in common. */
  levels(runs) {
    if (!runs.length) return [];
    const same = (line) => runs.every((run) => run.reference.some((other) => other.kind === line.kind && Math.abs(other.loss - line.loss) < 1e-6));
    return runs[0].reference.filter(same).map((line) => ({
      y: line.loss, text: `${word(line.kind, { v: line.vocab_size ?? "" })}: ${line.loss.toFixed(3)}`,
    }));
  }

  /** The points that are drawn as a file of comma-separated values. */
  download() {
    const names = Object.keys(this.drawn()[0]?.series ?? {});
    const cell = (value) => {
      const text = String(value ?? "");
      // a name that a spreadsheet would take for a formula stays text
      return typeof value === "number" || value === null ? text : `"${text.replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
    };
    const lines = [["run", "iter", "tokens", "seconds", ...names, "loss_low", "loss_high", "train_loss", "val_loss"].join(",")];
    for (const run of this.drawn()) {
      const at = (kind, it) => interpolate(run.axis.done, run.axis[kind], it);
      const { loss } = run.series;
      loss.x.forEach((it, i) => lines.push([run.name, it, at("tokens", it), at("seconds", it),
        ...names.map((name) => run.series[name].mean[i]), loss.low?.[i] ?? null, loss.high?.[i] ?? null, null, null].map(cell).join(",")));
      for (const e of run.evals) {
        lines.push([run.name, e.iter, at("tokens", e.iter), at("seconds", e.iter), ...names.map(() => null), null, null, e.train_loss ?? null, e.val_loss ?? null].map(cell).join(","));
      }
    }
    const link = h("a", { href: URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" })), download: "runs.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}
