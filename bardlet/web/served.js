// The playground of a server: asks for its key where it wants one, and starts.

import { h } from "./dom.js";
import { start } from "./playground.js";
import { ServerEngine } from "./server_engine.js";
import { language, translator } from "./words.js";

const t = translator(language());

let shown = null;

async function open(element, model, key) {
  shown?.close();
  try {
    const engine = await ServerEngine.connect(model, key);
    element.replaceChildren();
    const choose = (name) => open(element, name, key);
    shown = start(engine, element, { choose });
  } catch (error) {
    if (error.status === 401) askForKey(element, model, key ? error.message : "");
    else element.replaceChildren(h("p", { class: "alone", role: "alert" }, error.message));
  }
}

function askForKey(element, model, problem) {
  const input = h("input", { type: "password", id: "key", autocomplete: "off" });
  const form = h("form", { class: "alone", onsubmit: (event) => {
    event.preventDefault();
    open(element, model, input.value);
  } },
  h("label", { for: "key" }, t("key")), input,
  h("button", { class: "primary" }, t("open")),
  problem ? h("p", { role: "alert", class: "problem" }, problem) : null);
  element.replaceChildren(form);
  input.focus();
}

open(document.getElementById("playground"), null, "");
