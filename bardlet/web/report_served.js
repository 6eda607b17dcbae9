// The page of runs from a server, which reads them again while they train; asks for its key where
// it wants one.

import { h } from "./dom.js";
import { start } from "./report.js";
import { word } from "./report_words.js";
import { language, translator } from "./words.js";

/** The runs of the server, asked with a key. */
class Source {
  live = true;

  constructor(key) {
    this.headers = key ? { authorization: `Bearer ${key}` } : {};
  }

  async get(address) {
    let response;
    try {
      response = await fetch(address, { headers: this.headers });
    } catch {
      throw new Error(word("unreachable"));
    }
    if (!response.ok) {
      throw Object.assign(new Error(`${word("unreachable")} (${response.status})`), { status: response.status });
    }
    return response.json();
  }

  async list() {
    return (await this.get("runs/list.json")).runs;
  }

  run(name) {
    return this.get(`runs/run.json?name=${encodeURIComponent(name)}`);
  }
}

async function open(element, key) {
  const source = new Source(key);
  try {
    await source.list();
  } catch (error) {
    if (error.status === 401) return askForKey(element, key);
  }
  element.replaceChildren();
  return start(source, element);
}

function askForKey(element, wrong) {
  const t = translator(language());
  const input = h("input", { type: "password", id: "key", autocomplete: "off" });
  element.replaceChildren(h("form", {
    class: "alone",
    onsubmit: (event) => {
      event.preventDefault();
      open(element, input.value);
    },
  }, h("label", { for: "key" }, t("key")), input, h("button", { class: "primary" }, t("open")),
  wrong ? h("p", { role: "alert", class: "problem" }, "401") : null));
  input.focus();
}

open(document.getElementById("report"), "");
