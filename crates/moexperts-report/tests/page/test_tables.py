"""Tables: all combinations, what was not run, how it was measured."""

import made_up
from made_up import middle

HEADS = [
    "batch",
    "sequence",
    "new",
    "dtype",
    "device",
    "compile",
    "backend",
    "mean",
    "median",
    "p90",
    "tokens/s",
    "of limit",
    "peak memory",
]


def column(page, name):
    return page.locator(f'#table td[data-column="{name}"]').all_inner_texts()


def head(page, name):
    return page.locator("#table th").nth(HEADS.index(name))


def test_a_row_has_all_numbers(show):
    results = made_up.tiny()
    page = show(results)
    cell = results["cells"][0]
    row = page.locator("#table tbody tr").first.locator("td").all_inner_texts()
    # Generation: 94.8 ms of prefill and 15 steps of 90.3 ms; the mean of the runs is 1.002 of that.
    median = 94.8 + 15 * 90.3
    assert abs(middle(cell) - median) < 1e-9
    assert row[:7] == ["1", "16", "16", "bf16", "cpu", "none", "eager"]
    assert row[7:11] == [
        f"{median * 1.002:,.1f}",
        f"{median:,.1f}",
        f"{median * 1.022:,.1f}",
        f"{16 / median * 1000:.2f}",
    ]
    # The weights are read in 10 ms once and in 5 ms for each of 15 steps.
    assert row[11] == f"{85 / median * 100:.1f}"
    assert row[12] == f"{cell['peak_memory_bytes'] / 2**20:,.1f}"


def test_numbers_are_aligned(show):
    page = show(made_up.tiny())
    cell = page.locator('#table td[data-column="median"]').first
    assert cell.evaluate("(cell) => getComputedStyle(cell).textAlign") in ("right", "end")
    assert "tabular-nums" in cell.evaluate("(cell) => getComputedStyle(cell).fontVariantNumeric")


def test_a_click_sorts_and_another_turns_round(show):
    page = show(made_up.grid())
    assert page.locator("#table th[aria-sort]").count() == 0
    head(page, "median").get_by_role("button").click()
    numbers = [float(text.replace(",", "")) for text in column(page, "median")]
    assert numbers == sorted(numbers) and len(set(numbers)) > 50
    assert head(page, "median").get_attribute("aria-sort") == "ascending"
    head(page, "median").get_by_role("button").click()
    numbers = [float(text.replace(",", "")) for text in column(page, "median")]
    assert numbers == sorted(numbers, reverse=True)
    assert head(page, "median").get_attribute("aria-sort") == "descending"


def test_the_keyboard_sorts(show):
    page = show(made_up.grid())
    head(page, "backend").get_by_role("button").focus()
    page.keyboard.press("Enter")
    # Backends in the order of the page, not of the alphabet.
    assert column(page, "implementation") == ["eager"] * 36 + ["batched_mm"] * 36 + ["grouped_mm"] * 36
    page.keyboard.press("Space")
    assert column(page, "implementation")[0] == "grouped_mm"


def test_every_column_sorts(show):
    page = show(made_up.grid())
    for name in HEADS:
        head(page, name).get_by_role("button").click()
        assert head(page, name).get_attribute("aria-sort") == "ascending"
        assert page.locator("#table th[aria-sort]").count() == 1


def test_what_was_not_measured_comes_last(show):
    results = made_up.tiny()
    results["cells"][0]["peak_memory_bytes"] = None
    page = show(results)
    for _ in range(2):
        head(page, "peak memory").get_by_role("button").click()
        assert column(page, "memory")[-1] == "–"


def test_memory_that_was_not_measured_is_said_so(show):
    results = made_up.tiny()
    for cell in results["cells"]:
        cell["peak_memory_bytes"] = None
    page = show(results)
    assert "not measured" in page.locator("#memory").inner_text()
    assert page.locator("#memory svg svg, #memory .chart").count() == 0


def test_what_was_not_run_has_its_reason(show):
    page = show(made_up.tiny())
    row = page.locator("#skipped tbody tr").locator("td").all_inner_texts()
    assert row == ["cpu", "bf16", "all", "4,096", "64", "all", "all", "the prompt does not fit the context"]


def test_how_it_was_measured(show):
    text = show(made_up.tiny()).locator("#method").inner_text()
    for said in (
        "moexperts 0.0.0, commit 0123456789ab",
        "a processor that does not exist",
        "moexperts bench sweep --out made-up",
        "2026-01-02T03:04:05Z",
        "20.0 GB/s",
        "1.00 TFLOP/s",
        "CPU that does not exist, 2 threads",
        "made up",
    ):
        assert said in text


def test_results_without_a_combination_have_words(show):
    page = show(made_up.results([], planned=9))
    assert "Nothing has been measured yet." in page.locator("#finding").inner_text()
    assert "no measured combination" in page.locator("#nothing").inner_text()
    assert "0 of 9 combinations" in page.locator("#facts").inner_text()
    assert page.locator("#skipped").is_visible() and page.locator("#method").is_visible()
    assert not page.locator("#latency").is_visible() and not page.locator("#filters").is_visible()


def test_a_sweep_that_was_interrupted_says_how_far_it_came(show):
    page = show(made_up.results(made_up.tiny()["cells"], planned=7, repetitions=9))
    assert "0 of 7 combinations, 9 runs each – not complete" in page.locator("#facts").inner_text()
    page = show(made_up.tiny())
    assert "3 of 3 combinations, 5 runs each" in page.locator("#facts").inner_text()
    assert "not complete" not in page.locator("#facts").inner_text()
