"""Every chart has its marks, where the numbers say."""

import pytest

import made_up
import marks
from made_up import BACKENDS, middle


def by_backend(results):
    return {cell["implementation"]: cell for cell in results["cells"]}


@pytest.mark.parametrize("measure", ["generation", "prefill", "decode"])
def test_a_bar_is_as_long_as_its_median(show, measure):
    results = made_up.tiny()
    page = show(results)
    page.locator(f'[data-field="measure"] [data-value="{measure}"]').click()
    widths = {name: marks.bars(page, name) for name in BACKENDS}
    assert {name: len(boxes) for name, boxes in widths.items()} == dict.fromkeys(BACKENDS, 1)
    cells = by_backend(results)
    # An axis from zero: lengths are in proportion, not only on a line.
    per_ms = [widths[name][0]["width"] / middle(cells[name], measure) for name in BACKENDS]
    assert max(per_ms) / min(per_ms) == pytest.approx(1, rel=0.01)


def test_whiskers_run_from_p10_to_p90(show):
    results = made_up.tiny()
    page = show(results)
    ends = marks.whisker_ends(page)
    assert len(ends) == 2 * len(BACKENDS)
    for row, name in enumerate(BACKENDS):
        [bar] = marks.bars(page, name)
        low, high = ends[2 * row], ends[2 * row + 1]
        # Of five runs p10 lies two fifths of the way from the first to the second, p90 likewise.
        assert (low - bar["x"]) / bar["width"] == pytest.approx(0.984, abs=0.003)
        assert (high - bar["x"]) / bar["width"] == pytest.approx(1.022, abs=0.003)


def test_a_sweep_has_a_bar_for_each_combination_and_names_beside_them(show):
    results = made_up.grid()
    page = show(results)
    assert len(marks.bars(page)) == len(results["cells"]) == 108
    texts = marks.texts(page, "latency")
    assert texts.count("batched_mm") == 36 and texts.count("compile max-autotune") == 12
    assert "batch 4 · sequence 512 · 64 new" in texts
    # The bars of a panel stand in different rows, and no two marks cover each other.
    boxes = sorted(((round(box["y"]), box["x"]) for box in marks.bars(page)))
    assert len(set(boxes)) == 108
    assert all(box["height"] >= 10 for box in marks.bars(page))


def test_the_fastest_of_a_panel_is_bold(show):
    page = show(made_up.grid())
    bold = page.eval_on_selector_all(
        '[data-chart^="latency"] svg text',
        """(texts) => texts.filter((text) => / m?s$/.test(text.textContent) && getComputedStyle(text).fontWeight === "700").length""",
    )
    assert bold == 12


def test_axes_have_units(show):
    page = show(made_up.grid())
    assert any(text.endswith(" s") and float(text[:-2]) == 0 for text in marks.texts(page, "latency"))
    assert "ms, logarithmic" in marks.texts(page, "crossover-prefill")
    assert "tokens of one forward (batch × sequence)" in marks.texts(page, "crossover-prefill")
    assert "tokens of one forward (batch)" in marks.texts(page, "crossover-decode")
    assert "GFLOP/s, logarithmic" in marks.texts(page, "roofline")
    assert "arithmetic intensity, FLOP/byte, logarithmic" in marks.texts(page, "roofline")
    assert any(text.endswith(" GiB") for text in marks.texts(page, "memory"))


def test_memory_has_a_point_for_each_combination(show):
    results = made_up.grid()
    page = show(results)
    points = {name: marks.filled(page, "memory", name) for name in BACKENDS}
    assert [len(boxes) for boxes in points.values()] == [36, 36, 36]
    # The first panel holds the combinations that are not compiled, from the top in the order of the grid.
    cells = [
        cell
        for cell in results["cells"]
        if (cell["compile"], cell["implementation"]) == ("none", "batched_mm")
    ]
    left = min(box["x"] for box in points["batched_mm"])
    width = page.evaluate("document.querySelector('[data-chart=memory-0]').clientWidth") / 4
    drawn = sorted((box for box in points["batched_mm"] if box["x"] < left + width), key=lambda box: box["y"])
    marks.assert_linear(
        [marks.centre(box)[0] for box in drawn], [cell["peak_memory_bytes"] for cell in cells]
    )


