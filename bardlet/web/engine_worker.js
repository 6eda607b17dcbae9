// The engine of an exported page in a Web Worker, so that the page answers while it computes.
//
// A message in is {call, method, args}, or {call, stop}; out go {call, value} and {call, error}, of
// a text {call, tokens} as they are written and {call, value} at its end.

import { Engine } from "./engine.js";
import { Evidence } from "./evidence.js";
import { tokenizer } from "./tokenizer.js";

const AT_ONCE_MS = 20; // between looks at what else has been asked

let engine = null; // or what counts, in a worker of its own: sorting the text takes a while
const stopped = new Set();
let writing = Promise.resolve(); // texts are written one after another, others are answered between

async function write(call, args) {
  const tokens = engine.generate(...args);
  for (let done = false; !done && !stopped.has(call); ) {
    const some = [];
    const until = performance.now() + AT_ONCE_MS;
    do {
      const { value, done: ended } = tokens.next();
      done = ended;
      if (!done) some.push(value);
    } while (!done && performance.now() < until);
    if (some.length > 0) postMessage({ call, tokens: some });
    await new Promise((resume) => setTimeout(resume)); // messages that have come meanwhile
  }
  stopped.delete(call);
}

async function answer({ call, method, args }) {
  try {
    if (method === "load") {
      engine = new Engine(...args);
      postMessage({ call, value: engine.info });
    } else if (method === "loadText") {
      const [described, splits] = args;
      const counts = new Evidence(splits, tokenizer(described));
      engine = { evidence: (ids) => counts.of(ids) };
      postMessage({ call, value: null });
    } else if (method === "generate") {
      writing = writing.catch(() => {}).then(() => write(call, args));
      await writing;
      postMessage({ call, value: null });
    } else {
      postMessage({ call, value: engine[method](...args) });
    }
  } catch (error) {
    postMessage({ call, error: error.message });
  }
}

addEventListener("message", ({ data }) => {
  if (data.stop) stopped.add(data.call);
  else answer(data);
});
