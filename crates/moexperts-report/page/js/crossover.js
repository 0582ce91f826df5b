// Which backend is fastest at how many tokens of one forward, and where one gives way to another.

const CROSSOVER_HEIGHT = 340;

function drawCrossover(section, view, state, redraw) {
  const [controls, findings, key, charts, note] = sectionParts(
    section,
    "controls",
    "lead",
    "key",
    "charts",
    "note",
  );
  const [target, named] = pickTarget(controls, view, state, redraw);
  const cells = view.cells.filter((cell) => keyOf(cell, ["device", "dtype", "compile"]) === target);
  const lines = new Map(PHASES.map((phase) => [phase, crossoverLines(cells, phase)]));
  const drawn = PHASES.filter((phase) => lines.get(phase).length > 0);

  findings.replaceChildren(
    ...drawn.map((phase) =>
      element(
        "p",
        {},
        element("strong", {}, `${titled(phase)}: `),
        given(crossoverSentence(lines.get(phase))),
      ),
    ),
  );
  if (drawn.length === 0)
    findings.replaceChildren(element("p", {}, "None of these combinations has a time for one forward."));
  key.replaceChildren(...distinct(cells, "implementation").map(backend));
  dropCharts(
    charts,
    drawn.map((phase) => `crossover-${phase}`),
  );
  // All boxes first: how wide one is depends on whether another stands beside it.
  const boxes = drawn.map((phase) => chartBox(charts, `crossover-${phase}`));
  drawn.forEach((phase, index) => drawCrossoverChart(boxes[index], phase, lines.get(phase), named));
  const left = cells.filter((cell) => !isOwn(cell, "decode"));
  note.replaceChildren(
    element(
      "p",
      {},
      "Time of one forward by the number of its tokens: batch × sequence in prefill, batch in a decode step. " +
        "Rings mark the fastest. Combinations with the same number of tokens are one point: the median of their medians, " +
        "with whiskers from their lowest p10 to their highest p90.",
    ),
    ...(left.length
      ? [
          element(
            "p",
            {},
            `${counted(left.length, "combination")} in which another backend decodes ` +
              `${left.length === 1 ? "is" : "are"} left out of the decode step.`,
          ),
        ]
      : []),
  );
}

const titled = (phase) => (phase === "prefill" ? "Prefill" : "Decode step");

/**
 * Lines of several devices, dtypes or compile modes would cross without meaning: one is picked.
 * Returns its key, and its name where there are others.
 */
function pickTarget(controls, view, state, redraw) {
  const fields = ["device", "dtype", "compile"];
  const targets = new Map(view.cells.map((cell) => [keyOf(cell, fields), cell]));
  const sorted = [...targets.keys()].sort((one, other) => {
    const [a, b] = [targets.get(one), targets.get(other)];
    return fields.map((field) => compareValues(field, a[field], b[field])).find((order) => order) ?? 0;
  });
  if (!targets.has(state.crossoverTarget)) state.crossoverTarget = sorted[0];
  controls.hidden = sorted.length < 2;
  const differing = fields.filter((field) => view.values.get(field).length > 1);
  const nameOf = (target) => differing.map((field) => shortened(targets.get(target)[field], 40)).join(" · ");
  choice(controls, differing.join(", "), sorted, state.crossoverTarget, nameOf, (target) => {
    state.crossoverTarget = target;
    redraw();
  });
  return [
    state.crossoverTarget,
    differing.length ? `${differing.join(", ")} ${nameOf(state.crossoverTarget)}` : "",
  ];
}

/**
 * For each backend its points in milliseconds of one forward. A point stands for all combinations with
 * its number of tokens: `parts` are their times, by workload.
 */
function crossoverLines(cells, phase) {
  const usable = cells.filter(
    (cell) => timeOf(cell, phase) && cell[phase].forwards > 0 && isOwn(cell, phase),
  );
  const tokensOf = (cell) => (phase === "prefill" ? cell.batch * cell.sequence : cell.batch);
  return distinct(usable, "implementation").map((implementation) => {
    const own = usable.filter((cell) => cell.implementation === implementation);
    const points = grouped(own, tokensOf).map((group) => {
      const parts = group.map((cell) => forwardTime(cell, phase));
      return {
        tokens: tokensOf(group[0]),
        parts,
        median: median(parts.map((part) => part.median)),
        p10: Math.min(...parts.map((part) => part.p10)),
        p90: Math.max(...parts.map((part) => part.p90)),
      };
    });
    return { implementation, points: points.sort((a, b) => a.tokens - b.tokens) };
  });
}

