// What is said in words: published figures, what was not run, and how the rest was measured.

function drawPublished(section, view) {
  section.hidden = view.report.reference.length === 0;
  if (section.hidden) return;
  const [lead, box] = sectionParts(section, "lead", "scroll");
  const figures = inGridOrder(view.reference);
  lead.textContent =
    figures.length === 0
      ? `There is no published figure of ${view.measure} for this choice.`
      : `Figures of ${view.measure} that others published, measured on other hardware. They stand beside the ` +
        "measurements in the panels of the same workload and count in no finding.";
  box.hidden = figures.length === 0;
  const sources = grouped(figures, (figure) => keyOf(figure, ["url", "hardware", "model", "dtype"]));
  box.replaceChildren(...sources.flatMap(publishedTable));
}

/** What one source says of one model: who and of what, then the figures. */
function publishedTable(figures) {
  const [{ source, url, hardware, model, dtype }] = figures;
  const heads = ["#batch", "#sequence", "#new", "compile", "backend", "#mean", "#median", "#p90", "#peak memory"];
  const time = (milliseconds) => (milliseconds === null ? NO_VALUE : duration(milliseconds));
  const rows = figures.map((figure) => [
    fieldValue(figure.batch),
    fieldValue(figure.sequence),
    fieldValue(figure.new_tokens ?? NO_VALUE),
    fieldValue(figure.compile),
    backend(figure.implementation),
    time(figure.mean),
    time(figure.median),
    time(figure.p90),
    size(figure.peak_memory_bytes),
  ]);
  return [
    element("p", { class: "source" }, link(url, source), `: ${model} in ${dtype} on ${hardware}`),
    table(heads, rows),
  ];
}

function drawSkipped(section, view, state) {
  section.hidden = view.run.skipped.length === 0;
  if (section.hidden) return;
  const [lead, box] = sectionParts(section, "lead", "scroll");
  const skipped = view.run.skipped.filter((entry) => matches(entry, state.selection));
  lead.textContent =
    skipped.length > 0
      ? "Combinations that were chosen and cannot run here."
      : "None of those that cannot run is in this choice.";
  box.hidden = skipped.length === 0;
  const heads = [...FIELDS.map(({ key, label }) => (isNumber(key) ? `#${label}` : label)), "reason"];
  box.replaceChildren(
    table(
      heads,
      skipped.map((entry) => [
        ...FIELDS.map(({ key }) => (entry[key] === null ? "all" : fieldValue(entry[key]))),
        given(entry.reason),
      ]),
    ),
  );
}

function drawMethod(section, view) {
  const [facts, targets, command] = sectionParts(section, "what", "scroll", "command");
  const { run } = view;
  facts.replaceChildren(
    element(
      "dl",
      { class: "facts" },
      ...pairs([
        ["program", programOf(run)],
        ["model", given(run.model)],
        ["date", given(run.date)],
        ["runs of each combination", `${run.repetitions}`],
        ["seed", `${run.seed}`],
        ["file", given(run.file)],
        ...run.machine.map(([label, value]) => [given(label), given(value)]),
      ]),
    ),
  );

  const heads = [
    "device",
    "dtype",
    "hardware",
    "memory bandwidth",
    "peak",
    "measured with",
    "model loaded in",
    "notes",
  ];
  targets.hidden = run.targets.length === 0;
  targets.replaceChildren(
    table(
      heads,
      run.targets.map((target) => [
        fieldValue(target.device),
        fieldValue(target.dtype),
        given(target.hardware),
        spread(target.bytes_per_second, bandwidth),
        spread(target.flops_per_second, performanceRate),
        given(target.operations),
        `${number(target.load_s)} s`,
        element("ul", {}, ...target.notes.map((note) => element("li", {}, given(note)))),
      ]),
    ),
  );

  command.replaceChildren(
    element("p", {}, "Made with"),
    element("pre", {}, element("code", {}, String(run.command))),
    element(
      "p",
      {},
      "Times are of a whole generation, its prefill and its decode steps. p10, median and p90 are over " +
        "the runs of a combination; with few runs p10 and p90 lie close to the shortest and longest. Bandwidth and peak " +
        "are measured, not from a data sheet. The limit is the time that memory or arithmetic needs at least at these " +
        "rates; “of limit” is that time divided by the median.",
    ),
  );
}
