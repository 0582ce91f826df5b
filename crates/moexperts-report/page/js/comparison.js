// Before and after: the change of every combination, and whether it is more than noise.

const CHANGES_AT_FIRST = 20;
const VERDICTS = {
  faster: { symbol: "▼", word: "faster" },
  slower: { symbol: "▲", word: "slower" },
  noise: { symbol: "≈", word: "within noise" },
};

function verdictOf(change) {
  if (!change.exceeds_noise || change.change === 0) return "noise";
  return change.change < 0 ? "faster" : "slower";
}

function drawComparison(section, view, state, redraw) {
  section.hidden = view.report.runs.length < 2;
  if (section.hidden) return;
  const [runs, lead, controls, box, more] = sectionParts(
    section,
    "runs",
    "lead",
    "controls",
    "scroll",
    "note",
  );
  const [before, after] = view.report.runs;
  runs.replaceChildren(...comparedRuns(before, after));

  const { changes } = view;
  lead.textContent =
    changes.length === 0
      ? "The two runs have no combination in common here."
      : comparisonSentence(changes, view.measure);
  controls.hidden = changes.length < 2;
  choice(
    controls,
    "order",
    ["size", "grid"],
    state.changeOrder,
    (order) => (order === "size" ? "by size of change" : "as in the grid"),
    (order) => {
      state.changeOrder = order;
      redraw();
    },
  );

  const ordered =
    state.changeOrder === "size"
      ? [...changes].sort(
          (a, b) =>
            Number(b.exceeds_noise) - Number(a.exceeds_noise) || Math.abs(b.change) - Math.abs(a.change),
        )
      : changes;
  const shown = state.allChanges ? ordered : ordered.slice(0, CHANGES_AT_FIRST);
  box.hidden = changes.length === 0;
  box.replaceChildren(changeTable(shown, changes));
  more.replaceChildren(
    ...(shown.length < ordered.length
      ? [
          chip(`Show all ${ordered.length} changes`, () => {
            state.allChanges = true;
            redraw();
          }),
        ]
      : []),
  );
}

function comparisonSentence(changes, measure) {
  const count = (verdict) => changes.filter((change) => verdictOf(change) === verdict).length;
  const middle = median(changes.map((change) => change.change));
  return (
    `Of ${counted(changes.length, "combination")} in both runs, ` +
    `${count("faster")} ${count("faster") === 1 ? "is" : "are"} faster in ${measure}, ` +
    `${count("slower")} slower and ${count("noise")} within noise; ` +
    `the median change of time is ${signedPercent(middle)}. ` +
    "A change exceeds noise where both have three runs at least, and their ranges p10 to p90 do not overlap."
  );
}

/** The two runs side by side, and what makes them a comparison of something other than the program. */
function comparedRuns(before, after) {
  const named = ({ device, dtype }) => `${device} ${dtype}`;
  const hardware = (run) => run.targets.map((target) => `${named(target)}: ${target.hardware}`).sort().join("\n");
  const both = (run, other) => run.targets.filter((target) => other.targets.some((one) => named(one) === named(target)));
  const common = (run, other) => hardware({ targets: both(run, other) });
  const sameHardware = common(before, after) === common(after, before);
  const machine = (run) => JSON.stringify(run.machine);
  const warnings = [
    !sameHardware &&
      "The hardware differs: the changes are those of the machine too, not of the program alone.",
    sameHardware &&
      machine(before) !== machine(after) &&
      "What the two runs say of their machine differs: see the list below.",
    before.model !== after.model && "The models differ: the changes compare two models.",
    before.seed !== after.seed && "The seeds differ: the two runs had other prompts or weights.",
  ].filter(Boolean);
  const commits =
    before.commit === after.commit && before.program === after.program
      ? "Both runs are of the same program and commit: a change beyond noise is one of the surroundings."
      : null;
  return [
    ...warnings.map((text) => element("p", { class: "warning" }, element("strong", {}, "⚠ Warning: "), text)),
    ...(commits ? [element("p", { class: "hint" }, commits)] : []),
    runsTable(before, after, hardware),
  ];
}

