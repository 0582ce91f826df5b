"""Reads charts as they were drawn: the shapes in the document and where they are on the screen."""

import math

# The light colours of the style sheet.
COLOURS = {"eager": "#8a8c90", "batched_mm": "#e69f00", "grouped_mm": "#0072b2"}
WHISKER = "#1b1c1e"


def shapes(page, chart, attribute, colour):
    """The boxes of the shapes of a colour in the charts whose name begins with `chart`, by place."""
    boxes = page.eval_on_selector_all(
        f'[data-chart^="{chart}"] svg path',
        """(paths, [attribute, colour]) => paths.filter((path) => path.getAttribute(attribute)?.toLowerCase() === colour && !path.closest('defs'))
            .map((path) => path.getBoundingClientRect())
            .map(({ x, y, width, height }) => ({ x: x + scrollX, y: y + scrollY, width, height }))""",
        [attribute, colour],
    )
    return sorted(boxes, key=lambda box: (round(box["y"]), box["x"]))


def filled(page, chart, implementation):
    return shapes(page, chart, "fill", COLOURS[implementation])


def bars(page, implementation=None):
    names = [implementation] if implementation else COLOURS
    return [box for name in names for box in filled(page, "latency", name)]


def whisker_ends(page):
    """The middles of the ends of all whiskers of latency, from top to bottom, left before right."""
    return [centre(box)[0] for box in shapes(page, "latency", "fill", WHISKER) if box["width"] < 3]


def centre(box):
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def texts(page, chart):
    return page.eval_on_selector_all(
        f'[data-chart^="{chart}"] svg text', "(texts) => texts.map((text) => text.textContent)"
    )


def assert_linear(pixels, values, within=0.75):
    """Pixels lie on a straight line over values, to less than a pixel. Needs three of them."""
    assert len(pixels) == len(values) >= 3 and len(set(values)) > 2
    first, last = values.index(min(values)), values.index(max(values))
    scale = (pixels[last] - pixels[first]) / (values[last] - values[first])
    assert abs(scale * (values[last] - values[first])) > 20, "the marks lie too close to tell"
    for pixel, value in zip(pixels, values):
        assert abs(pixels[first] + scale * (value - values[first]) - pixel) < within


def assert_logarithmic(pixels, values, within=0.75):
    assert_linear(pixels, [math.log(value) for value in values], within)


def chart_values(page, chart, series):
    """The values that a series of a chart was given."""
    return page.evaluate(
        """([chart, series]) => {
            const box = document.querySelector(`[data-chart="${chart}"]`);
            const { data } = echarts.getInstanceByDom(box).getOption().series.find(({ id }) => id === series);
            return data.map((item) => item?.value ?? item);
        }""",
        [chart, series],
    )
