"""Pages are made by the program and opened from a file by Debian's Chromium.

- MOEXPERTS_PROGRAM: the program
- MOEXPERTS_SCREENSHOTS: a folder for pictures of the pages; none are taken without it
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def make(tmp_path):
    """Makes the page of some results; gives its file."""

    def make(after, before=None, reference=False):
        files = []
        for name, results in (("before.json", before), ("results.json", after)):
            if results is not None:
                files.append(tmp_path / name)
                files[-1].write_text(json.dumps(results), encoding="utf-8")
        page = tmp_path / "report.html"
        options = ["--reference"] if reference else []
        command = [
            os.environ["MOEXPERTS_PROGRAM"],
            "bench",
            "report",
            *map(str, files),
            "--out",
            str(page),
            *options,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return page

    return make


@pytest.fixture
def show(make, browser):
    """Opens the page of some results. Nothing that any test does may leave a message on the console,
    raise an error or request anything but the page itself."""
    opened = []

    def show(after, before=None, reference=False, width=1280, **context):
        file = make(after, before, reference)
        page = browser.new_context(viewport={"width": width, "height": 900}, **context).new_page()
        problems = []
        page.on("console", lambda message: problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on(
            "request",
            lambda request: (
                problems.append(f"request: {request.url}") if request.url != file.as_uri() else None
            ),
        )
        page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
        page.goto(file.as_uri())
        opened.append((page, problems))
        return page

    yield show
    for page, problems in opened:
        # An answer from the page: by then what it had to say has arrived.
        page.evaluate("document.title")
        page.context.close()
        assert problems == []


@pytest.fixture
def picture():
    folder = os.environ.get("MOEXPERTS_SCREENSHOTS")

    def picture(page, name):
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    return picture