/** What each target of a run was measured to do at most: it tells a slower machine from a slower program. */
function measuredOf(rate, format) {
  return (run) =>
    run.targets
      .map((target) => `${target.device} ${target.dtype}: ${spread(target[rate], format)}`)
      .sort()
      .join("\n");
}

/** What is known of the two runs, line by line; what differs is set apart. */
function runsTable(before, after, hardware) {
  const facts = [
    ["file", (run) => run.file],
    ["model", (run) => run.model],
    ["program", (run) => run.program],
    ["commit", (run) => run.commit ?? "not known"],
    ["date", (run) => run.date],
    ["hardware", hardware],
    ["memory bandwidth", measuredOf("bytes_per_second", bandwidth)],
    ["peak", measuredOf("flops_per_second", performanceRate)],
    ...[...new Set([before, after].flatMap((run) => run.machine.map(([label]) => label)))].map((label) => [
      label,
      (run) =>
        run.machine
          .filter(([own]) => own === label)
          .map(([, value]) => value)
          .join("\n") || NO_VALUE,
    ]),
  ];
  return element(
    "div",
    { class: "scroll" },
    element(
      "table",
      { class: "runs" },
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("td"),
          element("th", { scope: "col" }, "before"),
          element("th", { scope: "col" }, "after"),
        ),
      ),
      element(
        "tbody",
        {},
        ...facts.map(([label, fact]) =>
          element(
            "tr",
            { "data-differs": fact(before) !== fact(after) },
            element("th", { scope: "row" }, given(label)),
            element("td", {}, given(fact(before))),
            element("td", {}, given(fact(after))),
          ),
        ),
      ),
    ),
  );
}

function programOf(run) {
  return element("span", {}, given(run.program), ...(run.commit ? [", commit ", given(run.commit)] : []));
}

function changeTable(shown, all) {
  const span = Math.max(0.01, ...all.map((change) => Math.abs(change.change)));
  const fields = FIELDS.filter(
    ({ key }) =>
      distinct(all, key).length > 1 || ["batch", "sequence", "new_tokens", "implementation"].includes(key),
  );
  const head = element(
    "tr",
    {},
    ...fields.map(({ key, label }) => element("th", { scope: "col", class: numeric(key) }, label)),
    element("th", { scope: "col", class: "number" }, "before"),
    element("th", { scope: "col", class: "number" }, "after"),
    element("th", { scope: "col", class: "number" }, "change"),
    element(
      "th",
      { scope: "col", class: "bar" },
      `−${decimals(span * 100, 0)} % to +${decimals(span * 100, 0)} %`,
    ),
    element("th", { scope: "col" }, "verdict"),
  );
  const rows = shown.map((change) => {
    const verdict = verdictOf(change);
    return element(
      "tr",
      { "data-verdict": verdict },
      ...fields.map(({ key }) =>
        element(
          "td",
          { class: numeric(key) },
          key === "implementation" ? backend(change[key]) : fieldValue(change[key]),
        ),
      ),
      element("td", { class: "number" }, duration(change.before.median)),
      element("td", { class: "number" }, duration(change.after.median)),
      element("td", { class: "number" }, signedPercent(change.change)),
      element("td", { class: "bar" }, changeBar(change.change, span, verdict)),
      element("td", { class: "verdict" }, `${VERDICTS[verdict].symbol} ${VERDICTS[verdict].word}`),
    );
  });
  return element(
    "table",
    { class: "changes" },
    element("caption", {}, "Change of the median time; a negative one is faster"),
    element("thead", {}, head),
    element("tbody", {}, ...rows),
  );
}

const numeric = (field) => (isNumber(field) ? "number" : null);

/** A bar from the middle: to the left where time went down. */
function changeBar(change, span, verdict) {
  const width = (Math.abs(change) / span) * 50;
  return drawing(
    "svg",
    {
      class: `change ${verdict}`,
      role: "img",
      "aria-label": signedPercent(change),
      preserveAspectRatio: "none",
      viewBox: "0 0 100 12",
    },
    drawing("rect", { class: "mark", x: change < 0 ? 50 - width : 50, y: 1.5, width, height: 9 }),
    drawing("line", { x1: 50, x2: 50, y1: 0, y2: 12 }),
  );
}
