"""What the page is where screens are narrow or dark, and on paper; and that it needs nothing but itself."""

import io
import re

from PIL import Image, ImageStat
from pypdf import PdfReader

import made_up
import marks


def brightness(page):
    return ImageStat.Stat(Image.open(io.BytesIO(page.screenshot())).convert("L")).mean[0]


def test_the_page_needs_nothing_but_itself(make):
    text = make(made_up.grid()).read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy and "http" not in policy
    outside_scripts = re.sub(r"<script\b.*?</script>", "", text, flags=re.S)
    assert re.findall(r"""(?:src|href)\s*=\s*["']?([^"' >]+)""", outside_scripts) == ["data:,", "#sections"]
    assert "@import" not in outside_scripts and "url(" not in outside_scripts


def test_the_policy_blocks_scripts_and_requests_that_are_not_the_page_s(make, browser):
    page = browser.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(make(made_up.tiny()).as_uri())
    assert said == []
    page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = 'window.hacked = 1';
        const image = document.createElement('img');
        image.setAttribute('onerror', 'window.hacked = 2');
        image.src = 'picture.png';
        document.body.append(script, image);
        return fetch('results.json').catch(() => {});
    }""")
    assert page.evaluate("window.hacked") is None
    blocked = [text for text in said if "Content Security Policy" in text]
    assert any("inline script" in text for text in blocked) and any("picture.png" in text for text in blocked)
    page.close()


def test_charts_are_where_the_window_is_narrow(show, picture):
    results = made_up.grid()
    page = show(results, width=360)
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    assert len(marks.bars(page)) == 108
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in marks.bars(page))
    assert page.locator("#table .scroll").evaluate("(box) => box.scrollWidth > box.clientWidth"), (
        "the table scrolls in its box"
    )
    assert page.locator("#filters").evaluate("(bar) => getComputedStyle(bar).position") == "static"
    picture(page, "narrow")


def test_charts_follow_the_window(show):
    page = show(made_up.grid())
    wide = page.locator('[data-chart="crossover-prefill"]').bounding_box()["width"]
    page.set_viewport_size({"width": 500, "height": 900})
    page.wait_for_function(
        "() => document.querySelector('[data-chart=\"crossover-prefill\"] svg').clientWidth < 480"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 500 and wide > 480
    assert len(marks.bars(page)) == 108


def test_dark_is_dark_and_charts_follow(show, picture):
    light = show(made_up.grid())
    dark = show(made_up.grid(), color_scheme="dark")
    assert brightness(light) > 215 and brightness(dark) < 70
    picture(light, "light")
    picture(dark, "dark")

    def text(page):
        return page.locator('[data-chart="latency-0"] svg text').first.evaluate(
            "(text) => getComputedStyle(text).fill"
        )

    assert text(light) != text(dark)
    light.emulate_media(color_scheme="dark")
    light.wait_for_function(
        "(fill) => getComputedStyle(document.querySelector('[data-chart=\"latency-0\"] svg text')).fill === fill",
        arg=text(dark),
    )


def test_paper_has_charts_in_light_colours_and_filters_in_words(show, picture, tmp_path):
    page = show(made_up.grid(), color_scheme="dark")
    page.locator('[data-field="batch"] [data-value="4"]').click()
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_function("() => document.documentElement.hasAttribute('data-paper')")
    assert not page.locator("#filters").is_visible()
    assert "batch 4" in page.locator(".selection").inner_text()
    assert len(marks.bars(page)) == 54, "in the light colours"
    right = max(box["x"] + box["width"] for box in marks.bars(page))
    assert right < 700, "within the width of a page of A4"
    assert brightness(page) > 200
    picture(page, "print")
    page.emulate_media(media="screen", color_scheme="dark")
    page.wait_for_function("() => !document.documentElement.hasAttribute('data-paper')")
    assert marks.bars(page, "eager") == [], "dark colours again"

    file = tmp_path / "report.pdf"
    page.pdf(path=file, format="A4")
    pages = [sheet.extract_text() for sheet in PdfReader(file).pages]
    assert 2 < len(pages) < 12
    every = "\n".join(pages)
    for text in (
        "Latency",
        "batch 4 · sequence 512 · 64 new",
        "tokens of one forward",
        "FLOP/byte",
        "How it was measured",
    ):
        assert text in every


def test_nothing_moves(show):
    page = show(made_up.tiny(), reduced_motion="reduce")
    assert page.locator(".chip").first.evaluate("(chip) => getComputedStyle(chip).transitionDuration") == "0s"
    assert (
        page.evaluate(
            "echarts.getInstanceByDom(document.querySelector('[data-chart]')).getOption().animation"
        )
        is False
    )


def test_pictures_of_a_comparison(show, picture):
    before = made_up.grid()
    after = made_up.slower(
        before,
        lambda cell: 1 + 0.03 * (cell["batch"] - 2) * (1 if cell["implementation"] == "eager" else -1.5),
    )
    page = show(after, before)
    assert page.locator("table.changes tbody tr").count() == 20
    picture(page, "comparison")
