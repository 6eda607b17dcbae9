// The page of `bardlet explain --html`: the stations of one token step, each with its code folded.

import { embeddedData } from "./embedded.js";

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text; // never HTML: prompts and tokens are others' text
  made.append(...children);
  return made;
}

/** The function that does it, with the line of the step marked. */
function code(source) {
  const lines = source.lines.map((line, i) => {
    const number = source.first + i;
    const here = number === source.line; // a block of its own, which ends its line itself
    const made = element("span", `${String(number).padStart(4)}  ${line}${here ? "" : "\n"}`);
    if (here) made.className = "here";
    return made;
  });
  const summary = element("summary", `${source.file}, line ${source.line}`);
  return element("details", "", summary, element("pre", "", ...lines));
}

const data = embeddedData();
const way = element("ol");
for (const station of data.stations) {
  const item = element("li", "", element("h2", station.title));
  item.append(element("pre", station.lines.join("\n")));
  if (station.source) item.append(code(station.source));
  way.append(item);
}
document.body.append(element("main", "", element("h1", data.heading), way));
