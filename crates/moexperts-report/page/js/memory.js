// Peak memory: a panel for each compile mode, in it a row for each workload, in that a point for each
// backend. One scale for all panels, since it is growth with the workload that matters.

const MEMORY_PANEL = { least: 210, most: 420, top: 26, axis: 26, pitch: 12 };
const BRIEF_TITLE = "batch × seq. + new";

function drawMemory(section, view) {
  const [lead, key, charts] = sectionParts(section, "lead", "key", "charts");
  const cells = view.cells.filter((cell) => cell.peak_memory_bytes > 0);
  key.replaceChildren(...distinct(cells, "implementation").map(backend));
  lead.textContent = memorySentence(cells, view);
  if (cells.length > 0) drawMemoryPanels(charts, cells, view);
  else dropCharts(charts, []);
}

function memorySentence(cells, view) {
  if (cells.length === 0) return "Peak memory was not measured for these combinations.";
  const most = cells.reduce((a, b) => (b.peak_memory_bytes > a.peak_memory_bytes ? b : a));
  const bytes = cells.map((cell) => cell.peak_memory_bytes);
  const [low, high] = [size(Math.min(...bytes)), size(most.peak_memory_bytes)];
  if (low === high) return `Peak memory, ${high} in all combinations, to three digits.`;
  const warning = memoryStart(bytes) > 0 ? " Mind that the axis does not start at zero." : "";
  return `Peak memory, from ${low} to ${high} (${cellInWords(most, view)}).${warning}`;
}

/**
 * Weights are most of the memory: where zero is far off, the axis starts near the least. Differences
 * that hardly are any stay small.
 */
function memoryStart(bytes) {
  const [least, most] = [Math.min(...bytes), Math.max(...bytes)];
  if (least < most / 2 || least > most * 0.98) return 0;
  const step = 2 ** Math.floor(Math.log2(Math.max((most - least) / 4, most / 64)));
  return Math.floor(least / step - 0.5) * step;
}

/** Panels beside each other share the names of the first. */
function drawMemoryPanels(parent, cells, view) {
  const layout = memoryLayout(parent.clientWidth, cells, view);
  const modes = grouped(cells, (cell) => cell.compile).sort(([one], [other]) =>
    compareValues("compile", one.compile, other.compile),
  );
  const columns = Math.floor((parent.clientWidth - layout.names) / MEMORY_PANEL.least);
  const lines = inLines(modes, Math.max(1, Math.min(modes.length, columns)));
  layout.panel = Math.min(MEMORY_PANEL.most, (parent.clientWidth - layout.names) / lines[0].length);

  dropCharts(
    parent,
    lines.map((_, index) => `memory-${index}`),
  );
  lines.forEach((line, index) => {
    const option = { title: [], grid: [], xAxis: [], yAxis: [], series: [] };
    if (layout.brief)
      option.title.push({
        text: BRIEF_TITLE,
        left: 0,
        top: 3,
        padding: 0,
        textStyle: { ...axisText(), fontWeight: 400 },
      });
    line.forEach((mode, column) => addMemoryPanel(option, mode, column, layout, view));
    drawChart(
      chartBox(parent, `memory-${index}`),
      MEMORY_PANEL.top + layout.height + MEMORY_PANEL.axis,
      memoryDescription(line.flat(), view),
      option,
    );
  });
}

/** What all panels have in common: rows, scale, and how wide names and values are. */
function memoryLayout(width, cells, view) {
  const workloads = grouped(cells, (cell) => keyOf(cell, WORKLOAD_FIELDS)).map(([cell]) => cell);
  const implementations = distinct(cells, "implementation");
  const bytes = cells.map((cell) => cell.peak_memory_bytes);
  const brief = width < 520;
  const texts = workloads.map((cell) => (brief ? briefWorkload(cell, view) : workloadName(cell, view)));
  return {
    brief,
    texts,
    implementations,
    rows: new Map(workloads.map((cell, row) => [keyOf(cell, WORKLOAD_FIELDS), row])),
    height: (MEMORY_PANEL.pitch * implementations.length + 8) * workloads.length,
    least: memoryStart(bytes),
    most: Math.max(...bytes),
    unit: unitFor(Math.max(...bytes), SIZE_UNITS),
    names: widest(brief ? [...texts, BRIEF_TITLE] : texts) + 12,
    values: widest(bytes.map(size)) + 26,
  };
}

function addMemoryPanel(option, cells, index, layout, view) {
  const left = layout.names + index * layout.panel;
  const [factor, unit] = layout.unit;
  const style = axisStyle();
  option.title.push({
    text: `compile ${chartName(cells[0].compile, 28)}`,
    left,
    top: 2,
    padding: 0,
    textStyle: headingText(),
  });
  option.grid.push(
    gridAt({ left, top: MEMORY_PANEL.top, width: layout.panel - layout.values, height: layout.height }),
  );
  option.xAxis.push({
    ...style,
    gridIndex: index,
    type: "value",
    splitNumber: 3,
    min: layout.least / factor,
    max: layout.most / factor,
    axisLabel: {
      ...style.axisLabel,
      showMinLabel: layout.least === 0,
      showMaxLabel: false,
      formatter: (value) => `${number(value)} ${unit}`,
    },
  });
  option.yAxis.push({
    ...nameAxis(index, layout.texts, layout.names),
    splitLine: { show: true, lineStyle: { color: colour("--rule") } },
  });
  if (index > 0) option.yAxis.at(-1).axisLabel.show = false;
  layout.implementations.forEach((implementation, at) => {
    const own = cells.filter((cell) => cell.implementation === implementation);
    option.series.push({
      id: `memory-${index}-${at}`,
      type: "scatter",
      xAxisIndex: index,
      yAxisIndex: index,
      symbol: chartSymbol(implementation),
      symbolSize: 8,
      symbolOffset: [0, (at - (layout.implementations.length - 1) / 2) * MEMORY_PANEL.pitch],
      itemStyle: { color: seriesColour(implementation), opacity: 1 },
      emphasis: { disabled: true },
      label: {
        show: true,
        position: "right",
        distance: 4,
        ...axisText(),
        fontSize: 10,
        formatter: ({ dataIndex }) => size(own[dataIndex].peak_memory_bytes),
      },
      data: own.map((cell) => [
        cell.peak_memory_bytes / factor,
        layout.rows.get(keyOf(cell, WORKLOAD_FIELDS)),
      ]),
      tooltip: { formatter: ({ dataIndex }) => memoryTooltip(own[dataIndex], view) },
    });
  });
}

/** A workload where memory is scarce; the line above says what the numbers are. */
function briefWorkload(cell, view) {
  return [...targetParts(cell, view, 8), `${cell.batch} × ${cell.sequence} + ${cell.new_tokens}`].join(" ");
}

function memoryTooltip(cell, view) {
  return [...cellLines(cell, view), `peak memory ${size(cell.peak_memory_bytes)}`].join("\n");
}

function memoryDescription(cells, view) {
  const said = cells.map(
    (cell) =>
      `${chartName(cell.implementation)}, ${workloadName(cell, view)}, ` +
      `compile ${chartName(cell.compile)}: ${size(cell.peak_memory_bytes)}`,
  );
  return `Peak memory. ${said.join("; ")}.`;
}
