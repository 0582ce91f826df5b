// Rooflines: what each phase of each combination reaches, under what memory and arithmetic allow.

const ROOFLINE_HEIGHT = 380;

function drawRoofline(section, view) {
  const [lead, key, charts, note] = sectionParts(section, "lead", "key", "charts", "note");
  const targets = view.run.targets
    .map((target) => ({ target, points: rooflinePoints(target, view) }))
    .filter(({ points }) => points.length > 0);

  lead.replaceChildren(
    ...targets.map(({ target, points }) =>
      element("p", {}, given(rooflineSentence(target, points, targets.length > 1, view))),
    ),
  );
  key.replaceChildren(
    ...distinct(view.cells, "implementation").map(backend),
    element("span", { class: "backend" }, phaseSwatch(true), "prefill, filled"),
    element("span", { class: "backend" }, phaseSwatch(false), "decode, hollow"),
  );
  dropCharts(
    charts,
    targets.map((_, index) => `roofline-${index}`),
  );
  const boxes = targets.map((_, index) => chartBox(charts, `roofline-${index}`));
  targets.forEach(({ target, points }, index) => drawRooflineChart(boxes[index], target, points, view));
  note.replaceChildren(
    element(
      "p",
      {},
      "The roof is measured on this machine: memory bandwidth on the slope, peak of the arithmetic on the flat. " +
        "A point lies above it where caches hold what counts as read from memory, or where the machine was " +
        "slower while the roof was measured.",
    ),
  );
}

function phaseSwatch(filled) {
  return drawing(
    "svg",
    { class: "swatch", viewBox: "-1 -1 12 12", "aria-hidden": "true" },
    drawing("path", {
      d: SYMBOLS[0],
      fill: filled ? "currentColor" : "none",
      stroke: "currentColor",
      "stroke-width": 1.5,
    }),
  );
}

function rooflinePoints(target, view) {
  return view.cells
    .filter((cell) => cell.device === target.device && cell.dtype === target.dtype)
    .flatMap((cell) => PHASES.map((phase) => ({ cell, phase, time: timeOf(cell, phase) })))
    .filter(({ cell, phase, time }) => time && time.flops > 0 && time.bytes > 0 && isOwn(cell, phase))
    .map((point) => ({
      ...point,
      intensity: point.time.flops / point.time.bytes,
      performance: point.time.flops / (point.time.median / 1e3),
    }));
}

const targetName = (target) => `${chartName(target.device, 20)} · ${chartName(target.dtype, 12)}`;

function rooflineSentence(target, points, named, view) {
  const closest = PHASES.flatMap((phase) => {
    const own = points.filter((point) => point.phase === phase);
    if (own.length === 0) return [];
    const best = own.reduce((a, b) => (b.time.fraction_of_limit > a.time.fraction_of_limit ? b : a));
    return [
      `${phase} comes to ${percent(best.time.fraction_of_limit)} of the limit at best ` +
        `(${cellInWords(best.cell, view)})`,
    ];
  });
  const sentence = `${closest.join("; ")}.`;
  return named ? `${targetName(target)}: ${sentence}` : sentence[0].toUpperCase() + sentence.slice(1);
}

function drawRooflineChart(box, target, points, view) {
  const bytes = target.bytes_per_second.median;
  const flops = target.flops_per_second.median;
  const ridge = flops / bytes;
  const x = logExtent([...points.map((point) => point.intensity), ridge], 2);
  const roof = (intensity) => Math.min(intensity * bytes, flops) / 1e9;
  const y = logExtent([...points.map((point) => point.performance / 1e9), roof(x[0]), flops / 1e9], 1.5);
  // Above the middle of the slope, as the axes are logarithmic.
  const onSlope = x[0] ** 0.35 * ridge ** 0.65;
  const roofLine = [
    [x[0], roof(x[0])],
    [ridge, flops / 1e9],
    [x[1], flops / 1e9],
  ];

  const series = [
    {
      id: "roof",
      type: "line",
      silent: true,
      data: roofLine,
      symbol: "none",
      z: 2,
      lineStyle: { color: colour("--ink"), width: 1.5 },
    },
    {
      id: "roof-labels",
      type: "scatter",
      silent: true,
      symbolSize: 0.01,
      data: [
        {
          value: roofLine[2],
          label: {
            position: [0, -16],
            align: "right",
            formatter: `${performanceRate(flops)}, ${chartName(target.operations, 32)}`,
          },
        },
        {
          value: [onSlope, roof(onSlope)],
          label: { position: [-10, -10], align: "right", formatter: `${bandwidth(bytes)} from memory` },
        },
      ],
      label: { show: true, ...axisText(), color: colour("--ink") },
    },
  ];
  for (const implementation of distinct(
    points.map((point) => point.cell),
    "implementation",
  )) {
    for (const phase of PHASES) {
      const own = points.filter(
        (point) => point.phase === phase && point.cell.implementation === implementation,
      );
      const paint = seriesColour(implementation);
      series.push({
        id: `${phase}-${placeOf(implementation)}`,
        type: "scatter",
        symbol: chartSymbol(implementation),
        symbolSize: phase === "prefill" ? 9 : 8,
        z: 3,
        itemStyle:
          phase === "prefill"
            ? { color: paint, opacity: 0.8 }
            : { color: colour("--page"), borderColor: paint, borderWidth: 1.75, opacity: 0.9 },
        data: own.map((point) => [point.intensity, point.performance / 1e9]),
        emphasis: { disabled: true },
        tooltip: { formatter: ({ dataIndex }) => rooflineTooltip(own[dataIndex], view) },
      });
    }
  }
  drawChart(
    box,
    ROOFLINE_HEIGHT,
    `Roofline of ${targetName(target)}: ${rooflineSentence(target, points, false, view)}`,
    {
      title: chartTitle(targetName(target), "GFLOP/s, logarithmic"),
      grid: gridAt({ left: widest(logTicks(y).map(number)) + 14, right: 16, top: 46, bottom: 48 }),
      xAxis: {
        ...logAxis("arithmetic intensity, FLOP/byte, logarithmic", x, logTicks(x), number),
        nameGap: 30,
      },
      yAxis: {
        ...logAxis("", y, logTicks(y), number),
        splitLine: { show: true, lineStyle: { color: colour("--rule") } },
      },
      series,
    },
  );
}

function rooflineTooltip({ cell, phase, time, intensity, performance }, view) {
  return [
    phase,
    ...cellLines(cell, view),
    `${number(intensity)} FLOP/byte, ${performanceRate(performance)}`,
    `${percent(time.fraction_of_limit)} of the hardware's limit`,
  ].join("\n");
}
