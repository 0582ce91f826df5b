"""Whatever a name holds, it is shown as text and nothing runs. `show` fails a test in which the page
requests anything or says anything on the console, as a blocked script would."""

import pytest

import made_up

NAMES = [
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "\"'&<",
    "${window.hacked=1}",
    "{{script}}{a|b}{b}",
    "__proto__",
    "constructor",
    "\u202edlrow\u2066 \u200f",
    "😀" * 400,
    "W" * 10_000,
    "long words " * 900,
    "a\u2028b\u2029c\nd",
    "javascript:window.hacked=1",
]


def poisoned(name):
    """`name` wherever a string may stand."""
    cells = [
        made_up.cell(1, 16, 16, compile, backend, decode_implementation=name, device=name, dtype=name)
        for compile in ("none", name)
        for backend in ("eager", name)
    ]
    return made_up.results(
        cells,
        model=name,
        command=name,
        date=name,
        program={"version": name, "commit": name},
        machine=[[name, name], ["memory", name]],
        targets=[made_up.target(device=name, dtype=name, hardware=name, operations=name, notes=[name, name])],
        skipped=[
            {
                "device": name,
                "dtype": name,
                "batch": None,
                "sequence": None,
                "new_tokens": None,
                "compile": name,
                "implementation": name,
                "reason": name,
            }
        ],
    )


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:12]))
@pytest.mark.parametrize("width", [1280, 360])
def test_names_are_text(show, name, width):
    results = poisoned(name)
    page = show(results, made_up.slower(results, lambda cell: 1.1), width=width)
    assert page.evaluate("window.hacked") is None and page.evaluate("({}).hacked") is None
    assert page.locator("main img, main script, header script, header img").count() == 0
    assert page.locator("#command code, .command code").text_content() == name
    assert page.locator("#table td[data-column=implementation] .backend").all_text_contents().count(name) == 2
    assert name in page.locator("#skipped td:last-child").text_content()
    assert page.locator("#title").text_content().endswith(name) and page.title()
    assert page.locator('[data-chart^="latency"] svg').count() >= 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "the page is no wider than the window"
    )
    # What shows a name on hover or on a click does not run it either.
    for chip in page.locator('[data-field="compile"] .chip, [data-field="implementation"] .chip').all():
        chip.click()
    page.locator('[data-chart="latency-0"]').hover(position={"x": 200, "y": 50})
    assert page.evaluate("window.hacked") is None


def test_a_tooltip_is_drawn_and_is_no_markup(show):
    name = "<b>bold</b>{a|b}"
    page = show(
        made_up.results([made_up.cell(1, 16, 16, "none", name), made_up.cell(1, 16, 16, "none", "eager")])
    )

    def shown():
        return page.locator('[data-chart="latency-0"]').text_content()

    before = shown()
    # The first bar is eager's, the second that of the name.
    box = page.locator('[data-chart="latency-0"] svg path[fill="#009e73"]').bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2)
    page.wait_for_function(
        "(before) => document.querySelector('[data-chart=\"latency-0\"]').textContent !== before", arg=before
    )
    assert "of the hardware's limit" in shown()
    # The name stands beside its bar already.
    assert [shown().count(part) - before.count(part) for part in ("<b>bold</b>{", "a|b}")] == [1, 1]
    assert page.locator('[data-chart="latency-0"] b').count() == 0


def test_only_addresses_of_the_web_become_links(show):
    page = show(made_up.tiny())
    made = page.evaluate(
        """['javascript:alert(1)', 'data:text/html,x', ' javascript:x', 'https://example.org/a'].map((address) => link(address, 'text').tagName)"""
    )
    assert made == ["BDI", "BDI", "BDI", "A"]
