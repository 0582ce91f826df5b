// The bar of filters. Nothing pressed in a group means all of its values; a field with one value is
// a fact of the run, not a choice.

/** Makes the bar; returns what brings it up to date with the state. */
function makeFilters(bar, report, state, changed) {
  const cells = report.runs.at(-1).cells;
  const updates = [];

  const toggles = (field, label, values) => {
    const chosen = state.selection.get(field);
    const all = chip("all", () => {
      chosen.clear();
      changed();
    });
    const buttons = values.map((value) => {
      const content = field === "implementation" ? backend(value) : given(value);
      return chip(
        content,
        () => {
          if (!chosen.delete(value)) chosen.add(value);
          // All of them by hand is the same as "all".
          if (chosen.size === values.length) chosen.clear();
          changed();
        },
        { title: shortened(value, 400), "data-value": shortened(value, 80) },
      );
    });
    updates.push(() => {
      all.setAttribute("aria-pressed", String(chosen.size === 0));
      buttons.forEach((button, index) =>
        button.setAttribute("aria-pressed", String(chosen.has(values[index]))),
      );
    });
    bar.append(facet(field, label, [all, ...buttons]));
  };

  const measures = MEASURES.map(({ key, label, about }) =>
    chip(
      label,
      () => {
        state.measure = key;
        changed();
      },
      { title: about, "data-value": key },
    ),
  );
  updates.push(() =>
    measures.forEach((button, index) =>
      button.setAttribute("aria-pressed", String(MEASURES[index].key === state.measure)),
    ),
  );
  bar.append(facet("measure", "measure", measures));

  for (const { key, label } of FIELDS) {
    const values = distinct(cells, key);
    if (values.length > 1) toggles(key, label, values);
  }
  const reset = chip(
    "reset",
    () => {
      clearSelection(state);
      changed();
    },
    { class: "chip reset" },
  );
  updates.push(() => {
    reset.hidden = [...state.selection.values()].every((chosen) => chosen.size === 0);
  });
  bar.append(reset);

  return () => updates.forEach((update) => update());
}

const emptySelection = () => new Map(FIELDS.map(({ key }) => [key, new Set()]));
const clearSelection = (state) => state.selection.forEach((chosen) => chosen.clear());

/** What the filters are set to, in words: for paper, where buttons say nothing. */
function selectionInWords(state) {
  const chosen = FIELDS.filter(({ key }) => state.selection.get(key).size > 0).map(
    ({ key, label }) =>
      `${label} ${listed([...state.selection.get(key)].map((value) => shortened(value, 60)))}`,
  );
  return `Shown: ${state.measure}; ${chosen.length ? chosen.join("; ") : "all combinations"}.`;
}

function facet(field, label, buttons) {
  return element(
    "div",
    { class: "facet", role: "group", "aria-label": label, "data-field": field },
    element("span", { class: "label", "aria-hidden": "true" }, label),
    ...buttons,
  );
}
