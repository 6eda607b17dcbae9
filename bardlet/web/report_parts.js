// The parts of the page of runs beside its curves: what a run is, what happened, options, samples.
// Everything of a run goes in as text.

import { short } from "./curves.js";
import { h } from "./dom.js";
import { count, illness, word } from "./report_words.js";

/** A table: rows of cells, the first of each row as its heading. */
export function table(head, rows, name = "") {
  const heading = head ? [h("thead", {}, h("tr", {}, ...head.map((cell) => h("th", { scope: "col" }, cell))))] : [];
  const body = rows.map(([first, ...rest]) =>
    h("tr", {}, h("th", { scope: "row" }, first), ...rest.map((cell) => h("td", {}, cell))));
  return h("div", { class: "wide" }, h("table", { class: name }, ...heading, h("tbody", {}, ...body)));
}

/** The evaluation with the least validation loss. */
export function best(run) {
  const known = run.evals.filter((e) => typeof e.val_loss === "number");
  return known.reduce((low, e) => (low === null || e.val_loss < low.val_loss ? e : low), null);
}

/** A run's best validation loss in words; an estimate says so. */
export function bestText(run) {
  const one = best(run);
  if (!one) return "";
  return `${one.val_batches ? "~" : ""}${one.val_loss.toFixed(4)}`;
}

