// The head of the page: what the cells in view say, in a sentence and four figures, and the facts
// of the run. Published figures and changes between runs play no part here.

function drawHead(view) {
  byId("title").textContent = view.report.title;
  byId("finding").replaceChildren(given(view.cells.length ? finding(view) : "Nothing to compare in this choice."));
  byId("figures").replaceChildren(...pairs(view.cells.length ? keyFigures(view) : []));
  byId("facts").replaceChildren(...pairs(runFacts(view)));
}

/** The fastest of each workload, with whether another backend's range overlaps its own. */
function workloadWinners(view) {
  return grouped(ownCells(view), (cell) => keyOf(cell, WORKLOAD_FIELDS)).flatMap((cells) => {
    const best = cells.reduce((a, b) => timeOf(b, view.measure).median < timeOf(a, view.measure).median ? b : a);
    const rivals = cells.filter((cell) => cell.implementation !== best.implementation);
    if (rivals.length === 0) return [];
    return [{ best, clear: rivals.every((cell) => !overlap(timeOf(best, view.measure), timeOf(cell, view.measure))) }];
  });
}

const ownCells = (view) => view.cells.filter((cell) => timeOf(cell, view.measure) && isOwn(cell, view.measure));

/** How many times as fast as eager a backend is, in each workload and compile mode that has both. */
function speedups(view, implementation) {
  return grouped(ownCells(view), (cell) => keyOf(cell, [...WORKLOAD_FIELDS, "compile"])).flatMap((cells) => {
    const one = cells.find((cell) => cell.implementation === implementation);
    const eager = cells.find((cell) => cell.implementation === "eager");
    return one && eager ? [timeOf(eager, view.measure).median / timeOf(one, view.measure).median] : [];
  });
}

const times = (ratio) => `${decimals(ratio, ratio < 10 ? 2 : 1)}×`;

function finding(view) {
  const won = workloadWinners(view);
  const names = view.values.get("implementation").map((name) => shortened(name, 40));
  if (won.length === 0) {
    return names.length > 1 ? `No workload in view has times of ${view.measure} of two backends.`
      : `Only ${names[0]} is in view: there is nothing to compare it with.`;
  }
  const [leader] = grouped(won, ({ best }) => best.implementation).sort((a, b) => b.length - a.length);
  const name = leader[0].best.implementation;
  const clear = leader.filter((winner) => winner.clear).length;
  const where = won.length === 1 ? "" : leader.length === won.length ? ` in all ${won.length} workloads` : ` in ${leader.length} of ${won.length} workloads`;
  const doubt = clear === leader.length ? "" : won.length === 1 ? ", though its range overlaps another’s" : `, clearly in ${clear}`;
  const ratios = speedups(view, name);
  const gain = name === "eager" || ratios.length === 0 ? ""
    : `: ${times(median(ratios))} as fast as eager${ratios.length > 1 ? `, from ${times(Math.min(...ratios))} to ${times(Math.max(...ratios))}` : ""}`;
  return `${shortened(name, 60)} is the fastest backend in ${view.measure}${where}${doubt}${gain}.`;
}

function keyFigures(view) {
  const cells = ownCells(view);
  const figure = (value, ...about) => element("span", {}, element("span", { class: "value" }, value), element("span", { class: "about" }, ...about));
  const described = (cell) => given(`${shortened(cell.implementation, 30)}, compile ${shortened(cell.compile, 30)}, ${workloadName(cell, view)}`);
  const most = (entries, value) => entries.reduce((a, b) => value(b) > value(a) ? b : a);
  const figures = [];
  for (const implementation of view.values.get("implementation").filter((name) => name !== "eager").slice(0, 3)) {
    const ratios = speedups(view, implementation);
    if (ratios.length === 0) continue;
    figures.push([element("span", {}, backend(implementation), " against eager"), figure(times(median(ratios)),
      ratios.length === 1 ? "as fast, one pair" : `as fast in the median of ${ratios.length} pairs, ${times(Math.min(...ratios))} to ${times(Math.max(...ratios))}`)]);
  }
  if (cells.length) {
    const fastest = most(cells, (cell) => timeOf(cell, view.measure).tokens_per_second);
    figures.push(["highest rate", figure(`${number(timeOf(fastest, view.measure).tokens_per_second)} tokens/s`, described(fastest))]);
    const closest = most(cells, (cell) => timeOf(cell, view.measure).fraction_of_limit);
    figures.push(["closest to the limit", figure(percent(timeOf(closest, view.measure).fraction_of_limit), described(closest))]);
  }
  return figures;
}

function runFacts(view) {
  const { run } = view;
  const facts = [["model", given(run.model)], ["program", given(programOf(run))],
    ["measured", `${whole.format(run.cells.length)} of ${counted(run.planned, "combination")}, ${counted(run.repetitions, "run")} each${run.complete ? "" : " – not complete"}`],
    ["date", given(run.date.replace("T", " ").replace("Z", " UTC"))]];
  for (const target of run.targets) facts.push([given(`${target.device} ${target.dtype}`), given(target.hardware)]);
  for (const { key, label } of FIELDS) {
    const values = distinct(run.cells, key);
    if (values.length === 1) facts.push([label, given(values[0])]);
  }
  return facts;
}
