// The distribution that a token is drawn from: bardlet/sampling/filters.py in JavaScript, in the
// same order: temperature, top_k, top_p, min_p.

const COLDEST = 1e-30; // below it a temperature is 0: the likeliest alone is left

// Probabilities of all tokens by their logits, in float64.
export function softmax(logits) {
  let highest = -Infinity;
  for (const logit of logits) if (logit > highest) highest = logit;
  const result = new Float64Array(logits.length);
  let sum = 0;
  for (let i = 0; i < result.length; i++) {
    result[i] = Math.exp(logits[i] - highest);
    sum += result[i];
  }
  for (let i = 0; i < result.length; i++) result[i] /= sum;
  return result;
}

// The ids of the n largest values, the largest first; of equal ones the lower id.
export function largest(values, n) {
  if (n > values.length / 8) return sorted(values, Array.from(values.keys())).slice(0, n);
  // of a large vocabulary a few: those above the n-th so far, thinned out now and then
  let best = [];
  let floor = -Infinity;
  for (let id = 0; id < values.length; id++) {
    if (best.length >= n && values[id] <= floor) continue;
    best.push(id);
    if (best.length < 2 * n + 16) continue;
    best = sorted(values, best).slice(0, n);
    floor = values[best[n - 1]];
  }
  return sorted(values, best).slice(0, n);
}

// Ids by their values, the largest first.
function sorted(values, ids) {
  return ids.sort((a, b) => values[b] - values[a] || a - b);
}

// Probabilities (V) as `temperature`, `top_k` (0: all), `top_p` and `min_p` change them. They sum
// to 1; at temperature 0 the likeliest has all.
export function reshape(logits, { temperature, top_k = 0, top_p = 1, min_p = 0 }) {
  if (temperature < COLDEST) {
    const one = new Float64Array(logits.length);
    one[largest(logits, 1)[0]] = 1;
    return one;
  }
  const scaled = new Float64Array(logits);
  for (let id = 0; id < scaled.length; id++) scaled[id] /= temperature;
  if (top_k > 0 && top_k < scaled.length) {
    const cutoff = scaled[largest(scaled, top_k)[top_k - 1]]; // ties with it are kept
    for (let id = 0; id < scaled.length; id++) if (scaled[id] < cutoff) scaled[id] = -Infinity;
  }
  if (top_p < 1) {
    const probabilities = softmax(scaled);
    // all below this together have less than is cut off: they go without being sorted
    const rare = (1 - top_p) / (2 * scaled.length);
    const likely = [];
    for (let id = 0; id < scaled.length; id++) {
      if (probabilities[id] > rare) likely.push(id);
      else scaled[id] = -Infinity;
    }
    let before = 0;
    for (const id of sorted(scaled, likely)) {
      if (before >= top_p) scaled[id] = -Infinity;
      before += probabilities[id];
    }
  }
  const probabilities = softmax(scaled);
  if (min_p <= 0) return probabilities;
  const floor = min_p * probabilities.reduce((a, b) => Math.max(a, b), 0);
  for (let id = 0; id < scaled.length; id++) if (probabilities[id] < floor) scaled[id] = -Infinity;
  return softmax(scaled);
}

// The token on which a number in [0, 1) falls, by the cumulative sum of probabilities.
export function draw(probabilities, uniform) {
  let sum = 0;
  let last = 0;
  for (let id = 0; id < probabilities.length; id++) {
    if (probabilities[id] > 0) last = id;
    sum += probabilities[id];
    if (uniform < sum) return id;
  }
  return last; // rounding has left the sum below the number
}
