// The page of runs in a file: all runs stand in it.

import { embeddedData } from "./embedded.js";
import { start } from "./report.js";

const { runs } = embeddedData();
const source = {
  live: false,
  list: async () => runs.map(({ name, version, modified }) => ({ name, version, modified })),
  run: async (name) => runs.find((run) => run.name === name),
};
start(source, document.getElementById("report"));
