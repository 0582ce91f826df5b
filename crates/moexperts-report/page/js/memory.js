// Peak memory: a panel for each compile mode, in it a row for each workload, in that a point for each
// backend. One scale for all panels, since it is growth with the workload that matters.

function drawMemory(section, view) {
  const [lead, key, charts] = sectionParts(section, "lead", "key", "charts");
  const cells = view.cells.filter((cell) => cell.peak_memory_bytes > 0);
  key.replaceChildren(...distinct(cells, "implementation").map(backend));
  if (cells.length === 0) {
    dropCharts(charts, []);
    lead.textContent = "Peak memory was not measured for these combinations.";
    return;
  }
  const bytes = cells.map((cell) => cell.peak_memory_bytes);
  const most = cells[bytes.indexOf(Math.max(...bytes))];
  const [least, highest] = [size(Math.min(...bytes)), size(most.peak_memory_bytes)];
  const range = least === highest ? `${highest} in all combinations, to three digits.`
    : `from ${least} to ${highest} (${shortened(most.implementation, 60)}, ${workloadName(most, view)}, compile ${shortened(most.compile, 40)}).`;
  lead.textContent = `Peak memory, ${range}${memoryStart(bytes) > 0 ? " Mind that the axis does not start at zero." : ""}`;
  drawMemoryCharts(charts, cells, view);
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

function drawMemoryCharts(parent, cells, view) {
  const modes = grouped(cells, (cell) => cell.compile).sort((one, other) =>
    compareValues("compile", one[0].compile, other[0].compile));
  const workloads = grouped(cells, (cell) => keyOf(cell, WORKLOAD_FIELDS)).map(([cell]) => cell);
  const rows = new Map(workloads.map((cell, row) => [keyOf(cell, WORKLOAD_FIELDS), row]));
  const implementations = distinct(cells, "implementation");
  const bytes = cells.map((cell) => cell.peak_memory_bytes);
  const [factor, unit] = unitFor(Math.max(...bytes), SIZE_UNITS);

  const width = parent.clientWidth;
  const brief = width < 520;
  const nameOf = (cell) => brief ? briefWorkload(cell, view) : workloadName(cell, view);
  const pitch = 12;
  const rowHeight = pitch * implementations.length + 8;
  const height = rowHeight * workloads.length;
  const values = widest(cells.map((cell) => size(cell.peak_memory_bytes))) + 14;
  const names = widest([...workloads.map(nameOf), brief ? BRIEF_TITLE : ""]) + 12;
  // Beside each other the panels share the names of the first; where they do not fit, each has its own.
  const columns = Math.max(1, Math.min(modes.length, Math.floor((width - names) / 210)));
  const panelWidth = Math.min(420, (width - names) / columns);

  const lines = [];
  for (let first = 0; first < modes.length; first += columns) lines.push(modes.slice(first, first + columns));
  dropCharts(parent, lines.map((_, index) => `memory-${index}`));
  lines.forEach((line, at) => {
    const option = { title: brief ? [{ text: BRIEF_TITLE, left: 0, top: 3, padding: 0, textStyle: { ...axisText(), fontWeight: 400 } }] : [], grid: [], xAxis: [], yAxis: [], series: [] };
    line.forEach((mode, column) => addMemoryPanel(option, mode, column));
    drawChart(chartBox(parent, `memory-${at}`), height + 52, memoryDescription(line.flat(), view), option);
  });

  function addMemoryPanel(option, mode, column) {
    const index = column;
    const left = names + column * panelWidth;
    const style = axisStyle();
    option.title.push({
      text: `compile ${chartName(mode[0].compile, 28)}`, left, top: 2, padding: 0,
      textStyle: { fontSize: 12, fontWeight: 600, color: colour("--ink"), fontFamily: FONT },
    });
    option.grid.push(gridAt({ left, top: 26, width: panelWidth - values - 12, height }));
    option.xAxis.push({
      ...style, gridIndex: index, type: "value", splitNumber: 3,
      min: memoryStart(bytes) / factor, max: Math.max(...bytes) / factor,
      axisLabel: { ...style.axisLabel, showMinLabel: memoryStart(bytes) === 0, showMaxLabel: false, formatter: (value) => `${number(value)} ${unit}` },
    });
    option.yAxis.push({
      gridIndex: index, type: "category", inverse: true, data: workloads.map((_, row) => row),
      axisLine: { show: true, onZero: false, lineStyle: { color: colour("--rule-strong") } },
      axisTick: { show: false },
      splitLine: { show: true, lineStyle: { color: colour("--rule") } },
      axisLabel: {
        ...axisText(), show: column === 0, interval: 0, align: "left", margin: names, width: names - 8, overflow: "truncate",
        formatter: (row) => nameOf(workloads[row]), color: colour("--ink"),
      },
    });
    implementations.forEach((implementation, at) => option.series.push({
      id: `memory-${index}-${at}`, type: "scatter", xAxisIndex: index, yAxisIndex: index,
      symbol: chartSymbol(implementation), symbolSize: 8,
      symbolOffset: [0, (at - (implementations.length - 1) / 2) * pitch],
      itemStyle: { color: seriesColour(implementation), opacity: 1 }, emphasis: { disabled: true },
      label: {
        show: true, position: "right", distance: 4, fontSize: 10, fontFamily: FONT, color: colour("--muted"),
        formatter: ({ data }) => size(data.value[0] * factor),
      },
      data: mode.filter((cell) => cell.implementation === implementation).map((cell) => ({
        value: [cell.peak_memory_bytes / factor, rows.get(keyOf(cell, WORKLOAD_FIELDS))],
        tooltip: { formatter: () => [chartName(implementation, 60), workloadName(cell, view),
          `compile ${chartName(cell.compile, 60)}`, `peak memory ${size(cell.peak_memory_bytes)}`].join("\n") },
      })),
    }));
  }
}

/** A workload where room is scarce; what the numbers are stands above them. */
const BRIEF_TITLE = "batch × seq. + new";
function briefWorkload(cell, view) {
  const names = ["device", "dtype"].filter((field) => view.values.get(field).length > 1).map((field) => `${chartName(cell[field], 8)} `);
  return `${names.join("")}${cell.batch} × ${cell.sequence} + ${cell.new_tokens}`;
}

function memoryDescription(cells, view) {
  return `Peak memory. ${cells.map((cell) => `${chartName(cell.implementation)}, ${workloadName(cell, view)}, `
    + `compile ${chartName(cell.compile)}: ${size(cell.peak_memory_bytes)}`).join("; ")}.`;
}
