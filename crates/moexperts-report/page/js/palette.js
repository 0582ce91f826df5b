// A colour and a symbol for every backend, after Okabe and Ito: the three that the program brings
// keep theirs in every report, others take the next ones in the order in which they appear. The
// colours themselves are custom properties of the style sheet, so light, dark and paper differ there.

const KNOWN_IMPLEMENTATIONS = ["eager", "batched_mm", "grouped_mm"];
const SERIES_COLOURS = 8;

// In a box of 10 by 10. One fewer than the colours, so that the pairs repeat only after 56.
const SYMBOLS = [
  "M5 0A5 5 0 1 1 5 10A5 5 0 1 1 5 0Z",
  "M5 0.4L10 9.6H0Z",
  "M5 0L10 5L5 10L0 5Z",
  "M0.6 0.6H9.4V9.4H0.6Z",
  "M0 0.8H10L5 10Z",
  "M3.4 0H6.6V3.4H10V6.6H6.6V10H3.4V6.6H0V3.4H3.4Z",
  "M5 0L6.5 3.5L10 3.9L7.4 6.4L8.1 10L5 8.2L1.9 10L2.6 6.4L0 3.9L3.5 3.5Z",
];

const places = new Map();

/** Gives every backend of the report its place; called once, before anything is drawn. */
function assignPlaces(implementations) {
  for (const name of [...KNOWN_IMPLEMENTATIONS, ...implementations]) {
    if (!places.has(name)) places.set(name, places.size);
  }
}

const placeOf = (implementation) => places.get(implementation) ?? 0;
const colourVariable = (implementation) => `--series-${placeOf(implementation) % SERIES_COLOURS}`;
const symbolPath = (implementation) => SYMBOLS[placeOf(implementation) % SYMBOLS.length];

/** The value of a custom property of the style sheet, for charts, which cannot refer to it. */
function colour(variable) {
  return getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
}

const seriesColour = (implementation) => colour(colourVariable(implementation));
const chartSymbol = (implementation) => `path://${symbolPath(implementation)}`;

/** The symbol of a backend, to stand before its name. */
function swatch(implementation) {
  return drawing(
    "svg",
    { class: "swatch", viewBox: "0 0 10 10", "aria-hidden": "true" },
    drawing("path", { d: symbolPath(implementation), fill: `var(${colourVariable(implementation)})` }),
  );
}

const backend = (implementation) =>
  element("span", { class: "backend" }, swatch(implementation), given(implementation));
