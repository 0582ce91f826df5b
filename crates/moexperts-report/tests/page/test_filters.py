"""Filters change every section, and never end in an empty page."""

import pytest

import made_up
import marks


def button(page, field, value):
    return page.locator(f'[data-field="{field}"]').get_by_role("button", name=value, exact=True)


def rows(page):
    return page.locator("#table tbody tr").count()


@pytest.mark.parametrize(
    "field, value, left",
    [
        ("batch", "4", 54),
        ("sequence", "128", 36),
        ("new_tokens", "64", 54),
        ("compile", "default", 36),
        ("implementation", "eager", 36),
    ],
)
def test_a_filter_narrows_all_sections(show, field, value, left):
    page = show(made_up.grid())
    assert (rows(page), len(marks.bars(page))) == (108, 108)
    button(page, field, value).click()
    assert button(page, field, value).get_attribute("aria-pressed") == "true"
    assert button(page, field, "all").get_attribute("aria-pressed") == "false"
    assert rows(page) == len(marks.bars(page)) == left
    assert sum(len(marks.filled(page, "memory", name)) for name in marks.COLOURS) == left
    column = {"implementation": "implementation"}.get(field, field)
    assert set(page.locator(f'#table td[data-column="{column}"]').all_inner_texts()) == {value}
    button(page, field, "all").click()
    assert rows(page) == len(marks.bars(page)) == 108


@pytest.mark.parametrize("field, value", [("dtype", "f32"), ("device", "cuda:0")])
def test_devices_and_dtypes_are_filters_where_there_are_two(show, field, value):
    cells = [
        made_up.cell(1, 16, 16, "none", "eager"),
        made_up.cell(1, 16, 16, "none", "eager", **{field: value}),
    ]
    page = show(made_up.results(cells, targets=[made_up.target(), made_up.target(**{field: value})]))
    assert page.locator('[data-chart^="roofline"] svg').count() == 2
    button(page, field, value).click()
    assert rows(page) == 1 and page.locator('[data-chart^="roofline"] svg').count() == 1
    assert page.locator(f'#table td[data-column="{field}"]').all_inner_texts() == [value]


def test_several_values_of_a_filter_add_up(show):
    page = show(made_up.grid())
    button(page, "sequence", "16").click()
    button(page, "sequence", "512").click()
    assert rows(page) == 72
    button(page, "sequence", "16").click()
    assert rows(page) == 36
    button(page, "sequence", "512").click()
    assert rows(page) == 108 and button(page, "sequence", "all").get_attribute("aria-pressed") == "true"


def test_one_value_is_a_fact_and_no_filter(show):
    page = show(made_up.tiny())
    assert page.locator(".facet").evaluate_all("(facets) => facets.map((facet) => facet.dataset.field)") == [
        "measure",
        "implementation",
    ]
    facts = page.locator("#facts").inner_text()
    assert "new tokens\n16" in facts and "compile\nnone" in facts


def test_the_measure_changes_times_and_findings(show):
    page = show(made_up.grid())
    assert "In generation" in page.locator("#finding").inner_text()
    before = [box["width"] for box in marks.bars(page)]
    button(page, "measure", "prefill").click()
    assert "In prefill" in page.locator("#finding").inner_text()
    assert [box["width"] for box in marks.bars(page)] != before
    # 20 + 2 × 16 ms, not compiled.
    first = page.locator("#table tbody tr").nth(1).locator('[data-column="median"]').inner_text()
    assert first == "52.00"


def test_an_empty_choice_says_so_and_leads_back(show):
    cells = [made_up.cell(1, 16, 16, "none", "eager"), made_up.cell(4, 128, 16, "none", "eager")]
    page = show(made_up.results(cells))
    assert not page.locator("#nothing").is_visible()
    button(page, "batch", "1").click()
    button(page, "sequence", "128").click()
    assert page.locator("#nothing").is_visible()
    assert "No combination is left" in page.locator("#nothing").inner_text()
    assert not page.locator("#latency").is_visible() and page.locator("#method").is_visible()
    page.locator("#nothing").get_by_role("button").click()
    assert not page.locator("#nothing").is_visible() and rows(page) == 2


def test_filters_work_from_the_keyboard(show):
    page = show(made_up.grid())
    page.locator(".skip").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.value") == "4":
            break
    page.keyboard.press("Space")
    assert rows(page) == 54
    # Focus stays on the button: the next key undoes it.
    page.keyboard.press("Enter")
    assert rows(page) == 108


def test_the_crossover_picks_one_compile_mode(show):
    page = show(made_up.grid())

    def value():
        return marks.chart_values(page, "crossover-prefill", "line-0")[0]

    assert value() == [16, pytest.approx(90 + 0.3 * 16)]
    page.locator("#crossover .controls").get_by_role("button", name="default").click()
    assert value() == [16, pytest.approx(0.9 * (90 + 0.3 * 16))]


def test_many_panels_are_shown_on_demand(show):
    cells = [made_up.cell(1, sequence, 16, "none", "eager") for sequence in range(1, 41)]
    page = show(made_up.results(cells))
    assert len(marks.bars(page)) == 24
    page.get_by_role("button", name="Show all 40 panels").click()
    assert len(marks.bars(page)) == 40
