// Latency: a panel for each workload, in it a group of bars for each compile mode, in that a bar for
// each backend. Panels keep a sweep of a hundred combinations legible, and names stand beside bars.

const PANELS_AT_FIRST = 24;
const PANEL = { least: 300, gap: 28, row: 17, title: 24, axis: 24 };

function drawLatency(section, view, state, redraw) {
  const [lead, key, charts, note] = sectionParts(section, "lead", "key", "charts", "note");
  const workloads = grouped(
    view.cells.filter((cell) => timeOf(cell, view.measure)),
    (cell) => keyOf(cell, WORKLOAD_FIELDS),
  );
  const shown = state.allPanels ? workloads : workloads.slice(0, PANELS_AT_FIRST);
  const panels = shown.map((cells) => latencyPanel(cells, view));

  lead.textContent =
    workloads.length === 0
      ? `None of these combinations has a time for ${view.measure}.`
      : `Time of ${view.measure} (${aboutMeasure(view.measure)}), lower is better. ` +
        `Bars are medians, whiskers run from p10 to p90, bold is the fastest of its panel.` +
        (panels.length > 1 ? " Each panel has its own scale." : "");
  key.replaceChildren(...view.values.get("implementation").map(backend));
  drawPanels(charts, panels);

  note.replaceChildren(
    ...[
      workloads.length > shown.length &&
        chip(`Show all ${workloads.length} panels`, () => {
          state.allPanels = true;
          redraw();
        }),
      panels.some((panel) => panel.rows.some((row) => row.published)) &&
        element(
          "p",
          {},
          "Hatched: published figures, measured by others on the hardware named above them, of " +
            `${listed([...new Set(view.reference.map((figure) => shortened(figure.model, 60)))])}. ` +
            "They are no measurements of this machine and count in no finding.",
        ),
      view.cells.some((cell) => !isOwn(cell, view.measure)) &&
        element("p", {}, "“a → b”: the backend b decodes when a is chosen."),
    ].filter(Boolean),
  );
}

function latencyPanel(cells, view) {
  const fastest = Math.min(...cells.map((cell) => timeOf(cell, view.measure).median));
  const rows = grouped(cells, (cell) => cell.compile).flatMap((mode) => [
    { heading: `compile ${chartName(mode[0].compile, 28)}` },
    ...mode.map((cell) => {
      const time = timeOf(cell, view.measure);
      return {
        ...time,
        low: time.p10,
        high: time.p90,
        name: implementationName(cell, view.measure),
        colour: seriesColour(cell.implementation),
        fastest: time.median === fastest,
        tooltip: [...cellLines(cell, view), ...timeLines(cell, time)].join("\n"),
      };
    }),
  ]);
  const published = view.reference.filter(
    (figure) =>
      figure.batch === cells[0].batch &&
      figure.sequence === cells[0].sequence &&
      (figure.median ?? figure.mean) > 0 &&
      // Without a number of new tokens only the prefill is the same work.
      (figure.new_tokens === cells[0].new_tokens ||
        (figure.new_tokens === null && view.measure === "prefill")),
  );
  rows.push(
    ...grouped(inGridOrder(published), (figure) => keyOf(figure, ["hardware", "compile"])).flatMap(
      (figures) => [
        { heading: `published, ${chartName(figures[0].hardware, 32)}, ${chartName(figures[0].compile, 28)}` },
        ...figures.map((figure) => publishedRow(figure)),
      ],
    ),
  );
  return { title: workloadName(cells[0], view), rows, description: panelDescription(cells, view) };
}

function panelDescription(cells, view) {
  const said = cells.map(
    (cell) =>
      `${implementationName(cell, view.measure)} with compile ${chartName(cell.compile)} ` +
      `${duration(timeOf(cell, view.measure).median)}`,
  );
  return `${workloadName(cells[0], view)}: ${said.join(", ")}.`;
}

function publishedRow(figure) {
  const value = figure.median ?? figure.mean;
  const which = figure.median === null ? "given time" : "median";
  return {
    published: true,
    median: value,
    low: value,
    high: figure.p90 ?? value,
    whisker: figure.p90 !== null,
    name: chartName(figure.implementation, 18),
    colour: seriesColour(figure.implementation),
    tooltip: [
      `published: ${chartName(figure.source, 60)}`,
      chartName(figure.hardware, 60),
      `${chartName(figure.model, 50)}, ${chartName(figure.dtype, 20)}`,
      `${chartName(figure.implementation, 60)}, compile ${chartName(figure.compile, 40)}`,
      `${which} ${duration(value)}`,
    ].join("\n"),
  };
}

