"""Two runs: what changed, and whether it is more than noise. Published figures beside a run."""

import pytest

import made_up
import marks

FACTORS = {"eager": 1.0, "batched_mm": 0.8, "grouped_mm": 1.1}


def compared(**other):
    before = made_up.tiny()
    return made_up.slower(before, lambda cell: FACTORS[cell["implementation"]], **other), before


def rows(page):
    return {row.locator(".backend").inner_text(): row for row in page.locator("table.changes tbody tr").all()}


def test_changes_have_a_sign_a_bar_a_symbol_and_a_word(show, picture):
    page = show(*compared())
    for backend, change, verdict in (
        ("eager", "±0.0 %", "≈ within noise"),
        ("batched_mm", "−20.0 %", "▼ faster"),
        ("grouped_mm", "+10.0 %", "▲ slower"),
    ):
        text = rows(page)[backend].inner_text()
        assert change in text and verdict in text
    colours = {
        name: row.locator(".mark").evaluate("(mark) => getComputedStyle(mark).fill")
        for name, row in rows(page).items()
    }
    assert len(set(colours.values())) == 3
    assert (
        "1 is faster in generation, 1 slower and 1 within noise"
        in page.locator("#comparison .lead").inner_text()
    )
    picture(page, "comparison-tiny")


def test_bars_go_left_where_time_went_down_and_are_in_proportion(show):
    page = show(*compared())
    boxes = {
        name: (row.locator(".mark").bounding_box(), row.locator("svg.change").bounding_box())
        for name, row in rows(page).items()
    }

    def middle(whole):
        return whole["x"] + whole["width"] / 2

    mark, whole = boxes["batched_mm"]
    assert mark["x"] + mark["width"] == pytest.approx(middle(whole), abs=1)
    faster = mark["width"]
    mark, whole = boxes["grouped_mm"]
    assert mark["x"] == pytest.approx(middle(whole), abs=1)
    assert faster / mark["width"] == pytest.approx(2, rel=0.02)


def test_the_order_is_by_size_or_that_of_the_grid(show):
    page = show(*compared())

    def order():
        return list(rows(page))

    assert order() == ["batched_mm", "grouped_mm", "eager"]
    page.locator("#comparison").get_by_role("button", name="as in the grid").click()
    assert order() == ["eager", "batched_mm", "grouped_mm"]


def test_filters_and_measure_apply_to_changes(show):
    before = made_up.grid()
    page = show(made_up.slower(before, lambda cell: 0.9), before)
    assert page.locator("table.changes tbody tr").count() == 20
    page.get_by_role("button", name="Show all 108 changes").click()
    assert page.locator("table.changes tbody tr").count() == 108
    page.locator('[data-field="batch"] [data-value="4"]').click()
    assert page.locator("table.changes tbody tr").count() == 54
    page.locator('[data-field="measure"] [data-value="decode"]').click()
    assert "faster in decode" in page.locator("#comparison .lead").inner_text()


def test_what_makes_it_another_comparison_is_warned_of(show):
    page = show(*compared())
    assert page.locator("#comparison .warning").count() == 0
    page = show(*compared(targets=[made_up.target(hardware="another CPU")], model="another model"))
    warnings = page.locator("#comparison .warning").all_inner_texts()
    assert len(warnings) == 2 and "hardware" in warnings[0] and "models" in warnings[1]
    assert page.locator("#comparison [data-differs] th").all_inner_texts() == [
        "file",
        "model",
        "commit",
        "hardware",
    ]
    slower = made_up.target(bytes_per_second=[1e10])
    page = show(*compared(targets=[slower]))
    bandwidth = page.locator("#comparison .runs tr", has_text="memory bandwidth")
    assert bandwidth.get_attribute("data-differs") is not None
    assert "cpu bf16: 10.0 GB/s (10.0 GB/s to 10.0 GB/s)" in bandwidth.inner_text()


def test_one_run_is_no_comparison(show):
    assert not show(made_up.tiny()).locator("#comparison").is_visible()


def test_published_figures_stand_beside_and_count_in_nothing(show, picture):
    plain = show(made_up.tiny())
    assert not plain.locator("#published").is_visible()
    finding, figures = plain.locator("#finding").inner_text(), plain.locator("#figures").inner_text()

    page = show(made_up.tiny(), reference=True)
    assert (page.locator("#finding").inner_text(), page.locator("#figures").inner_text()) == (
        finding,
        figures,
    )
    page.locator('[data-field="measure"] [data-value="prefill"]').click()
    texts = marks.texts(page, "latency")
    assert "published, NVIDIA A100, none" in texts
    # Of batch 1 and sequence 16, not compiled: 272.94 ms of eager.
    assert "273 ms" in texts
    hatched = page.locator('[data-chart^="latency"] svg path[fill^="url(#"]').count()
    assert hatched >= 9 and len(marks.bars(page)) == 3, "hatched bars, and those of the run as ever"
    assert "published figures, measured by others" in page.locator("#latency .note").inner_text()
    link = page.locator("#published a").first
    assert (
        link.get_attribute("href").startswith("https://")
        and link.get_attribute("rel") == "noopener noreferrer"
    )
    assert page.locator("#published .source").all_inner_texts() == [
        "data set docs-benchmarks/experts-backends: Qwen/Qwen1.5-MoE-A2.7B in bf16 on a GPU the source "
        "does not name",
        "transformers, pull request 42697: Qwen/Qwen1.5-MoE-A2.7B in bf16 on NVIDIA A100",
    ]
    # The table of the run holds none of them.
    assert page.locator("#table tbody tr").count() == 3
    picture(page, "reference")