function forwardTime(cell, phase) {
  const { median, p10, p90, forwards } = cell[phase];
  return {
    workload: keyOf(cell, WORKLOAD_FIELDS),
    runs: cell.runs,
    median: median / forwards,
    p10: p10 / forwards,
    p90: p90 / forwards,
  };
}

/**
 * At each number of tokens at which two backends were measured the fastest, and who is close to it: in
 * the workloads that all of them have, or else one that failed in the hardest would seem faster.
 */
function winners(lines) {
  const all = lines.flatMap(({ implementation, points }) =>
    points.map((point) => ({ implementation, point, tokens: point.tokens })),
  );
  return grouped(all, ({ tokens }) => tokens)
    .filter((there) => there.length > 1)
    .sort(([a], [b]) => a.tokens - b.tokens)
    .flatMap((there) => {
      const has = ({ point }, workload) => point.parts.some((part) => part.workload === workload);
      const common = (part) => there.every((one) => has(one, part.workload));
      const parts = new Map(there.map((one) => [one, one.point.parts.filter(common)]));
      if (parts.get(there[0]).length === 0) return [];
      const time = (one) => median(parts.get(one).map((part) => part.median));
      const [best, ...others] = there.sort((a, b) => time(a) - time(b));
      const close = others.filter((other) => !isClearlyFaster(parts.get(best), parts.get(other)));
      return [{ ...best, close: close.map(({ implementation }) => implementation) }];
    });
}

/**
 * Whether every workload says so. Pooled ranges are wider than noise, since workloads with the same
 * number of tokens differ, in decode by the context that attention reads.
 */
function isClearlyFaster(parts, others) {
  return parts.every((part) => {
    const other = others.find(({ workload }) => workload === part.workload);
    return haveRanges(part, other) && part.p90 < other.p10;
  });
}

function crossoverSentence(lines) {
  const all = winners(lines);
  if (lines.length === 1) return `only ${shortened(lines[0].implementation, 60)} was measured.`;
  if (all.length === 0) return "no number of tokens was measured with two backends.";
  const stretches = [];
  for (const winner of all) {
    if (stretches.at(-1)?.[0].implementation === winner.implementation) stretches.at(-1).push(winner);
    else stretches.push([winner]);
  }
  const parts = stretches.map((stretch, index) => {
    const [from, to] = [stretch[0].tokens, stretch.at(-1).tokens];
    let range;
    if (stretches.length === 1)
      range =
        all.length === 1
          ? `at ${counted(from, "token")}`
          : `at every number of tokens, ${number(from)} to ${number(to)}`;
    else if (index === 0) range = `${from === to ? "at" : "up to"} ${counted(to, "token")}`;
    else if (index === stretches.length - 1) range = `from ${number(from)} on`;
    else range = from === to ? `at ${number(from)}` : `from ${number(from)} to ${number(to)}`;
    const name = shortened(stretch[0].implementation, 60);
    return index === 0 ? `${name} is fastest ${range}` : `${name} ${range}`;
  });
  const doubt = all
    .filter(({ close }) => close.length > 0)
    .map(({ tokens, implementation, close }) => {
      const names = [implementation, ...close].map((name) => shortened(name, 60));
      return `at ${counted(tokens, "token")} ${listed(names)} are not clearly apart`;
    });
  return `${parts.join(", ")}.${doubt.length ? ` Not certain: ${doubt.join("; ")}.` : ""}`;
}