/** How many iterations a run has had, of how many. */
export function progress(run) {
  const { done } = run;
  const all = run.config.max_iters ?? run.start.max_iters;
  return typeof all === "number" ? `${count(done)} / ${count(all)}` : count(done);
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** What was trained, on what, where, how long, how well. */
export function facts(run) {
  const { start, saved, config, data } = run, rows = [];
  const add = (key, value) => { if (value) rows.push([key, value]); };
  const shape = ["n_layer", "n_head", "n_embd", "block_size"].map((k) => (config[k] ? `${k} ${config[k]}` : "")).filter(Boolean);
  add(word("model"), [config.family, start.params ? `${short(start.params)} ${word("params")}` : "", ...shape].filter(Boolean).join(", "));
  const split = (name) => data.splits[name] ? `${word(name)} ${count(data.splits[name].tokens)} ${word("tokens")}` : "";
  if (data) {
    const documents = data.splits.train.documents;
    add(word("data"), [data.name, split("train"), split("val"), documents > 0 ? `${count(documents)} ${word("documents")}` : "",
      `${word("vocabulary")} ${data.tokenizer} ${count(data.vocab_size)}`].filter(Boolean).join(", "));
    add(word("common"), data.common.map((t) => `${JSON.stringify(t.text)} ${(t.share * 100).toFixed(1)}%`).join("  "));
    add(word("begins"), JSON.stringify(data.begins));
    add(word("ends"), JSON.stringify(data.ends));
  } else {
    add(word("data"), String(saved.dataset ?? config.dataset ?? ""));
  }
  const { axis } = run, last = axis.done.length - 1, tokens = axis.tokens[last];
  add(word("iterations"), progress(run));
  if (tokens) {
    const epochs = start.train_tokens ? `, ${(tokens / start.train_tokens).toFixed(2)} ${word("epochs")}` : "";
    add(word("tokens"), count(tokens) + epochs);
  }
  add(word("time"), duration(axis.seconds[last]));
  const one = best(run);
  if (one) {
    const how = one.val_batches ? word("sampled", { n: one.val_batches }) : word("whole");
    const bits = typeof one.bits_per_byte === "number" ? `, ${one.bits_per_byte.toFixed(4)} ${word("bits")}` : "";
    add(word("best"), `${bestText(run)} (${how}; ${word("after", { i: count(one.iter) })})${bits}`);
  }
  add(word("machine"), ["device", "dtype", "threads", "core", "compiled", "processes"]
    .filter((k) => start[k] !== undefined && start[k] !== null).map((k) => `${k} ${start[k]}`).join(", "));
  add(word("versions"), Object.entries(saved.versions ?? {}).map(([k, v]) => `${k} ${v}`).join(", "));
  return rows;
}

/** A run in full: facts, commands, options. */
export function about(run) {
  const name = run.name, commands = [`bardlet sample ${name}`, `bardlet serve ${name}`, `bardlet export ${name} model.gguf --format=gguf`];
  const changed = new Set(run.changed);
  const options = Object.entries(run.config).sort(([a], [b]) => changed.has(b) - changed.has(a))
    .map(([k, v]) => [k, JSON.stringify(v), changed.has(k) ? word("changed") : ""]);
  return h("section", { class: "about" },
    h("h3", {}, name),
    table(null, facts(run)),
    h("p", {}, `${word("command")}: `, h("code", {}, run.command)),
    h("p", {}, `${word("use")}: `, ...commands.flatMap((c) => [h("code", {}, c), " "])),
    options.length ? h("details", {}, h("summary", {}, word("config")), table(null, options, "options")) : null);
}

/** The options in which runs differ. */
export function differences(runs) {
  const names = [...new Set(runs.flatMap((run) => run.changed))].filter((k) => k !== "out_dir");
  const rows = names.map((k) => [k, ...runs.map((run) => (k in run.config ? JSON.stringify(run.config[k]) : ""))])
    .filter(([, ...values]) => new Set(values).size > 1);
  rows.push([word("best"), ...runs.map(bestText)]);
  rows.push([word("iterations"), ...runs.map(progress)]);
  return table([word("option"), ...runs.map((run) => run.name)], rows);
}

/** What the doctor finds, each with the number of its mark in the chart. */
export function findings(run) {
  if (!run.findings.length) {
    return h("p", {}, run.judged ? word("healthy", { n: count(run.lines) }) : word("few"));
  }
  return h("ol", { class: "findings" }, ...run.findings.map((f) => h("li", {},
    h("strong", {}, illness(f.illness)), f.iter === null ? "" : ` ${word("since", { i: count(f.iter) })}`,
    `: ${f.evidence}. `, h("em", {}, f.suggestion))));
}

/** The marks of a run for a chart: findings, resumes, saves and events, in iterations. */
export function marks(run) {
  const result = [];
  const events = run.events.map((e) => ({
    it: e.iter, class: String(e.event),
    text: [word(String(e.event)), e.iter, typeof e.loss === "number" ? `loss ${e.loss.toFixed(3)}` : ""].filter((t) => t !== "").join(" "),
  }));
  result.push(...events.map((e) => ({ ...e, class: /^[a-z_]+$/.test(e.class) ? e.class : "event" })));
  for (const it of run.resumes) result.push({ it, class: "resumed", text: `${word("resumed")} ${it}` });
  for (const it of run.checkpoints.kept) result.push({ it, class: "kept", text: `${word("kept")} ${it}` });
  run.findings.forEach((f, i) => {
    if (f.iter !== null) result.push({ it: f.iter, class: "finding", text: `${illness(f.illness)}: ${f.evidence}`, label: String(i + 1) });
  });
  return result;
}

/** What happened in a run, the newest first, as a folded list. */
export function events(run) {
  const lines = marks(run).filter((m) => !["finding", "kept"].includes(m.class)).sort((a, b) => b.it - a.it).slice(0, 500);
  return h("details", {}, h("summary", {}, `${word("events")} (${lines.length})`),
    h("ul", { class: "events" }, ...lines.map((m) => h("li", {}, m.text))));
}

/** Samples of a run with a slider over its iterations; `place` keeps the slider's place by run. */
export function samples(run, place) {
  if (!run.samples.length) return h("p", {}, word("noSamples"));
  const last = run.samples.length - 1;
  const at = h("output", {}), texts = h("div", { class: "texts" });
  const slider = h("input", {
    type: "range", min: 0, max: last, value: Math.min(place.get(run.name) ?? last, last), "aria-label": word("samples"),
  });
  const show = () => {
    const group = run.samples[Number(slider.value)];
    if (Number(slider.value) === last) place.delete(run.name); else place.set(run.name, Number(slider.value));
    at.textContent = word("after", { i: count(group.iter) });
    texts.replaceChildren(...group.texts.map((t) => h("pre", {}, h("b", {}, t.prompt), t.text)));
  };
  slider.addEventListener("input", show);
  show();
  return h("div", { class: "samples" }, h("p", {}, slider, " ", at), texts);
}