@pytest.mark.parametrize(
    "phase, axis",
    [("prefill", lambda cell: cell["batch"] * cell["sequence"]), ("decode", lambda cell: cell["batch"])],
)
def test_crossover_shows_the_time_of_one_forward(show, phase, axis):
    cells = [made_up.cell(batch, 16, 16, "none", backend) for batch in (1, 4, 32) for backend in BACKENDS]
    page = show(made_up.results(cells))
    every = []
    for backend in BACKENDS:
        own = [cell for cell in cells if cell["implementation"] == backend]
        # Symbols, not the ends of whiskers, which have the colour too.
        boxes = [box for box in marks.filled(page, f"crossover-{phase}", backend) if box["height"] > 5]
        boxes.sort(key=lambda box: box["x"])
        assert len(boxes) == len(own) == 3
        marks.assert_logarithmic([marks.centre(box)[0] for box in boxes], [axis(cell) for cell in own])
        forwards = [middle(cell, phase) / cell[phase]["forwards"] for cell in own]
        every += zip((marks.centre(box)[1] for box in boxes), forwards)
    # All lines share one axis.
    marks.assert_logarithmic([pixel for pixel, _ in every], [value for _, value in every])


def test_crossover_says_where_one_gives_way(show):
    page = show(made_up.grid())
    # batched_mm: 20 + 2 n; grouped_mm: 45 + 0.25 n; they meet at 14.3 tokens. Measured: 16 tokens and more.
    sentence = page.locator("#crossover .lead").inner_text()
    assert "Prefill: grouped_mm is fastest at every number of tokens, 16 to 2,048." in sentence
    assert "Decode step: batched_mm is fastest at every number of tokens, 1 to 4." in sentence

    cells = [made_up.cell(batch, 4, 16, "none", backend) for batch in (1, 2, 8) for backend in BACKENDS]
    page = show(made_up.results(cells))
    assert (
        "Prefill: batched_mm is fastest up to 8 tokens, grouped_mm from 32 on."
        in page.locator("#crossover .lead").inner_text()
    )


def test_crossover_admits_what_it_cannot_tell(show):
    cells = [made_up.cell(1, 16, 16, "none", backend) for backend in ("eager", "grouped_mm")]
    cells[1]["prefill_ms"] = [ms * 1.005 for ms in cells[0]["prefill_ms"]]
    page = show(made_up.results(cells))
    assert (
        "Not certain: at 16 tokens eager and grouped_mm are not clearly apart."
        in page.locator("#crossover .lead").inner_text()
    )


def test_a_backend_that_failed_in_the_hardest_workload_is_no_faster_for_it(show):
    fast = [made_up.cell(1, sequence, 16, "none", "grouped_mm") for sequence in (16, 512)]
    fast[1]["decode_ms"] = [40 * ms for ms in fast[1]["decode_ms"]]
    slow = made_up.cell(1, 16, 16, "none", "eager")
    sentence = show(made_up.results([*fast, slow])).locator("#crossover .lead").inner_text()
    assert "Decode step: grouped_mm is fastest at 1 token." in sentence


def test_crossover_is_certain_where_every_workload_says_so(show):
    # Decoding after 512 tokens takes three times as long: pooled, the ranges of the backends overlap.
    cells = [
        made_up.cell(1, sequence, 16, "none", backend)
        for sequence in (16, 512)
        for backend in ("batched_mm", "grouped_mm")
    ]
    for cell in cells[2:]:
        cell["decode_ms"] = [3 * ms for ms in cell["decode_ms"]]
    sentence = show(made_up.results(cells)).locator("#crossover .lead").inner_text()
    assert "Decode step: batched_mm is fastest at 1 token." in sentence
    assert "Not certain" not in sentence.partition("Decode step")[2]


def test_crossover_compares_what_was_measured_of_two_backends(show):
    cells = [made_up.cell(batch, 16, 16, "none", "eager") for batch in (1, 4, 16)]
    cells.append(made_up.cell(4, 16, 16, "none", "batched_mm"))
    page = show(made_up.results(cells))
    sentence = page.locator("#crossover .lead").inner_text()
    assert "Prefill: eager is fastest at 64 tokens." in sentence
    assert "Decode step: batched_mm is fastest at 4 tokens." in sentence
    rings = marks.shapes(page, "crossover", "stroke", marks.WHISKER)
    assert [round(ring["width"]) for ring in rings] == [18, 18]
    [rung] = [box for box in marks.filled(page, "crossover-decode", "batched_mm") if box["height"] > 5]
    assert any(marks.centre(ring) == pytest.approx(marks.centre(rung), abs=1) for ring in rings)


