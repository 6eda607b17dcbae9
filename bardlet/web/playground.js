// The playground: a prompt, texts that a model writes on from it, and why. It asks `engine` alone,
// whatever computes behind that.

import { AttentionView } from "./attention_view.js";
import { Branches } from "./branches.js";
import { debounced, h, remember, remembered } from "./dom.js";
import { Inspector } from "./inspector.js";
import { layout } from "./layout.js";
import { SettingsView, settingsFor } from "./settings_view.js";
import { TextView } from "./text_view.js";
import { listed } from "./tokens.js";
import { language, translator } from "./words.js";

// Show the playground of an engine in an element. `choose` opens another of `engine.info.models`.
export function start(engine, element, { choose = null } = {}) {
  const theme = remembered("theme");
  if (theme) document.documentElement.dataset.theme = theme;
  return new Playground(engine, element, choose, language());
}

class Playground {
  constructor(engine, element, choose, chosen) {
    Object.assign(this, { engine, element, choose });
    const state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    this.settings = settingsFor(engine, state);
    this.texts = new Branches();
    this.writing = null;
    this.later = debounced(() => this.readNew(), 250);
    this.lookLater = debounced(() => this.look(), 90);
    this.saveLater = debounced(() => this.save(), 300);
    this.build(chosen);
    this.prompt.value = state.prompt ?? engine.info.example ?? "";
    this.closed = new AbortController();
    document.addEventListener("keydown", (event) => this.key(event), { signal: this.closed.signal });
    this.readPrompt();
  }

  // End it, for another in its place.
  close() {
    this.stop();
    this.closed.abort();
  }

  // --- how it is laid out

  build(chosen) {
    const t = this.t = translator(chosen);
    document.documentElement.lang = chosen;
    this.prompt = h("textarea", { id: "prompt", rows: 2, spellcheck: "false", placeholder: t("placeholder"),
      autocapitalize: "off", oninput: () => this.later(), "aria-describedby": "problem" });
    this.problem = h("p", { class: "problem", id: "problem", role: "alert" });
    const button = (name, action, kind) => h("button", { type: "button", class: kind, onclick: action }, t(name));
    this.buttons = {
      write: button("write", () => this.begin(), "primary"), step: button("step", () => this.begin(1), ""),
      stop: button("stop", () => this.stop(), ""), undo: button("undo", () => this.undo(), ""),
    };
    this.cards = h("div", { class: "cards" });
    this.inspector = new Inspector(t, this.engine, { choose: (id) => this.take(id), back: () => this.focus() });
    this.candidates = this.inspector.candidates;
    this.settingsView = new SettingsView(t, this.engine, this.settings, (settings) => this.set(settings));
    this.attention = this.engine.info.can?.attention === false ? null : new AttentionView(t, this.engine);
    this.views = new Map();
    this.element.className = "playground";
    this.element.replaceChildren(...layout(t, this, {
      language: (name) => this.translate(name), choose: this.choose, theme: () => this.attention?.refresh() }));
  }

  translate(chosen) {
    const prompt = this.prompt.value;
    remember("language", chosen);
    this.build(chosen);
    this.prompt.value = prompt;
    this.show();
  }

  // --- what is done

  readPrompt() {
    const reading = this.reading = { prompt: this.prompt.value };
    reading.done = this.read(reading);
    return reading.done;
  }

  async read(reading) {
    await this.stop();
    this.problem.textContent = "";
    await this.attempt(async () => {
      const { ids } = await this.engine.encode(reading.prompt);
      const scores = await this.engine.score(ids);
      if (reading !== this.reading) return;
      if (this.texts.all.length) this.texts.mark();
      this.texts.restart(reading.prompt, ids, scores);
      this.show();
    });
    if (reading === this.reading) this.reading = null;
  }

  // Read the prompt, unless it is the one that was read or is being read.
  readNew() {
    const prompt = this.prompt.value;
    if (this.texts.current && prompt === this.texts.prompt) this.reading = null;
    else if (prompt !== this.reading?.prompt) this.readPrompt();
    return this.reading?.done;
  }

  // Write on, once what was typed just now is read.
  async begin(length) {
    await this.readNew();
    if (this.prompt.value === this.texts.prompt) await this.write(length);
  }

  // Write on from where the active text ends, or several texts side by side.
  async write(length = this.settings.length) {
    if (this.writing) return;
    const { texts, settings } = this;
    if (!texts.current) return;
    texts.mark();
    const count = length === 1 ? 1 : settings.samples;
    const start = texts.current;
    const shared = start.ids.length;
    if (texts.all.length === 1 && !start.written && count > 1) texts.names = 0;
    const branches = count === 1 ? [start] : Array.from({ length: count }, (_, i) =>
      texts.branch(start, shared, { number: i + 1, seed: settings.seed + i }));
    if (count > 1) {
      texts.close(start);
      texts.active = texts.all.indexOf(branches[0]);
    }
    texts.at = this.hovered = null;
    const writing = this.writing = new AbortController();
    this.problem.textContent = "";
    branches.forEach((branch) => { branch.writing = true; });
    this.show();
    this.done = this.attempt(() => Promise.all(branches.map((branch, i) =>
      this.writeOne(branch, { ...settings, length, seed: settings.seed + i }, writing.signal))));
    await this.done;
    branches.forEach((branch) => { branch.writing = false; });
    if (this.writing === writing) this.writing = null;
    this.show();
  }

