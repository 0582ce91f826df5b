// The report that is embedded in the page, and the part of it that the filters leave.

const FIELDS = [
  { key: "device", label: "device" },
  { key: "dtype", label: "dtype" },
  { key: "batch", label: "batch" },
  { key: "sequence", label: "sequence" },
  { key: "new_tokens", label: "new tokens" },
  { key: "compile", label: "compile" },
  { key: "implementation", label: "backend" },
];
const WORKLOAD_FIELDS = ["device", "dtype", "batch", "sequence", "new_tokens"];
const COMPILE_MODES = ["none", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"];
const MEASURES = [
  { key: "generation", label: "generation", about: "prefill and decode together" },
  { key: "prefill", label: "prefill", about: "one forward over batch × sequence tokens" },
  { key: "decode", label: "decode", about: "new tokens − 1 forwards over batch tokens each" },
];
const isNumber = (field) => ["batch", "sequence", "new_tokens"].includes(field);
const aboutMeasure = (measure) => MEASURES.find(({ key }) => key === measure).about;
const PHASES = ["prefill", "decode"];

function readReport() {
  const report = JSON.parse(byId("report").textContent);
  assignPlaces(
    [...report.runs.flatMap((run) => run.cells), ...report.changes, ...report.reference].map(
      (entry) => entry.implementation,
    ),
  );
  return report;
}

/** Orders two values of one field: numbers by size, names in the order people list them. */
function compareValues(field, one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  const rank = (value) => {
    if (field === "implementation") return placeOf(value);
    const place = field === "compile" ? COMPILE_MODES.indexOf(value) : -1;
    return place < 0 ? COMPILE_MODES.length : place;
  };
  return rank(one) - rank(other) || String(one).localeCompare(String(other), "en");
}

function distinct(entries, field) {
  return [...new Set(entries.map((entry) => entry[field]))].sort((a, b) => compareValues(field, a, b));
}

/** Orders entries as the grid runs through them: device, dtype, batch, … backend. */
function inGridOrder(entries) {
  return [...entries].sort((one, other) => {
    for (const { key } of FIELDS) {
      const order = compareValues(key, one[key], other[key]);
      if (order) return order;
    }
    return 0;
  });
}

const keyOf = (entry, fields) => JSON.stringify(fields.map((field) => entry[field]));

/** Groups in order of first appearance: an array of arrays. */
function grouped(entries, key) {
  const groups = new Map();
  for (const entry of entries) {
    const name = key(entry);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(entry);
  }
  return [...groups.values()];
}

/** A measure of a cell, or null where there is none: decode, where one new token needs no decoding. */
function timeOf(cell, measure) {
  const time = cell[measure];
  return time && time.median > 0 ? time : null;
}

/** Whether a cell's time says something about its own backend: on a GPU another one may decode. */
function isOwn(cell, measure) {
  return measure !== "decode" || cell.decode_implementation === cell.implementation;
}

/** Whether both have runs enough for ranges: as in changes.rs. */
const haveRanges = (one, other) => Math.min(one.runs, other.runs) >= 3;

/** Whether the ranges p10 to p90 of two times have a point in common. */
const overlap = (one, other) => one.p10 <= other.p90 && other.p10 <= one.p90;

/** Device and dtype, where the cells in view differ in them. */
function targetParts(entry, view, limit) {
  return ["device", "dtype"]
    .filter((field) => view.values.get(field).length > 1)
    .map((field) => chartName(entry[field], limit));
}

/** A workload as people say it. */
function workloadName(entry, view) {
  return [
    ...targetParts(entry, view, 12),
    `batch ${entry.batch}`,
    `sequence ${entry.sequence}`,
    `${entry.new_tokens} new`,
  ].join(" · ");
}

/** A combination inside a sentence. */
function cellInWords(cell, view) {
  return `${shortened(cell.implementation, 40)}, ${workloadName(cell, view)}, compile ${shortened(cell.compile, 40)}`;
}

function matches(entry, selection) {
  return FIELDS.every(({ key }) => {
    const chosen = selection.get(key);
    return chosen.size === 0 || entry[key] === null || chosen.has(entry[key]);
  });
}

/** What all sections draw: the cells, changes and published figures that the filters leave. */
function viewOf(report, state) {
  const run = report.runs.at(-1);
  const cells = inGridOrder(run.cells.filter((cell) => matches(cell, state.selection)));
  // Published figures come from other hardware: their device and dtype are no reason to hide them.
  const reference = report.reference.filter(
    (figure) =>
      figure.measure === state.measure &&
      ["batch", "sequence", "new_tokens", "compile", "implementation"].every((field) => {
        const chosen = state.selection.get(field);
        return chosen.size === 0 || figure[field] === null || chosen.has(figure[field]);
      }),
  );
  return {
    report,
    run,
    cells,
    reference,
    measure: state.measure,
    changes: inGridOrder(
      report.changes.filter((change) => change.measure === state.measure && matches(change, state.selection)),
    ),
    values: new Map(FIELDS.map(({ key }) => [key, distinct(cells, key)])),
  };
}

function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
