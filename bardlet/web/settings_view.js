// The settings of sampling: sliders whose changes reshape the distribution at once.

import { h } from "./dom.js";

export const DEFAULTS = { temperature: 0.8, top_k: 200, top_p: 1, min_p: 0, length: 100, seed: 1337,
  samples: 1 };
const SLIDERS = { temperature: [0, 2, 0.05], top_k: [0, 200, 1], top_p: [0.05, 1, 0.01],
  min_p: [0, 0.5, 0.01] };
const NUMBERS = { length: [1, 2000], samples: [1, 4], seed: [0, 4294967295] };

// The settings that a vocabulary has, over those that were given, each within its bounds.
export function settingsFor(engine, values = {}) {
  const settings = { ...DEFAULTS };
  for (const [name, value] of Object.entries(values)) {
    const bounds = SLIDERS[name] || NUMBERS[name];
    const number = Number(value);
    if (!bounds || value === "" || !Number.isFinite(number)) continue;
    const within = Math.min(Math.max(number, bounds[0]), bounds[1]);
    settings[name] = name in NUMBERS || name === "top_k" ? Math.round(within) : within;
  }
  if (settings.top_k >= engine.info.vocab_size) settings.top_k = 0;
  return settings;
}

export class SettingsView {
  // `changed` is called with the new settings.
  constructor(t, engine, settings, changed) {
    this.t = t;
    this.engine = engine;
    this.settings = settings;
    this.changed = changed;
    this.inputs = {};
    const highest = Math.min(SLIDERS.top_k[1], engine.info.vocab_size);
    const sliders = Object.entries(SLIDERS).map(([name, [low, high, step]]) =>
      this.slider(name, low, name === "top_k" ? highest : high, step));
    const numbers = Object.entries(NUMBERS).map(([name, [low, high]]) => this.number(name, low, high));
    this.element = h("section", { class: "panel settings", "aria-label": t("settings") },
      h("header", {}, h("h2", {}, t("settings")),
        h("button", { class: "quiet", type: "button", onclick: () => this.reset() }, t("reset"))),
      ...sliders, h("div", { class: "numbers" }, ...numbers));
  }

  slider(name, min, max, step) {
    const output = h("output", { for: `set-${name}` });
    const input = h("input", { type: "range", id: `set-${name}`, min, max, step,
      "aria-describedby": `help-${name}`,
      oninput: () => this.set(name, Number(input.value)) });
    this.inputs[name] = { input, output };
    this.show(name);
    return h("div", { class: "setting" },
      h("label", { for: `set-${name}` }, this.t(name)), output, input,
      h("p", { class: "help", id: `help-${name}` }, this.t(`${name}Help`)));
  }

  number(name, min, max) {
    const input = h("input", { type: "number", id: `set-${name}`, min, max, step: 1,
      inputmode: "numeric",
      onchange: () => {
        this.set(name, settingsFor(this.engine, { [name]: input.value })[name]);
        this.show(name);
      } });
    this.inputs[name] = { input };
    this.show(name);
    return h("label", { class: "number" }, h("span", {}, this.t(name)), input);
  }

  // What an input and its number say of a setting.
  show(name) {
    const { input, output } = this.inputs[name];
    const value = this.settings[name];
    input.value = String(value);
    if (output) output.textContent = name === "top_k" && !value ? this.t("all") : String(value);
    if (output) input.setAttribute("aria-valuetext", output.textContent);
  }

  set(name, value) {
    this.settings = { ...this.settings, [name]: value };
    this.show(name);
    this.changed(this.settings);
  }

  reset() {
    this.settings = settingsFor(this.engine);
    Object.keys(this.inputs).forEach((name) => this.show(name));
    this.changed(this.settings);
  }
}
