"""The page in a browser: opens without an error, sorts by mouse and by keyboard, fits a telephone, prints."""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import subprocess

import pytest
from conftest import TINY, fabricate, write_grid

import ablations
from ablations.grid.reader import read
from ablations.report import page as report
from ablations.report.results import analyse

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium; this machine has none")

GRID = TINY.replace("What does a wider layer buy?", f"What is {60 * 'w'}?")
CELLS = ["1,234 (+3 %)", "oom", "97.1 ± 0.3", "", "-5 [-9, -1]", "97.13, 1 missing", "3 diverged", "9", "8"]
"""What a column may hold, in the grid's order."""

VALUES = {"-5 [-9, -1]": -5, "8": 8, "9": 9, "97.1 ± 0.3": 97.1, "97.13, 1 missing": 97.13, "1,234 (+3 %)": 1234}
"""What those that have a number are sorted by."""

ASCENDING = list(VALUES)
FILL = """<script>{
  const body = document.querySelector("tbody"), row = body.rows[0], rows = CELLS.map(text => {
    const copy = row.cloneNode(true);
    copy.cells[5].textContent = text;
    delete copy.cells[5].dataset.value;
    if (text in VALUES) copy.cells[5].dataset.value = VALUES[text];
    return copy;
  });
  body.replaceChildren(...rows);
}</script>"""


class Browser:
    """Chromium without a window, spoken to in its own protocol over a pipe."""

    def __init__(self, profile):
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()
        options = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe"
        line = f'exec "$0" {options} --user-data-dir="$1" about:blank 8<&{theirs_in} 9>&{theirs_out} 3<&8 4>&9'
        self.process = subprocess.Popen(
            ["bash", "-c", line, CHROMIUM, profile], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.rest, self.number, self.session, self.events = b"", 0, {}, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **params):
        """The answer to one command; what happens meanwhile is kept in `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **self.session}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (answer := self.message()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def message(self):
        while b"\0" not in self.rest:
            assert select.select([self.into], [], [], 30)[0], "the browser says nothing"
            self.rest += os.read(self.into, 1 << 20)
        first, _, self.rest = self.rest.partition(b"\0")
        return json.loads(first)

    def open(self, path, width=1280):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        while not self.names("Page.loadEventFired"):
            self.events.append(self.message())

    def names(self, name):
        return [event["params"] for event in self.events if event.get("method") == name]

    def see(self, script):
        """The value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key, text=""):
        known = {"key": key, "code": "Space" if key == " " else key}
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, windowsVirtualKeyCode=code, text=text, **known)

    def click(self, selector):
        place = f"document.querySelector({json.dumps(selector)})"
        self.see(f"{place}.scrollIntoView({{block: 'center', inline: 'center'}})")
        box = self.see(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({place}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def complaints(self):
        """Errors of scripts, of the console, and of the browser itself."""
        names = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for name in names for event in self.names(name)]

    def close(self):
        os.close(self.out)  # it ends with its pipe
        os.close(self.into)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    fabricate(folder / "made", read(write_grid(folder, GRID)))
    report.write(analyse(ablations.load(folder / "made")))
    return folder / "made" / "report.html"


@pytest.fixture(scope="module")
def filled(page):
    """The page with other cells in its sixth column."""
    head, script, rest = page.read_text().rpartition("<script>")
    copy = page.with_name("filled.html")
    copy.write_text(
        head + FILL.replace("CELLS", json.dumps(CELLS)).replace("VALUES", json.dumps(VALUES)) + script + rest
    )
    return copy


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def column(browser):
    """The sixth column from top to bottom, and how its head says that it is sorted."""
    cells = browser.see("[...document.querySelector('tbody').rows].map(row => row.cells[5].textContent.trim())")
    return cells, browser.see("document.querySelectorAll('th[scope=col]')[5].getAttribute('aria-sort')")


def test_it_opens_without_a_complaint_and_asks_for_nothing_else(browser, page):
    browser.open(page)
    assert browser.complaints() == []
    asked = {each["request"]["url"] for each in browser.names("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}


def test_the_policy_in_the_page_forbids_what_the_page_does_not_do(browser, page):
    browser.open(page)
    browser.see("new Promise(done => { const it = new Image(); it.onerror = done; it.src = 'http://127.0.0.1:9/' })")
    assert "Content Security Policy" in json.dumps(browser.complaints())


def test_clicks_sort_numbers_up_and_down_and_restore_the_order(browser, filled):
    browser.open(filled)
    assert column(browser) == (CELLS, None)
    browser.click("th:nth-child(6) button")
    assert column(browser) == ([*ASCENDING, "3 diverged", "oom", ""], "ascending")
    browser.click("th:nth-child(6) button")
    assert column(browser) == ([*reversed(ASCENDING), "oom", "3 diverged", ""], "descending")
    browser.click("th:nth-child(6) button")
    assert column(browser) == (CELLS, None)
    assert browser.complaints() == []


def test_equal_cells_keep_the_grid_s_order(browser, filled):
    browser.open(filled)
    for _ in range(2):
        browser.click("th:nth-child(5) button")
        assert column(browser) == (CELLS, None)


def test_keys_sort_too(browser, filled):
    browser.open(filled)
    browser.see("document.querySelectorAll('th button')[4].focus()")
    browser.press("Tab")
    assert browser.see("document.activeElement.matches(':focus-visible')")
    browser.press("Enter", "\r")
    assert column(browser) == ([*ASCENDING, "3 diverged", "oom", ""], "ascending")
    browser.press(" ", " ")
    assert column(browser)[1] == "descending"


def test_the_first_key_leads_past_the_contents(browser, page):
    browser.open(page)
    browser.press("Tab")
    assert browser.see("document.activeElement.textContent") == "Skip to the results"
    assert browser.see("document.activeElement.getBoundingClientRect().top") >= 0
    browser.press("Enter", "\r")
    assert browser.see("document.activeElement.id") == "main"


@pytest.mark.parametrize("width", [320, 400, 1280])
def test_nothing_but_figures_and_tables_scrolls_sideways(browser, page, width):
    browser.open(page, width)
    assert browser.see("innerWidth") == width
    assert browser.see("document.documentElement.scrollWidth") <= width


def test_dark_and_light_are_legible(browser, page):
    browser.open(page)
    colours = {}
    for scheme in ("light", "dark"):
        browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        style = "(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))"
        colours[scheme] = [sum(map(int, colour[4:-1].split(","))) for colour in browser.see(style)]
        assert (
            browser.see("getComputedStyle(document.querySelector('.figure')).backgroundColor") == "rgb(255, 255, 255)"
        )
    browser.ask("Emulation.setEmulatedMedia", features=[])
    assert colours["light"][0] < 100 < 700 < colours["light"][1]
    assert colours["dark"][1] < 100 < 600 < colours["dark"][0]


def test_headings_descend_by_one_and_boxes_that_scroll_have_names(browser, page):
    browser.open(page)
    levels = browser.see("[...document.querySelectorAll('h1, h2, h3, h4')].map(head => Number(head.tagName[1]))")
    assert levels.count(1) == levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert browser.see("document.querySelectorAll('.scroll:not([role][aria-label][tabindex])').length") == 0


def test_printed_it_hides_the_contents_cuts_nothing_and_opens_what_is_folded(browser, page):
    browser.open(page)
    assert browser.see("document.querySelector('details pre').checkVisibility()") is False
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert browser.see("document.querySelector('details pre').checkVisibility()") is True
    assert browser.see("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.see("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert browser.see("document.documentElement.scrollWidth <= innerWidth")
    browser.ask("Emulation.setEmulatedMedia", media="")
