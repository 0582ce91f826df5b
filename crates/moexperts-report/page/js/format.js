"use strict";

// Numbers and names as people read them. All scripts of the page are joined into one, in the order
// that the Rust side lists; this one comes first, so its "use strict" holds for all.

const NO_VALUE = "–";
const significant = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const precise = new Intl.NumberFormat("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** At most three significant digits, as on axes; from 1,000 on every digit before the point. */
const number = (value) => inDigits(value, significant);

/** Three significant digits even where the last are zeros, as measurements have them. */
const measured = (value) => inDigits(value, precise);

function inDigits(value, format) {
  if (!Number.isFinite(value)) return NO_VALUE;
  return (Math.abs(value) >= 1000 ? whole : format).format(value);
}

/** A fixed number of decimals, for columns whose points should stand below each other. */
function decimals(value, count) {
  if (!Number.isFinite(value)) return NO_VALUE;
  return value.toLocaleString("en", { minimumFractionDigits: count, maximumFractionDigits: count });
}

const TIME_UNITS = [
  [1e-3, "µs"],
  [1, "ms"],
  [1e3, "s"],
];
const SIZE_UNITS = [
  [1, "B"],
  [2 ** 10, "KiB"],
  [2 ** 20, "MiB"],
  [2 ** 30, "GiB"],
];
const RATE_UNITS = [
  [1, ""],
  [1e3, "k"],
  [1e6, "M"],
  [1e9, "G"],
  [1e12, "T"],
  [1e15, "P"],
];

/** The largest unit that leaves at least 1 before the point, as `[factor, name]`. */
function unitFor(value, units) {
  return units.filter(([factor]) => Math.abs(value) >= factor).at(-1) ?? units[0];
}

function withUnit(value, units, suffix = "") {
  if (!Number.isFinite(value)) return NO_VALUE;
  const [factor, name] = unitFor(value, units);
  return `${measured(value / factor)} ${name}${suffix}`;
}

const duration = (milliseconds) => withUnit(milliseconds, TIME_UNITS);
const size = (bytes) => withUnit(bytes ?? NaN, SIZE_UNITS);
const bandwidth = (bytesPerSecond) => withUnit(bytesPerSecond, RATE_UNITS, "B/s");
const performanceRate = (flopsPerSecond) => withUnit(flopsPerSecond, RATE_UNITS, "FLOP/s");
const percent = (fraction) => (Number.isFinite(fraction) ? `${measured(fraction * 100)} %` : NO_VALUE);

/** A change with its sign: a true minus, as wide as the plus. */
function signedPercent(change) {
  if (!Number.isFinite(change)) return NO_VALUE;
  const sign = change > 0 ? "+" : change < 0 ? "−" : "±";
  return `${sign}${decimals(Math.abs(change) * 100, 1)} %`;
}

/** `count` of something: "1 workload", "3 workloads". */
const counted = (count, noun) => `${whole.format(count)} ${noun}${count === 1 ? "" : "s"}`;

/** "a", "a and b", "a, b and c". */
function listed(words) {
  if (words.length < 2) return words.join("");
  return `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

/**
 * A name inside a sentence: no more than `limit` characters, none of them one that turns the
 * direction of what follows. An emoji is not cut in two.
 */
function shortened(text, limit) {
  const plain = String(text)
    .slice(0, 40 * limit)
    .replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, " ")
    .replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "");
  const characters = Array.from(plain);
  return characters.length > limit ? `${characters.slice(0, limit - 1).join("")}…` : characters.join("");
}

/** A name in a chart, whose library would read `{style|text}` as markup. */
const chartName = (text, limit = 24) => shortened(text, limit).replaceAll("{", "{\u2060");

/** Several measurements of a rate: the median, and from where to where most of them lie. */
function spread(rate, text) {
  return `${text(rate.median)} (${text(rate.p10)} to ${text(rate.p90)})`;
}
