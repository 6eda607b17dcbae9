// The texts of the playground: what was written, from where, and the way back.

const NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const MAX_TEXTS = 6; // side by side; the oldest others make room
const MAX_UNDO = 100;

// A text: `scores` has what each token was given, as an engine's `score` does; `prompt` tokens at its
// beginning were typed, and `shared` are those of the text that it branched from.
export class Branch {
  constructor({ name, ids, scores, prompt, origin = null, shared = 0 }) {
    Object.assign(this, { name, ids: [...ids], scores: [...scores], prompt, origin, shared });
    this.writing = false;
  }

  // How many tokens were written behind the prompt.
  get written() {
    return this.ids.length - this.prompt;
  }

  push(token) {
    this.ids.push(token.id);
    this.scores.push(token);
  }

  // Nats per token of those that have a log-probability; null where none has.
  get loss() {
    const known = this.scores.map((score) => score?.logprob).filter((value) => Number.isFinite(value));
    return known.length ? -known.reduce((a, b) => a + b, 0) / known.length : null;
  }
}

export class Branches {
  constructor() {
    this.prompt = "";
    this.all = [];
    this.active = 0;
    this.at = null; // the token that is looked at; null: the one that comes next
    this.names = 0;
    this.past = [];
  }

  get current() {
    return this.all[this.active];
  }

  // Remember how everything is, for `undo`.
  mark() {
    const { prompt, active, at, names } = this;
    this.past.push({ prompt, active, at, names, all: this.all.map((branch) => new Branch(branch)) });
    if (this.past.length > MAX_UNDO) this.past.shift();
  }

  // Go back to what was marked last; whether there was anything.
  undo() {
    const before = this.past.pop();
    if (before) Object.assign(this, before);
    return Boolean(before);
  }

  // One text, of a prompt.
  restart(prompt, ids, scores) {
    this.names = 0;
    this.prompt = prompt;
    this.all = [new Branch({ name: this.name(), ids, scores, prompt: ids.length })];
    this.active = 0;
    this.at = null;
  }

  name() {
    const number = this.names++;
    return NAMES[number % 26] + (number >= 26 ? Math.floor(number / 26) : "");
  }

  // A new text from the first `count` tokens of another, beside it; it becomes the active one.
  branch(from, count, origin) {
    const branch = new Branch({ name: this.name(), ids: from.ids.slice(0, count),
      scores: from.scores.slice(0, count), prompt: Math.min(from.prompt, count), origin, shared: count });
    this.all.push(branch);
    while (this.all.length > MAX_TEXTS) {
      this.all.splice(this.all.findIndex((one) => one !== from && one !== branch && !one.writing), 1);
    }
    this.active = this.all.indexOf(branch);
    this.at = null;
    return branch;
  }

  close(branch) {
    const index = this.all.indexOf(branch);
    if (this.all.length < 2 || index < 0) return;
    const current = this.current;
    this.all.splice(index, 1);
    this.active = Math.max(0, current === branch ? index - 1 : this.all.indexOf(current));
    this.at = null;
  }
}
