// Where everything of the playground stands, and what is above it: which model this is, language and
// theme, and what the colours mean.

import { h, remember, remembered } from "./dom.js";
import { LANGUAGES } from "./words.js";

const THEMES = ["auto", "light", "dark"];

// The parts of the page, of a playground's views. `actions` are the header's.
export function layout(t, { engine, prompt, problem, buttons, cards, attention, inspector, settingsView }, actions) {
  const asked = h("section", { class: "panel prompt" }, h("label", { for: prompt.id }, t("prompt")), prompt,
    problem, h("div", { class: "buttons" }, ...Object.values(buttons)));
  const keys = h("details", { class: "help keys" }, h("summary", {}, t("keys")), h("p", {}, t("help")));
  const left = h("div", { class: "writing-side" }, asked, legend(t), cards,
    h("p", { class: "help hint" }, t("selectHint")), attention?.element, keys);
  const right = h("aside", {}, ...inspector.elements, settingsView.element);
  return [header(t, engine, actions), h("div", { class: "columns" }, left, right),
    h("footer", { class: "help" }, engine.info.local ? "" : t("privacy"))];
}

// The header. `actions`: language(name), theme(), choose(name) or null.
function header(t, engine, actions) {
  const info = engine.info;
  const kind = ["char", "byte", "bpe"].includes(info.tokenizer) ? info.tokenizer : "other";
  const facts = t("facts", { parameters: short(info.parameters), layers: info.n_layer, heads: info.n_head,
    context: info.context, kind: t(kind), vocabulary: info.vocab_size });
  const names = info.models?.length > 1 && actions.choose ? info.models : null;
  const model = names
    ? select(t("model"), names.map((name) => [name, name]), info.name, actions.choose)
    : h("span", { class: "model" }, info.name);
  const theme = select(t("theme"), THEMES.map((name) => [name, t(name)]), remembered("theme") || "auto", (name) => {
    remember("theme", name === "auto" ? "" : name);
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    actions.theme();
  });
  const spoken = select(t("language"), Object.entries(LANGUAGES), t.language, actions.language);
  return h("header", { class: "top" },
    h("div", { class: "title" }, h("h1", {}, "bardlet"), model),
    h("p", { class: "help facts" }, info.parameters ? facts : t("tagline")),
    h("div", { class: "choices" }, info.runs ? h("a", { href: info.runs }, t("runs")) : null, spoken, theme));
}

function select(label, options, value, changed) {
  const element = h("select", { "aria-label": label, title: label, onchange: () => changed(element.value) },
    ...options.map(([name, text]) => h("option", { value: name, selected: name === value }, text)));
  return element;
}

// A count as 820.9K or 124M.
function short(count) {
  if (!count) return "";
  return new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(count);
}

// What the colours of tokens mean.
function legend(t) {
  const steps = [0, 1, 2, 3, 4, 5, 6].map((level) => h("span", { class: `swatch s${level}`, "aria-hidden": "true" }));
  return h("p", { class: "help legend" }, h("span", {}, t("legend")), h("span", {}, t("expected")),
    h("span", { class: "swatches" }, ...steps), h("span", {}, t("surprising")));
}
