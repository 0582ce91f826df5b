// Puts the page together, and draws it anew when filters, width, colour scheme or paper change.

function main() {
  const report = readReport();
  const state = {
    selection: emptySelection(),
    measure: "generation",
    sort: { column: null, descending: false },
    crossoverTarget: null,
    changeOrder: "size",
    allChanges: false,
    allPanels: false,
  };
  const updateFilters = makeFilters(byId("filters"), report, state, draw);
  const words = element("p", { class: "selection" });
  byId("filters").after(words);

  function draw() {
    const view = viewOf(report, state);
    updateFilters();
    words.textContent = selectionInWords(state);
    drawHead(view);
    sayNothing(view, state, draw);
    for (const id of ["latency", "crossover", "roofline", "memory", "table"])
      byId(id).hidden = view.cells.length === 0;
    byId("filters").hidden = report.runs.at(-1).cells.length === 0;
    drawComparison(byId("comparison"), view, state, draw);
    if (view.cells.length > 0) {
      drawLatency(byId("latency"), view, state, draw);
      drawCrossover(byId("crossover"), view, state, draw);
      drawRoofline(byId("roofline"), view);
      drawMemory(byId("memory"), view);
      drawTable(byId("table"), view, state, draw);
    }
    drawPublished(byId("published"), view);
    drawSkipped(byId("skipped"), view, state);
    drawMethod(byId("method"), view);
  }

  draw();
  drawWhenLooksChange(draw);
}

/** An empty choice is said in words, with the way out of it. */
function sayNothing(view, state, draw) {
  const box = byId("nothing");
  box.hidden = view.cells.length > 0;
  if (view.run.cells.length === 0) {
    box.replaceChildren(
      element("p", {}, "This file holds no measured combination yet. What is known of the run stands below."),
    );
  } else {
    box.replaceChildren(
      element("p", {}, "No combination is left by this choice: other values were not measured together."),
      chip("Show all combinations", () => {
        clearSelection(state);
        draw();
      }),
    );
  }
}

function drawWhenLooksChange(draw) {
  let width = byId("sections").clientWidth;
  let waiting = 0;
  new ResizeObserver(() => {
    const now = byId("sections").clientWidth;
    if (now === width) return;
    width = now;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(draw);
  }).observe(byId("sections"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  // Charts have the width and the colours of the screen until they are drawn for paper.
  const paper = (on) => {
    document.documentElement.toggleAttribute("data-paper", on);
    width = byId("sections").clientWidth;
    draw();
  };
  matchMedia("print").addEventListener("change", ({ matches: on }) => paper(on));
  addEventListener("beforeprint", () => paper(true));
  addEventListener("afterprint", () => paper(false));
}

main();
