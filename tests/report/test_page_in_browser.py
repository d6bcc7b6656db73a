"""The page in a browser: opens without an error, sorts by mouse and by keyboard, fits a telephone, prints."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from typing import Any

import pytest
from conftest import TINY, fabricate, write_grid
from playwright.sync_api import sync_playwright

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
    copy.cells[9].textContent = text;
    delete copy.cells[9].dataset.value;
    if (text in VALUES) copy.cells[9].dataset.value = VALUES[text];
    return copy;
  });
  body.replaceChildren(...rows);
}</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    fabricate(folder / "made", read(write_grid(folder, GRID)))
    report.write(analyse(ablations.load(folder / "made")))
    return folder / "made" / "report.html"


@pytest.fixture(scope="module")
def filled(page):
    """The page with other cells in its tenth column, the params. The four before it are hidden at first."""
    head, script, rest = page.read_text().rpartition("<script>")
    copy = page.with_name("filled.html")
    copy.write_text(
        head + FILL.replace("CELLS", json.dumps(CELLS)).replace("VALUES", json.dumps(VALUES)) + script + rest
    )
    return copy


@pytest.fixture(scope="module")
def browser_tab():
    with sync_playwright() as playwright:
        short = {**os.environ, "TMPDIR": "/tmp"}  # the path of its socket may have 107 bytes
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options, env=short)
        tab: Any = browser.new_page()
        tab.asked, tab.complaints = [], []
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.on("console", lambda message: tab.complaints.append(message.text))
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        yield tab
        browser.close()


@pytest.fixture
def tab(browser_tab):
    """A tab of the browser; it collects what its page asks for and complains about."""
    browser_tab.set_viewport_size({"width": 1280, "height": 900})
    browser_tab.emulate_media(media="null", color_scheme="null")
    browser_tab.asked.clear()
    browser_tab.complaints.clear()
    return browser_tab


def column(tab):
    """The tenth column from top to bottom, and how its head says that it is sorted."""
    cells = tab.evaluate("[...document.querySelector('tbody').rows].map(row => row.cells[9].textContent.trim())")
    return cells, tab.locator("th[scope=col]").nth(9).get_attribute("aria-sort")


def test_it_opens_without_a_complaint_and_asks_for_nothing_else(tab, page):
    tab.goto(page.as_uri())
    assert tab.complaints == []
    assert {url for url in tab.asked if not url.startswith("data:")} == {page.as_uri()}


def test_the_policy_in_the_page_forbids_what_the_page_does_not_do(tab, page):
    tab.goto(page.as_uri())
    tab.evaluate("new Promise(done => { const it = new Image(); it.onerror = done; it.src = 'http://127.0.0.1:9/' })")
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)


def test_clicks_sort_numbers_up_and_down_and_restore_the_order(tab, filled):
    tab.goto(filled.as_uri())
    assert column(tab) == (CELLS, None)
    tab.click("th:nth-child(10) button")
    assert column(tab) == ([*ASCENDING, "3 diverged", "oom", ""], "ascending")
    tab.click("th:nth-child(10) button")
    assert column(tab) == ([*reversed(ASCENDING), "oom", "3 diverged", ""], "descending")
    tab.click("th:nth-child(10) button")
    assert column(tab) == (CELLS, None)
    assert tab.complaints == []


def test_equal_cells_keep_the_grid_s_order(tab, filled):
    tab.goto(filled.as_uri())
    for _ in range(2):
        tab.click("th:nth-child(5) button")
        assert column(tab) == (CELLS, None)


def test_keys_sort_too(tab, filled):
    tab.goto(filled.as_uri())
    tab.focus("th:nth-child(5) button")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.matches(':focus-visible')")
    tab.keyboard.press("Enter")
    assert column(tab) == ([*ASCENDING, "3 diverged", "oom", ""], "ascending")
    tab.keyboard.press("Space")
    assert column(tab)[1] == "descending"


def test_the_first_key_leads_past_the_contents(tab, page):
    tab.goto(page.as_uri())
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("width", [320, 400, 1280])
def test_nothing_but_figures_and_tables_scrolls_sideways(tab, page, width):
    tab.set_viewport_size({"width": width, "height": 900})
    tab.goto(page.as_uri())
    assert tab.evaluate("innerWidth") == width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_and_light_are_legible(tab, page):
    tab.goto(page.as_uri())
    colours, inks, grounds = {}, {}, {}
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        style = "(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))"
        colours[scheme] = [sum(map(int, colour[4:-1].split(","))) for colour in tab.evaluate(style)]
        inks[scheme] = tab.evaluate(INKS)
        grounds[scheme] = tab.evaluate(GROUND)
    assert colours["light"][0] < 100 < 700 < colours["light"][1]
    assert colours["dark"][1] < 100 < 600 < colours["dark"][0]
    assert (grounds["light"], grounds["dark"]) == ("rgb(255, 255, 255)", "rgb(21, 24, 28)"), "of a figure"
    assert max(map(luminance, inks["light"])) < 0.15 < 0.4 < min(map(luminance, inks["dark"])), "of its letters"


GROUND = "getComputedStyle(document.querySelector('.figure #growth_rate-patch_1 path')).fill"
INKS = """[...document.querySelectorAll('.figure g[id*="-text_"] > g')].map(each => getComputedStyle(each).fill)"""


def luminance(colour):
    """From 0 for black to 1 for white (WCAG)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
    return sum(
        share * (part / 12.92 if part <= 0.04 else ((part + 0.055) / 1.055) ** 2.4)
        for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
    )


