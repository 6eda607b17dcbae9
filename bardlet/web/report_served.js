// The page of runs from a server, which reads them again while they train.

import { start } from "./report.js";
import { word } from "./report_words.js";

let key = "";

/** The JSON value at an address; asks for the server's key where it wants one. */
async function get(address) {
  let response;
  try {
    response = await fetch(address, { headers: key ? { authorization: `Bearer ${key}` } : {} });
  } catch {
    throw new Error(word("unreachable"));
  }
  if (response.status === 401 && !get.asked) {
    get.asked = true;
    key = prompt(word("key")) ?? "";
    return get(address);
  }
  if (!response.ok) throw new Error(`${word("unreachable")} (${response.status})`);
  return response.json();
}

const source = {
  live: true,
  list: async () => (await get("runs/list.json")).runs,
  run: (name) => get(`runs/run.json?name=${encodeURIComponent(name)}`),
};
start(source, document.getElementById("report"));
