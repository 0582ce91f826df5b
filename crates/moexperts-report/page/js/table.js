// Every combination in view with all its numbers, sorted by any column.

function tableColumns(view) {
  const time = (cell) => timeOf(cell, view.measure) ?? {};
  const milliseconds = (name) => ({
    key: name,
    label: name,
    unit: "ms",
    number: true,
    value: (cell) => time(cell)[name] ?? NaN,
    text: (value) => decimals(value, value < 10 ? 3 : value < 1000 ? 2 : 1),
  });
  const field = (key, label) => ({
    key,
    label,
    number: isNumber(key),
    field: true,
    value: (cell) => cell[key],
  });
  return [
    field("batch", "batch"),
    field("sequence", "sequence"),
    field("new_tokens", "new"),
    field("dtype", "dtype"),
    field("device", "device"),
    field("compile", "compile"),
    { ...field("implementation", "backend"), implementation: true },
    milliseconds("mean"),
    milliseconds("median"),
    milliseconds("p90"),
    {
      key: "rate",
      label: "tokens/s",
      number: true,
      value: (cell) => time(cell).tokens_per_second ?? NaN,
      text: (value) => decimals(value, value < 100 ? 2 : 1),
    },
    {
      key: "fraction",
      label: "of limit",
      unit: "%",
      number: true,
      value: (cell) => time(cell).fraction_of_limit ?? NaN,
      text: (value) => decimals(value * 100, 1),
    },
    {
      key: "memory",
      label: "peak memory",
      unit: "MiB",
      number: true,
      value: (cell) => cell.peak_memory_bytes ?? NaN,
      text: (value) => decimals(value / 2 ** 20, 1),
    },
  ];
}

function drawTable(section, view, state, redraw) {
  const [lead, box] = sectionParts(section, "lead", "scroll");
  lead.textContent =
    `${counted(view.cells.length, "combination")}, times of ${view.measure}. ` +
    "Select a column’s head to sort by it.";
  const columns = tableColumns(view);
  if (!box.firstChild) box.append(emptyTable(columns, state, redraw));
  box.setAttribute("role", "region");
  box.setAttribute("aria-labelledby", "table-heading");
  box.tabIndex = 0;

  const { column: sorted, descending } = state.sort;
  box.querySelectorAll("th").forEach((head, index) => {
    const own = columns[index].key === sorted;
    if (own) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
  box.querySelector("tbody").replaceChildren(
    ...sortedCells(
      view.cells,
      columns.find(({ key }) => key === sorted),
      descending,
    ).map((cell) =>
      element(
        "tr",
        {},
        ...columns.map((column) => {
          const value = column.value(cell);
          return element(
            "td",
            { class: column.number ? "number" : null, "data-column": column.key },
            column.implementation
              ? backend(value)
              : column.field
                ? fieldValue(value)
                : given(Number.isFinite(value) ? column.text(value) : NO_VALUE),
            ...(column.implementation && cell.decode_implementation !== value
              ? [element("span", { class: "aside" }, " decode: ", given(cell.decode_implementation))]
              : []),
          );
        }),
      ),
    ),
  );
}

function sortedCells(cells, column, descending) {
  if (!column) return cells;
  const order = (one, other) => {
    const [a, b] = [column.value(one), column.value(other)];
    // What was not measured comes last in either direction.
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    const ascending = column.field ? compareValues(column.key, a, b) : a - b;
    return descending ? -ascending : ascending;
  };
  return [...cells].sort(order);
}

function emptyTable(columns, state, redraw) {
  const heads = columns.map((column) =>
    element(
      "th",
      { scope: "col", class: column.number ? "number" : null },
      element(
        "button",
        {
          type: "button",
          click: () => {
            const { sort } = state;
            sort.descending = sort.column === column.key && !sort.descending;
            sort.column = column.key;
            redraw();
          },
        },
        column.label,
        ...(column.unit ? [element("span", { class: "unit" }, ` ${column.unit}`)] : []),
      ),
    ),
  );
  return element(
    "table",
    { class: "cells" },
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}),
  );
}