def test_the_answers_are_on_the_first_screen(tab, page):
    tab.goto(page.as_uri())
    answers = tab.locator("#answers li")
    assert answers.all_inner_texts()[0].startswith("What is www")
    assert "Against growth_rate 4, on these test images: growth_rate 8 gains 2.0 points" in answers.first.inner_text()
    assert answers.last.bounding_box()["y"] < 600


def test_a_chosen_column_is_shown_in_every_table(tab, page):
    tab.goto(page.as_uri())
    heads = tab.locator("th[data-column='FLOPs (M)']")
    cells = tab.locator("td:visible")
    few = cells.count()
    assert [heads.nth(number).is_visible() for number in range(heads.count())] == [False, False]
    tab.click(".chooser summary >> nth=0")
    tab.check(".chooser input[value='FLOPs (M)'] >> nth=0")
    assert [heads.nth(number).is_visible() for number in range(heads.count())] == [True, True]
    assert cells.count() == few + 4
    assert tab.is_checked(".chooser input[value='FLOPs (M)'] >> nth=1")
    tab.uncheck(".chooser input[value='FLOPs (M)'] >> nth=0")
    assert cells.count() == few


def test_no_table_is_cut_at_the_width_of_a_laptop(tab, page):
    tab.goto(page.as_uri())
    wider = "[...document.querySelectorAll('.scroll')].map(each => each.scrollWidth - each.clientWidth)"
    assert set(tab.evaluate(wider)) == {0}


def test_headings_descend_by_one_and_boxes_that_scroll_have_names(tab, page):
    tab.goto(page.as_uri())
    levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(head => Number(head.tagName[1]))")
    assert levels.count(1) == levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert tab.locator(".scroll:not([role][aria-label][tabindex])").count() == 0


def test_printed_it_hides_the_contents_cuts_nothing_and_opens_what_is_folded(tab, page):
    tab.goto(page.as_uri())
    assert tab.evaluate("document.querySelector('details pre').checkVisibility()") is False
    tab.emulate_media(media="print")
    assert tab.evaluate("document.querySelector('details pre').checkVisibility()") is True
    assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert tab.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.locator("th[data-column=p]").first.is_visible(), "all columns are printed"