/** A chart for each line of panels, as many as the width holds, so that paper can break between lines. */
function drawPanels(parent, panels) {
  const width = parent.clientWidth;
  const columns = Math.max(
    1,
    Math.min(4, panels.length, Math.floor((width + PANEL.gap) / (PANEL.least + PANEL.gap))),
  );
  // A panel alone on a wide screen would have bars a metre long.
  const panelWidth = Math.min(560, (width - (columns - 1) * PANEL.gap) / columns);
  const names = Math.min(
    panelWidth * 0.5,
    widest(panels.flatMap(({ rows }) => rows.map((row) => row.name ?? ""))) + 10,
  );
  const values =
    widest(
      panels.flatMap(({ rows }) => rows.map((row) => (row.heading ? "" : duration(row.median)))),
      12,
    ) + 10;

  const lines = inLines(panels, columns);
  dropCharts(
    parent,
    lines.map((_, index) => `latency-${index}`),
  );
  lines.forEach((line, index) => {
    const option = { title: [], grid: [], xAxis: [], yAxis: [], series: [] };
    line.forEach((panel, column) =>
      addPanel(option, panel, {
        left: column * (panelWidth + PANEL.gap),
        top: 2,
        width: panelWidth,
        names,
        values,
      }),
    );
    const rows = Math.max(...line.map((panel) => panel.rows.length));
    drawChart(
      chartBox(parent, `latency-${index}`),
      PANEL.title + rows * PANEL.row + PANEL.axis + 14,
      `Bars of the median time. ${line.map(({ description }) => description).join(" ")}`,
      option,
    );
  });
}

function addPanel(option, { title, rows }, place) {
  const index = option.grid.length;
  const highest = Math.max(...rows.map((row) => row.high ?? 0));
  const [factor, unit] = unitFor(highest, TIME_UNITS);
  const style = axisStyle();

  option.title.push({
    text: title,
    left: place.left,
    top: place.top,
    padding: 0,
    textStyle: { ...headingText(), width: place.width, overflow: "truncate" },
  });
  option.grid.push(
    gridAt({
      left: place.left + place.names,
      top: place.top + PANEL.title,
      width: place.width - place.names - place.values,
      height: rows.length * PANEL.row,
    }),
  );
  option.xAxis.push({
    ...style,
    gridIndex: index,
    type: "value",
    min: 0,
    max: highest / factor,
    splitNumber: 3,
    axisLabel: { ...style.axisLabel, showMaxLabel: false, formatter: (value) => `${number(value)} ${unit}` },
  });
  option.yAxis.push(
    nameAxis(
      index,
      rows.map((row) => row.name ?? ""),
      place.names,
    ),
  );
  // Headings may be wider than the column of names, so they are no labels of the axis.
  const heading = (row, at) => ({
    value: [0, at],
    label: {
      position: [-place.names, -3],
      align: "left",
      formatter: row.heading,
      width: place.width,
      overflow: "truncate",
      ...axisText(),
    },
  });
  option.series.push(
    {
      id: `bars-${index}`,
      type: "bar",
      xAxisIndex: index,
      yAxisIndex: index,
      barWidth: PANEL.row - 5,
      data: rows.map((row) =>
        row.heading ? { value: "-" } : { value: row.median / factor, itemStyle: barStyle(row) },
      ),
      tooltip: { formatter: ({ dataIndex }) => rows[dataIndex].tooltip },
      emphasis: { disabled: true },
    },
    {
      id: `whiskers-${index}`,
      type: "line",
      xAxisIndex: index,
      yAxisIndex: index,
      silent: true,
      connectNulls: false,
      symbol: "rect",
      symbolSize: [1.25, 7],
      showSymbol: true,
      showAllSymbol: true,
      lineStyle: { color: colour("--whisker"), width: 1.25 },
      itemStyle: { color: colour("--whisker") },
      data: rows.flatMap((row, at) =>
        row.heading || row.whisker === false
          ? []
          : [
              [row.low / factor, at],
              [row.high / factor, at],
              ["-", "-"],
            ],
      ),
      z: 4,
    },
    {
      // The values stand after the whiskers, not after the bars, which they would cross.
      id: `values-${index}`,
      type: "scatter",
      xAxisIndex: index,
      yAxisIndex: index,
      silent: true,
      symbolSize: 0.01,
      data: rows.map((row, at) =>
        row.heading
          ? heading(row, at)
          : {
              value: [row.high / factor, at],
              label: { formatter: duration(row.median), fontWeight: row.fastest ? 700 : 400 },
            },
      ),
      label: {
        show: true,
        position: "right",
        distance: 5,
        color: colour("--ink"),
        fontSize: 11,
        fontFamily: FONT,
      },
      z: 5,
    },
  );
}

function barStyle(row) {
  if (!row.published) return { color: row.colour };
  return {
    color: colour("--page"),
    borderColor: row.colour,
    borderWidth: 1,
    decal: {
      symbol: "rect",
      color: row.colour,
      dashArrayX: [1, 0],
      dashArrayY: [1.5, 3.5],
      rotation: -Math.PI / 4,
    },
  };
}
