// The page of `bardlet explain --html`: the stations of one token step, each with its code folded.

import { h } from "./dom.js";
import { embeddedData } from "./embedded.js";

/** The function that does it, with the line of the step marked. */
function code(source) {
  const lines = source.lines.map((line, i) => {
    const number = source.first + i;
    const here = number === source.line; // a block of its own, which ends its line itself
    const text = `${String(number).padStart(4)}  ${line}${here ? "" : "\n"}`;
    return h("span", { class: here ? "here" : null }, text);
  });
  return h("details", {}, h("summary", {}, `${source.file}, line ${source.line}`), h("pre", {}, ...lines));
}

const data = embeddedData();
const way = data.stations.map((station) =>
  h("li", {}, h("h2", {}, station.title), h("pre", {}, station.lines.join("\n")),
    station.source ? code(station.source) : null));
document.body.append(h("main", {}, h("h1", {}, data.heading), h("ol", {}, ...way)));