function drawCrossoverChart(box, phase, lines, named) {
  const points = lines.flatMap((line) => line.points);
  const tokens = [...new Set(points.map((point) => point.tokens))].sort((a, b) => a - b);
  const x = logExtent(tokens, 1);
  const y = logExtent(
    points.flatMap((point) => [point.p10, point.p90]),
    1.15,
  );
  const best = winners(lines);
  const grid = {
    left: widest(logTicks(y).map(number)) + 14,
    right: Math.min(
      box.clientWidth * 0.35,
      widest(lines.map(({ implementation }) => chartName(implementation, 18))) + 18,
    ),
    top: 46,
    bottom: 48,
  };
  const nudges = labelNudges(lines, y, CROSSOVER_HEIGHT - grid.top - grid.bottom);
  const xAxis = logAxis(
    `tokens of one forward (${phase === "prefill" ? "batch × sequence" : "batch"})`,
    x,
    tokens,
    number,
  );

  const series = lines.flatMap(({ implementation, points: own }, index) => [
    {
      id: `line-${index}`,
      type: "line",
      symbol: chartSymbol(implementation),
      symbolSize: 9,
      z: 3,
      lineStyle: { color: seriesColour(implementation), width: 2 },
      itemStyle: { color: seriesColour(implementation) },
      data: own.map((point) => [point.tokens, point.median]),
      endLabel: {
        show: true,
        distance: 12,
        offset: [0, nudges[index]],
        formatter: chartName(implementation, 18),
        color: colour("--ink"),
        fontSize: 11,
        fontFamily: FONT,
        width: grid.right - 14,
        overflow: "truncate",
      },
      emphasis: { disabled: true },
      tooltip: { formatter: ({ dataIndex }) => crossoverTooltip(implementation, own[dataIndex]) },
    },
    {
      id: `range-${index}`,
      type: "line",
      silent: true,
      symbol: "rect",
      symbolSize: [7, 1.25],
      connectNulls: false,
      z: 2,
      lineStyle: { color: seriesColour(implementation), width: 1.25 },
      itemStyle: { color: seriesColour(implementation) },
      data: own.flatMap((point) => [
        [point.tokens, point.p10],
        [point.tokens, point.p90],
        ["-", "-"],
      ]),
    },
  ]);
  series.push({
    id: "fastest",
    type: "scatter",
    silent: true,
    symbol: "circle",
    symbolSize: 18,
    z: 1,
    itemStyle: { color: "transparent", borderColor: colour("--ink"), borderWidth: 1.25 },
    data: best.map((winner) => [winner.tokens, winner.point.median]),
  });
  drawChart(
    box,
    CROSSOVER_HEIGHT,
    `${titled(phase)}, time of one forward by its tokens: ${crossoverSentence(lines)}`,
    {
      title: chartTitle(
        named ? `${titled(phase)}, ${chartName(named, 60)}` : titled(phase),
        "ms, logarithmic",
      ),
      grid: gridAt(grid),
      xAxis: { ...xAxis, nameGap: 30 },
      yAxis: {
        ...logAxis("", y, logTicks(y), number),
        splitLine: { show: true, lineStyle: { color: colour("--rule") } },
      },
      series,
    },
  );
}

/** How far the names at the ends of lines move down or up so that they do not cover each other. */
function labelNudges(lines, [low, high], height) {
  const pitch = 14;
  const ends = lines
    .map(({ points }, index) => {
      const y = height * (1 - Math.log(points.at(-1).median / low) / Math.log(high / low));
      return { index, y, tokens: points.at(-1).tokens };
    })
    .sort((a, b) => a.y - b.y);
  const nudges = lines.map(() => 0);
  for (const group of grouped(ends, ({ tokens }) => tokens)) {
    const placed = group.map(({ y }) => y);
    for (let at = 1; at < placed.length; at += 1) placed[at] = Math.max(placed[at], placed[at - 1] + pitch);
    for (let at = placed.length - 1, floor = height + pitch; at >= 0; at -= 1) {
      placed[at] = Math.min(placed[at], floor - pitch);
      floor = placed[at];
    }
    group.forEach(({ index, y }, at) => {
      nudges[index] = placed[at] - y;
    });
  }
  return nudges;
}

function crossoverTooltip(implementation, point) {
  return [
    chartName(implementation, 60),
    `${counted(point.tokens, "token")} in one forward`,
    `median ${duration(point.median)}`,
    `p10 to p90 ${duration(point.p10)} to ${duration(point.p90)}`,
    counted(point.parts.length, "combination"),
  ].join("\n");
}
