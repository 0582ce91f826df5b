// The head of the page: what the cells in view say, in a sentence and four figures, and the facts
// of the run. Published figures and changes between runs play no part here.

function drawHead(view) {
  byId("title").replaceChildren(given(view.report.title));
  const [sentence, more] = view.cells.length
    ? finding(view)
    : [
        view.run.cells.length
          ? "No combination has all of the chosen values."
          : "Nothing has been measured yet.",
        "",
      ];
  byId("finding").replaceChildren(given(sentence), ...(more ? [element("small", {}, more)] : []));
  byId("figures").replaceChildren(...pairs(view.cells.length ? keyFigures(view) : []));
  byId("facts").replaceChildren(...pairs(runFacts(view)));
}

/**
 * The fastest of each workload in which two backends were measured: whether the ranges of the others
 * do not overlap its range, and the ratio of eager's best time to its time.
 */
function workloadWinners(view) {
  const timed = (cells) =>
    [...cells].sort((a, b) => timeOf(a, view.measure).median - timeOf(b, view.measure).median);
  return grouped(ownCells(view), (cell) => keyOf(cell, WORKLOAD_FIELDS)).flatMap((cells) => {
    const [best, ...others] = timed(cells);
    const rivals = others.filter((cell) => cell.implementation !== best.implementation);
    if (rivals.length === 0) return [];
    const time = timeOf(best, view.measure);
    const eager = [best, ...others].find((cell) => cell.implementation === "eager");
    return [
      {
        implementation: best.implementation,
        clear: rivals.every((cell) => haveRanges(best, cell) && !overlap(time, timeOf(cell, view.measure))),
        gain: eager ? timeOf(eager, view.measure).median / time.median : NaN,
      },
    ];
  });
}

const ownCells = (view) =>
  view.cells.filter((cell) => timeOf(cell, view.measure) && isOwn(cell, view.measure));

/** How many times as fast as eager a backend is, in each workload and compile mode that has both. */
function speedups(view, implementation) {
  return grouped(ownCells(view), (cell) => keyOf(cell, [...WORKLOAD_FIELDS, "compile"])).flatMap((cells) => {
    const one = cells.find((cell) => cell.implementation === implementation);
    const eager = cells.find((cell) => cell.implementation === "eager");
    return one && eager ? [timeOf(eager, view.measure).median / timeOf(one, view.measure).median] : [];
  });
}

const timesRange = (ratios) => `${times(Math.min(...ratios))} to ${times(Math.max(...ratios))}`;
const times = (ratio) => `${decimals(ratio, ratio < 10 ? 2 : 1)}×`;

/** The finding in a sentence, and what qualifies it. */
function finding(view) {
  const won = workloadWinners(view);
  const names = view.values.get("implementation").map((name) => shortened(name, 40));
  if (won.length === 0) {
    return [
      names.length > 1
        ? `No workload in view has times of ${view.measure} of two backends.`
        : `Only ${names[0]} is in view: there is nothing to compare it with.`,
      "",
    ];
  }
  const leaders = grouped(won, ({ implementation }) => implementation).sort((a, b) => b.length - a.length);
  const name = (group) => shortened(group[0].implementation, 60);
  const shares = leaders.slice(0, 3).map((group) => `${name(group)} in ${group.length}`);
  shares[0] = `${name(leaders[0])} is fastest in ${leaders[0].length} of ${won.length} workloads`;
  if (leaders.length > 3) shares.push(`others in ${leaders.slice(3).flat().length}`);
  const who =
    won.length === 1
      ? `${name(leaders[0])} is fastest`
      : leaders.length === 1
        ? `${name(leaders[0])} is fastest in ${won.length === 2 ? "both" : `all ${won.length}`} workloads`
        : listed(shares);
  return [`In ${view.measure}, ${who}.`, gainSentence(won)];
}

function gainSentence(won) {
  const gains = won.map(({ gain }) => gain).filter(Number.isFinite);
  const unclear = won.filter(({ clear }) => !clear).length;
  const said = [];
  // Less would be said as 1.00×.
  if (gains.some((gain) => gain >= 1.005)) {
    said.push(
      `${won.length === 1 ? "It" : "The fastest"} is ${times(median(gains))} as fast as the best of eager` +
        (gains.length > 1 ? ` in the median of ${gains.length} workloads, ${timesRange(gains)}.` : "."),
    );
  }
  if (unclear > 0) {
    said.push(
      `${won.length === 1 ? "Its lead" : `In ${counted(unclear, "workload")} the lead`} is within noise: ` +
        "the range p10 to p90 of another backend overlaps.",
    );
  }
  return said.join(" ");
}

function keyFigures(view) {
  const cells = ownCells(view);
  const figure = (value, ...about) =>
    element(
      "span",
      {},
      element("span", { class: "value" }, value),
      element("span", { class: "about" }, ...about),
    );
  const described = (cell) => given(cellInWords(cell, view));
  const most = (entries, value) => entries.reduce((a, b) => (value(b) > value(a) ? b : a));
  const figures = [];
  const compared = view.values
    .get("implementation")
    .filter((name) => name !== "eager")
    .map((implementation) => ({ implementation, ratios: speedups(view, implementation) }))
    .filter(({ ratios }) => ratios.length > 0)
    .sort((a, b) => median(b.ratios) - median(a.ratios))
    .slice(0, 2);
  for (const { implementation, ratios } of compared) {
    figures.push([
      element("span", {}, backend(implementation), " against eager"),
      figure(
        times(median(ratios)),
        ratios.length === 1
          ? "as fast, one pair"
          : `as fast in the median of ${ratios.length} pairs, ${timesRange(ratios)}`,
      ),
    ]);
  }
  if (cells.length) {
    const fastest = most(cells, (cell) => timeOf(cell, view.measure).tokens_per_second);
    figures.push([
      "highest rate",
      figure(`${measured(timeOf(fastest, view.measure).tokens_per_second)} tokens/s`, described(fastest)),
    ]);
    const closest = most(cells, (cell) => timeOf(cell, view.measure).fraction_of_limit);
    figures.push([
      "closest to the limit",
      figure(percent(timeOf(closest, view.measure).fraction_of_limit), described(closest)),
    ]);
  }
  return figures;
}

function runFacts(view) {
  const { run } = view;
  const facts = [
    ["model", given(run.model)],
    ["program", programOf(run)],
    [
      "measured",
      `${whole.format(run.complete_cells)} of ${counted(run.planned, "combination")}, ` +
        `${counted(run.repetitions, "run")} each${run.complete_cells < run.planned ? " – not complete" : ""}`,
    ],
    ["date", given(run.date.replace(/^(\d{4}-\d\d-\d\d)T([\d:]+)Z$/, "$1 $2 UTC"))],
  ];
  for (const target of run.targets)
    facts.push([given(`${target.device} ${target.dtype}`), given(target.hardware)]);
  for (const { key, label } of FIELDS) {
    const values = distinct(run.cells, key);
    if (values.length === 1) facts.push([label, given(values[0])]);
  }
  return facts;
}
