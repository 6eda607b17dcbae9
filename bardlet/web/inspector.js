// What the model and the training text say of one place: candidates, and how often the context
// stands in the text, in full or only its newest tokens.

import { CandidatesView } from "./candidates_view.js";
import { Cache } from "./dom.js";
import { EvidenceView } from "./evidence_view.js";

const KEPT = 300; // answers that need not be asked for again

export class Inspector {
  // `actions`: choose(id), back().
  constructor(t, engine, actions) {
    Object.assign(this, { t, engine });
    this.logits = new Cache(KEPT);
    this.counts = new Cache(KEPT);
    this.candidates = new CandidatesView(t, engine, actions);
    this.evidence = new EvidenceView(t, engine, (size) => this.shorten(size));
    this.size = 0; // tokens of the context that are counted; 0: as many as stand in the text
    this.elements = [this.candidates.element, this.evidence.element];
  }

  // Show what could come after `context`, where one token may have been `taken`; `place` is what
  // the candidates on show are of.
  async show(place, context, taken, settings) {
    this.context = context;
    const ask = (ids) => this.logits.get(ids.join(), () => this.engine.logits(ids));
    if (!await this.candidates.show(context, taken, settings, ask)) return;
    this.place = place;
    await this.count();
  }

  reshape(settings) {
    this.candidates.reshape(settings);
  }

  shorten(size) {
    this.size = size;
    return this.count();
  }

  async count() {
    const { evidence, candidates } = this;
    // of the text that it goes on: nothing is counted across texts
    const context = this.context.slice(this.context.lastIndexOf(this.engine.info.end_of_text) + 1);
    if (!context.length) return evidence.clear();
    if (this.engine.info.can?.evidence === false) return evidence.none("");
    const turn = this.counting = Symbol("turn");
    evidence.waiting();
    const whole = await this.told(context);
    const asked = this.size ? context.slice(-this.size) : context;
    const told = whole && asked.length < context.length ? await this.told(asked) : whole;
    if (turn !== this.counting) return undefined;
    if (!told) return evidence.none(this.engine.info.missing);
    candidates.evidence(told);
    return evidence.show({ whole, told, context, asked });
  }

  told(ids) {
    return this.counts.get(ids.join(), () => this.engine.evidence(ids));
  }
}