def test_crossover_leaves_out_what_another_backend_decodes(show):
    cells = [made_up.cell(batch, 16, 16, "none", backend) for batch in (1, 4, 16) for backend in BACKENDS]
    for cell in cells:
        if cell["implementation"] == "grouped_mm":
            cell["decode_implementation"] = "batched_mm"
    page = show(made_up.results(cells))
    assert len(marks.filled(page, "crossover-prefill", "grouped_mm")) >= 3
    assert marks.filled(page, "crossover-decode", "grouped_mm") == []
    assert (
        "3 combinations in which another backend decodes are left out"
        in page.locator("#crossover .note").inner_text()
    )
    assert (
        "grouped_mm → batched_mm" in page.locator("#table").inner_text()
        or "decode: batched_mm" in page.locator("#table").inner_text()
    )


def test_roofline_places_points_under_the_measured_roof(show):
    cells = [made_up.cell(1, sequence, 16, "none", "eager") for sequence in (16, 128, 512)]
    page = show(made_up.results(cells))
    boxes = sorted(marks.filled(page, "roofline", "eager"), key=lambda box: box["x"])
    assert len(boxes) == 3
    intensities = [cell["prefill"]["flops"] / cell["prefill"]["bytes"] for cell in cells]
    rates = [cell["prefill"]["flops"] / middle(cell, "prefill") for cell in cells]
    marks.assert_logarithmic([marks.centre(box)[0] for box in boxes], intensities)
    marks.assert_logarithmic([marks.centre(box)[1] for box in boxes], rates)
    # Decode is hollow: drawn with the colour as its outline.
    assert len(marks.shapes(page, "roofline", "stroke", marks.COLOURS["eager"])) == 3

    left, ridge, right = marks.chart_values(page, "roofline-0", "roof")
    assert ridge == pytest.approx(
        [made_up.FLOPS_PER_SECOND / made_up.BYTES_PER_SECOND, made_up.FLOPS_PER_SECOND / 1e9]
    )
    assert left[1] / left[0] == pytest.approx(made_up.BYTES_PER_SECOND / 1e9) and right[1] == ridge[1]
    assert {"20.0 GB/s from memory", "1.00 TFLOP/s, bf16"} <= set(marks.texts(page, "roofline"))


def test_each_target_has_a_roof(show):
    cells = [
        made_up.cell(1, 16, 16, "none", "eager"),
        made_up.cell(1, 16, 16, "none", "eager", device="cuda:0"),
    ]
    page = show(
        made_up.results(
            cells,
            targets=[made_up.target(), made_up.target(device="cuda:0", hardware="GPU that does not exist")],
        )
    )
    assert page.locator('[data-chart^="roofline"] svg').count() == 2


def test_charts_are_described(show):
    results = made_up.tiny()
    page = show(results)
    for chart in page.locator("[data-chart]").all():
        assert chart.get_attribute("role") == "img"
        assert len(chart.get_attribute("aria-label")) > 40
    label = page.locator('[data-chart="latency-0"]').get_attribute("aria-label")
    seconds = middle(by_backend(results)["batched_mm"]) / 1000
    assert f"batched_mm with compile none {seconds * 1000:.0f} ms" in label


def test_a_backend_of_ones_own_has_its_own_colour_and_symbol(show):
    cells = [made_up.cell(1, 16, 16, "none", name) for name in (*BACKENDS, "mine", "yours")]
    page = show(made_up.results(cells))
    swatches = page.eval_on_selector_all(
        "#latency .key path",
        "(paths) => paths.map((path) => [path.getAttribute('d'), path.getAttribute('fill')])",
    )
    assert len({symbol for symbol, _ in swatches}) == len({fill for _, fill in swatches}) == 5


def test_findings_follow_from_the_numbers(show):
    page = show(made_up.tiny())
    text = page.locator("#finding").inner_text()
    ratio = middle(made_up.cell(1, 16, 16)) / middle(made_up.cell(1, 16, 16, "none", "batched_mm"))
    assert "In generation, batched_mm is fastest." in text
    assert f"It is {ratio:.2f}× as fast as the best of eager." in text


def test_a_lead_within_noise_is_said_to_be(show):
    cells = [made_up.cell(1, 16, 16, "none", backend) for backend in ("eager", "grouped_mm")]
    cells[1]["generation_ms"] = [ms * 0.995 for ms in cells[0]["generation_ms"]]
    assert "within noise" in show(made_up.results(cells)).locator("#finding").inner_text()
    assert "within noise" not in show(made_up.tiny()).locator("#finding").inner_text()
