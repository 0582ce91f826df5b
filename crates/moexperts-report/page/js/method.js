// What is said in words and does not follow the measure: published figures, what was not run, and how
// the rest was measured.

function drawPublished(section, view) {
  section.hidden = view.report.reference.length === 0;
  if (section.hidden) return;
  const [lead, box] = sectionParts(section, "lead", "scroll");
  lead.textContent = view.reference.length === 0
    ? `There is no published figure of ${view.measure} for this choice.`
    : `Figures of ${view.measure} that others published, measured on other hardware. They stand beside the measurements in the `
      + "panels of the same batch and sequence and count in no finding.";
  box.hidden = view.reference.length === 0;
  const heads = ["source", "hardware", "model", "dtype", "batch", "sequence", "new", "compile", "backend", "mean", "median", "p90", "peak memory"];
  const numbers = ["batch", "sequence", "new", "mean", "median", "p90", "peak memory"];
  const milliseconds = (value) => value === null ? NO_VALUE : duration(value);
  box.replaceChildren(element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col", class: numbers.includes(head) ? "number" : null }, head)))),
    element("tbody", {}, ...view.reference.map((figure) => element("tr", {}, ...[
      link(figure.url, figure.source), given(figure.hardware), given(figure.model), given(figure.dtype),
      fieldValue(figure.batch), fieldValue(figure.sequence), fieldValue(figure.new_tokens ?? NO_VALUE), fieldValue(figure.compile), backend(figure.implementation),
      milliseconds(figure.mean), milliseconds(figure.median), milliseconds(figure.p90), size(figure.peak_memory_bytes),
    ].map((content, index) => element("td", { class: numbers.includes(heads[index]) ? "number" : null }, content)))))));
}

function drawSkipped(section, view, state) {
  const skipped = view.run.skipped.filter((entry) => matches(entry, state.selection));
  section.hidden = view.run.skipped.length === 0;
  if (section.hidden) return;
  const [lead, box] = sectionParts(section, "lead", "scroll");
  lead.textContent = skipped.length ? "Combinations that were asked for and cannot run here." : "None of those that cannot run is in this choice.";
  box.hidden = skipped.length === 0;
  box.replaceChildren(element("table", {},
    element("thead", {}, element("tr", {}, ...FIELDS.map(({ key, label }) => element("th", { scope: "col", class: numeric(key) }, label)),
      element("th", { scope: "col" }, "reason"))),
    element("tbody", {}, ...skipped.map((entry) => element("tr", {},
      ...FIELDS.map(({ key }) => element("td", { class: numeric(key) }, entry[key] === null ? "all" : fieldValue(entry[key]))),
      element("td", { class: "reason" }, given(entry.reason)))))));
}

function drawMethod(section, view) {
  const [facts, targets, command] = sectionParts(section, "what", "scroll", "command");
  const { run } = view;
  facts.replaceChildren(element("dl", { class: "facts" }, ...pairs([
    ["program", programOf(run)], ["model", given(run.model)], ["date", given(run.date)],
    ["runs of each combination", `${run.repetitions}`], ["seed", `${run.seed}`], ["file", given(run.file)],
    ...run.machine.map(([label, value]) => [given(label), given(value)]),
  ])));
  const spread = (rate, text) => `${text(rate.median)} (${text(rate.p10)} to ${text(rate.p90)})`;
  targets.hidden = run.targets.length === 0;
  targets.replaceChildren(element("table", {},
    element("thead", {}, element("tr", {}, ...["device", "dtype", "hardware", "memory bandwidth", "peak", "measured with", "model loaded in", "notes"]
      .map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...run.targets.map((target) => element("tr", {}, ...[
      given(target.device), given(target.dtype), given(target.hardware), spread(target.bytes_per_second, bandwidth),
      spread(target.flops_per_second, performanceRate), given(target.operations), `${number(target.load_s)} s`,
      element("ul", {}, ...target.notes.map((note) => element("li", {}, given(note)))),
    ].map((content) => element("td", {}, content)))))));
  command.replaceChildren(
    element("p", {}, "Made with"), element("pre", {}, element("code", {}, String(run.command))),
    element("p", {}, "Times are of a whole generation, its prefill and its decode steps. p10, median and p90 are over the runs of a combination; "
      + "with few runs p10 and p90 lie close to the shortest and longest. Bandwidth and peak are measured, not from a data sheet. "
      + "The limit is the time that memory or arithmetic needs at least at these rates; “of limit” is that time divided by the median."));
}