  async writeOne(branch, { temperature, top_k, top_p, min_p, seed, length }, signal) {
    // behind the prompt a seed gives its text; what goes on from that draws other numbers
    const options = { temperature, top_k, top_p, min_p, max_new_tokens: length,
      seed: (seed + branch.written) % 2 ** 32 };
    for await (const token of this.engine.generate([...branch.ids], options, signal)) {
      if (signal.aborted) return;
      branch.push(token);
      this.views.get(branch)?.updateSoon();
    }
  }

  stop() {
    this.writing?.abort();
    return this.done;
  }

  undo() {
    this.stop();
    if (!this.texts.undo()) return;
    this.reading = null;
    this.prompt.value = this.texts.prompt;
    this.show();
    if (document.activeElement === document.body) this.focus();
  }

  // Take a token in the place that is looked at: at the end it goes on, elsewhere it branches.
  async take(id) {
    if (this.writing) return;
    const { texts } = this;
    const { branch: from, at } = this.inspector.place;
    texts.mark();
    let branch = from;
    if (at < from.ids.length) {
      const [piece] = await this.engine.pieces([id]);
      branch = texts.branch(from, at, { name: from.name, token: listed(piece).text });
    }
    branch.push(this.candidates.scored(id));
    texts.active = texts.all.indexOf(branch);
    texts.at = this.hovered = null;
    this.show();
    await this.looking;
    // unless the reader has left them meanwhile
    if (this.candidates.element.contains(document.activeElement)) this.candidates.rows[0]?.button.focus();
  }

  set(settings) {
    this.settings = settings;
    this.candidates.reshape(settings);
    this.saveLater();
  }

  // --- what is shown

  // Everything, by the state.
  show() {
    const { texts, views } = this;
    for (const branch of [...views.keys()]) if (!texts.all.includes(branch)) views.delete(branch);
    for (const branch of texts.all) {
      if (!views.has(branch)) views.set(branch, new TextView(this.t, this.engine, branch, this.actions()));
    }
    const elements = texts.all.map((branch) => views.get(branch).element);
    const same = elements.length === this.cards.children.length &&
      elements.every((element, i) => element === this.cards.children[i]);
    if (!same) this.cards.replaceChildren(...elements);
    this.cards.classList.toggle("several", elements.length > 1);
    this.mark();
    texts.all.forEach((branch) => views.get(branch).update());
    this.buttons.write.disabled = this.buttons.step.disabled = Boolean(this.writing);
    this.buttons.stop.disabled = !this.writing;
    this.buttons.undo.disabled = !texts.past.length;
    this.element.classList.toggle("busy", Boolean(this.writing));
    this.saveLater();
    this.look();
  }

  actions() {
    return {
      select: (branch, at) => this.select(branch, at),
      preview: (branch, at) => {
        this.hovered = { branch, at };
        this.lookLater();
      },
      toCandidates: async () => {
        const from = document.activeElement;
        await this.look();
        if (document.activeElement === from) this.candidates.focus();
      },
      close: (branch) => {
        if (branch.writing) return;
        this.texts.mark();
        this.texts.close(branch);
        this.show();
      },
    };
  }

  select(branch, at) {
    this.hovered = null;
    this.texts.active = this.texts.all.indexOf(branch);
    this.texts.at = at >= branch.ids.length ? null : at;
    this.mark();
    this.look();
  }

  mark() {
    const { texts } = this;
    for (const branch of texts.all) {
      this.views.get(branch)?.show({ active: branch === texts.current, at: texts.at,
        alone: texts.all.length === 1 });
    }
  }

  focus() {
    this.views.get(this.texts.current)?.focus();
  }

  // Candidates and evidence of the token under the pointer, else of the selected one.
  look() {
    this.looking = this.lookNow();
    return this.looking;
  }

  async lookNow() {
    const { texts } = this;
    if (!texts.current || (this.writing && !this.hovered)) return;
    const hovered = this.hovered && texts.all.includes(this.hovered.branch) ? this.hovered : null;
    const branch = hovered?.branch ?? texts.current;
    const at = hovered?.at ?? texts.at ?? branch.ids.length;
    for (const [one, view] of this.views) view.look(one === branch && hovered ? at : undefined);
    const context = branch.ids.slice(0, at);
    const taken = at < branch.ids.length ? branch.ids[at] : null;
    this.attention?.show(branch.ids, at < branch.ids.length ? at : null);
    await this.attempt(() => this.inspector.show({ branch, at }, context, taken, this.settings));
  }

  // Do what may fail, and say so if it does.
  async attempt(work) {
    try {
      await work();
    } catch (error) {
      this.problem.textContent = error.message;
    }
  }

  // The address says the prompt and the settings, so that it can be handed on.
  save() {
    const state = new URLSearchParams({ prompt: this.texts.prompt, ...this.settings });
    try {
      history.replaceState(null, "", `#${state}`);
    } catch {
      // too many changes in a short time
    }
  }

  key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.begin();
    } else if (event.key === "Escape") {
      this.stop();
    } else if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z" &&
      !event.target.matches("input, textarea")) {
      event.preventDefault(); // browsers would take back what was last typed, wherever that was
      this.undo();
    }
  }
}
