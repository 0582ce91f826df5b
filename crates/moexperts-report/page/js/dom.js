// The only ways in which this page makes document nodes. A string of the report becomes text or the
// value of an attribute, never markup.

const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  return furnished(document.createElement(tag), attributes, children);
}

function drawing(tag, attributes = {}, ...children) {
  return furnished(document.createElementNS(SVG, tag), attributes, children);
}

function furnished(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** A string of the report: kept apart from its surroundings whatever its direction. */
function given(text) {
  return element("bdi", {}, String(text));
}

/** The value of a field in a table: one of common length stays on one line, hyphens or not. */
function fieldValue(value) {
  const text = typeof value === "number" ? whole.format(value) : String(value);
  return element("bdi", { class: text.length <= 32 ? "short" : null }, text);
}

/** A link where the address is one that a browser may follow, else only the text. */
function link(address, text) {
  if (!/^https?:\/\//i.test(String(address))) return given(text);
  return element("a", { href: String(address), rel: "noopener noreferrer" }, given(text));
}

const byId = (id) => document.getElementById(id);

/** Pairs of term and description for a `dl`, each in a separate box. */
function pairs(entries) {
  return entries.map(([term, description]) =>
    element("div", {}, element("dt", {}, term), element("dd", {}, description)),
  );
}

/**
 * What a section shows below its heading: made once, so that a focused control stays where it is
 * while the charts around it are drawn anew.
 */
function sectionParts(section, ...classes) {
  const known = classes.map((name) => section.querySelector(`:scope > .${name}`));
  if (known.every(Boolean)) return known;
  const made = classes.map((name) => element("div", { class: name }));
  section.append(...made);
  return made;
}

function chip(content, pressed, attributes = {}) {
  return element("button", { type: "button", class: "chip", click: pressed, ...attributes }, content);
}

/** A table; the columns of numbers have a `#` before their head. */
function table(heads, rows, attributes = {}) {
  const classes = heads.map((head) => (head.startsWith("#") ? "number" : null));
  return element(
    "table",
    attributes,
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        ...heads.map((head, index) =>
          element("th", { scope: "col", class: classes[index] }, head.replace("#", "")),
        ),
      ),
    ),
    element(
      "tbody",
      {},
      ...rows.map((row) =>
        element("tr", {}, ...row.map((content, index) => element("td", { class: classes[index] }, content))),
      ),
    ),
  );
}

/** Radio-like buttons: one of `values` holds. */
function choice(box, label, values, chosen, text, choose) {
  const signature = JSON.stringify([label, values]);
  if (box.dataset.signature !== signature) {
    box.dataset.signature = signature;
    box.replaceChildren(
      element("span", { class: "label" }, label),
      ...values.map((value) => element("button", { type: "button", class: "chip" }, given(text(value)))),
    );
  }
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", label);
  box.querySelectorAll("button").forEach((button, index) => {
    button.setAttribute("aria-pressed", String(values[index] === chosen));
    button.onclick = () => choose(values[index]);
  });
}
