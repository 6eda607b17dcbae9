// Numbers of curves: axes to interpolate on, smoothing, scales and ticks. Nothing here draws.

/** The value at `at` of a table of ascending `xs` and their `ys`, in between linearly; before them the
 * first, behind them along the last two. Null where the table is empty, or has null there. */
export function interpolate(xs, ys, at) {
  let low = 0, high = xs.length - 1;
  if (high < 0) return null;
  if (at <= xs[0]) return ys[0];
  if (at > xs[high]) {
    if (high === 0) return ys[0];
    low = high - 1; // beyond the last line: as fast as up to it
  } else {
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < at) low = middle; else high = middle;
    }
  }
  high = low + 1;
  if (ys[low] === null || ys[high] === null) return null;
  return ys[low] + ((at - xs[low]) / (xs[high] - xs[low])) * (ys[high] - ys[low]);
}

/** Iterations of a run to the chosen axis: "iterations", "tokens" or "seconds". */
export function axisOf(run, kind) {
  if (kind === "iterations") return (it) => it;
  return (it) => interpolate(run.axis.done, run.axis[kind], it);
}

/** Exponential moving mean of values with nulls; weight 0 is the values themselves, 0.99 very smooth.
 *
 * The first values count as much as they should (Adam's correction), as in TensorBoard.
 */
export function smoothed(values, weight) {
  let mean = 0, seen = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = mean * weight + value * (1 - weight);
    seen += 1;
    return weight === 0 ? value : mean / (1 - weight ** seen);
  });
}

/** The points of a series on an axis: [{x, it, mean, low, high}], gaps as null means. */
export function points(series, toX) {
  const { x, mean, low, high } = series;
  const result = [];
  for (let i = 0; i < x.length; i++) {
    const at = toX(x[i]);
    if (at === null || !Number.isFinite(at)) continue;
    result.push({ x: at, it: x[i], mean: mean[i], low: low ? low[i] : null, high: high ? high[i] : null });
  }
  return result;
}

/** A scale from [low, high] to [from, to] in pixels, linear or logarithmic. */
export function scale(low, high, from, to, log) {
  const f = log ? (v) => Math.log10(Math.max(v, Number.MIN_VALUE)) : (v) => v;
  const a = f(low), span = f(high) - a || 1;
  const map = (v) => from + ((f(v) - a) / span) * (to - from);
  map.invert = (pixel) => {
    const v = a + ((pixel - from) / (to - from)) * span;
    return log ? 10 ** v : v;
  };
  return map;
}

/** Round values between low and high for the ticks of an axis, about `count` of them. */
export function ticks(low, high, count, log) {
  if (!(high > low)) return [low];
  if (log && high / low > 20) {
    const result = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
      for (const m of high / low > 2000 ? [1] : [1, 2, 5]) result.push(m * 10 ** p);
    }
    return result.filter((v) => v >= low && v <= high);
  }
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  const result = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) result.push(i * step);
  return result;
}

/** A number in few characters: 12k, 3.4M, 0.0012, 4.17. */
export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e12 || (size > 0 && size < 1e-3)) return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
  for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit * 10 || (unit > 1e3 && size >= unit)) return `${Number((value / unit).toPrecision(4))}${name}`;
  }
  return String(Number(value.toPrecision(4)));
}

/** The least and greatest value over points and other values; null where there is none. */
export function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) {
    if (v === null || v === undefined || !Number.isFinite(v)) continue;
    if (v < low) low = v;
    if (v > high) high = v;
  }
  return low > high ? null : [low, high];
}
