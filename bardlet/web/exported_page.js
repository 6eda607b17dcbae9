// The page of an exported model: its engine, and the playground around it.

import { LocalEngine } from "./local_engine.js";
import { start } from "./playground.js";

const element = document.getElementById("playground");
const asked = new URLSearchParams(location.hash.slice(1));
const opening = LocalEngine.open({ simd: asked.get("simd") !== "no", worker: asked.get("worker") !== "no" });
// for the console, and for what checks the page: a promise of the engine
globalThis.bardlet = { engine: opening };

opening.then((engine) => start(engine, element), (error) => {
  element.textContent = error.message;
  element.role = "alert";
});
