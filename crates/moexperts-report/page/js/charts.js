// What all charts have in common: one instance per box, the SVG renderer, no animation, text in
// place of markup in tooltips, a description for those who do not see them.

const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif";

/** Draws `option` in `box`, `height` pixels high. `description` says what the chart shows. */
function drawChart(box, height, description, option) {
  box.style.height = `${height}px`;
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", description);
  const size = { width: box.clientWidth, height };
  const chart = echarts.getInstanceByDom(box) ?? echarts.init(box, null, { renderer: "svg", ...size });
  chart.resize(size);
  chart.setOption(
    {
      animation: false,
      textStyle: { fontFamily: FONT, fontSize: 11, color: colour("--ink") },
      tooltip: {
        renderMode: "richText",
        confine: true,
        transitionDuration: 0,
        backgroundColor: colour("--raised"),
        borderColor: colour("--rule-strong"),
        borderWidth: 1,
        padding: [8, 10],
        textStyle: { color: colour("--ink") },
      },
      ...option,
    },
    { notMerge: true },
  );
}

/** A box for a chart inside `parent`, kept from one drawing to the next. */
function chartBox(parent, name) {
  const found = parent.querySelector(`:scope > [data-chart="${name}"]`);
  if (found) return found;
  const box = element("div", { class: "chart", "data-chart": name });
  parent.append(box);
  return box;
}

/** Takes away the charts of `parent` that `names` does not list. */
function dropCharts(parent, names) {
  for (const box of parent.querySelectorAll(":scope > [data-chart]")) {
    if (names.includes(box.dataset.chart)) continue;
    echarts.getInstanceByDom(box)?.dispose();
    box.remove();
  }
}

/** A place for marks whose edges hold: what stands outside does not push them inwards. */
const gridAt = (place) => ({ outerBoundsMode: "none", ...place });

const axisText = () => ({ color: colour("--muted"), fontSize: 11, fontFamily: FONT });

const headingText = () => ({ color: colour("--ink"), fontSize: 12, fontWeight: 600, fontFamily: FONT });

/** The look of an axis of numbers. */
function axisStyle() {
  return {
    axisLine: { show: false },
    axisTick: { show: false },
    axisLabel: { ...axisText(), hideOverlap: true },
    splitLine: { showMaxLine: false, lineStyle: { color: colour("--rule"), width: 1 } },
    nameTextStyle: axisText(),
  };
}

/** A logarithmic axis from `low` to `high` with ticks at `ticks`; `format` makes their labels. */
function logAxis(name, [low, high], ticks, format) {
  const style = axisStyle();
  return {
    ...style,
    type: "log",
    min: low,
    max: high,
    name,
    nameLocation: "middle",
    axisTick: { show: false, customValues: ticks },
    axisLabel: { ...style.axisLabel, customValues: ticks, formatter: format },
    splitLine: { show: false },
    minorTick: { show: false },
  };
}

/** Round numbers from `low` to `high`: the fewer the decades, the more of each. */
function logTicks([low, high]) {
  const decades = Math.log10(high / low);
  const steps = decades > 2.5 ? [1] : decades > 1 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
  const ticks = [];
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade += 1) {
    ticks.push(...steps.map((step) => Number(`${step}e${decade}`)));
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

/** The extent of `values`, wider by `factor` on both sides, and wide enough to hold round numbers. */
function logExtent(values, factor) {
  const [low, high] = [Math.min(...values) / factor, Math.max(...values) * factor];
  const widening = Math.max(1, Math.sqrt(4 / (high / low)));
  return [low / widening, high * widening];
}

/** The title of a chart, and below it the unit of its vertical axis. */
function chartTitle(text, unit) {
  return [
    { text, left: 0, top: 2, padding: 0, textStyle: headingText() },
    { text: unit, left: 0, top: 20, padding: 0, textStyle: { ...axisText(), fontWeight: 400 } },
  ];
}

/** A vertical axis of names, whose text begins `width` left of the marks. */
function nameAxis(index, names, width) {
  return {
    gridIndex: index,
    type: "category",
    inverse: true,
    data: names.map((_, row) => row),
    axisLine: { show: true, onZero: false, lineStyle: { color: colour("--rule-strong") } },
    axisTick: { show: false },
    axisLabel: {
      ...axisText(),
      color: colour("--ink"),
      interval: 0,
      align: "left",
      margin: width,
      width: width - 8,
      overflow: "truncate",
      formatter: (row) => names[row],
    },
  };
}

/** Divides panels into lines of as many as stand beside each other. */
function inLines(panels, columns) {
  const lines = [];
  for (let first = 0; first < panels.length; first += columns)
    lines.push(panels.slice(first, first + columns));
  return lines;
}

const ruler = document.createElement("canvas").getContext("2d");

/** How many pixels wide the widest of `texts` is in a chart. */
function widest(texts, fontSize = 11) {
  ruler.font = `${fontSize}px ${FONT}`;
  return Math.ceil(Math.max(0, ...texts.map((text) => ruler.measureText(text).width)));
}

/** The lines of a tooltip that say which cell it is about. */
function cellLines(cell, view) {
  return [
    chartName(cell.implementation, 60),
    workloadName(cell, view),
    `compile ${chartName(cell.compile, 60)}`,
  ];
}

/** The lines of a tooltip about one measure of a cell. */
function timeLines(cell, time) {
  return [
    `median ${duration(time.median)}   mean ${duration(time.mean)}`,
    `p10 to p90 ${duration(time.p10)} to ${duration(time.p90)}`,
    `${measured(time.tokens_per_second)} tokens/s`,
    `${percent(time.fraction_of_limit)} of the hardware's limit`,
    counted(cell.runs, "run"),
  ];
}

/** The name of a backend in a chart, with the one that decodes in its place where that is another. */
function implementationName(cell, measure, limit = 18) {
  const name = chartName(cell.implementation, limit);
  return isOwn(cell, measure) ? name : `${name} → ${chartName(cell.decode_implementation, limit)}`;
}
