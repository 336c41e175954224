"""The page in a real browser: nothing fetched, nothing hidden, readable by day, by night, on a phone, on paper."""

import base64
import importlib.util
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from trustbound.report import write_comparison
from trustbound.report.leaderboard import boards

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
    ),
]

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)

# Contrast of every piece of text on the ground that is painted behind it; shares are alpha-blended.
CONTRAST = """
const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
const over = (top, under) => { const a = top.length > 3 ? top[3] : 1;
  return [0, 1, 2].map(i => a * top[i] + (1 - a) * under[i]); };
const light = c => { const f = c.map(v => { v /= 255; return v <= .04045 ? v / 12.92
  : Math.pow((v + .055) / 1.055, 2.4); }); return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, element = node.parentElement;
  if (!node.data.trim() || element.closest('title,desc,style') || !element.getClientRects().length) continue;
  let grounds = [], up = element;
  for (; up; up = up.parentElement) grounds.push(parse(getComputedStyle(up).backgroundColor));
  let ground = [255, 255, 255];
  for (const each of grounds.reverse()) ground = over(each, ground);
  const style = getComputedStyle(element), svg = element.tagName === 'text';
  const ink = over(parse(svg ? style.fill : style.color), ground);
  const a = light(ink), b = light(ground);
  const box = element.getBoundingClientRect();
  let size = parseFloat(style.fontSize);
  if (svg) size *= element.getScreenCTM().a;
  const verdict = svg && /on-(certified|unknown|broken|misclassified)/.test(element.getAttribute('style'));
  if (box.width) found.push([node.data.trim().slice(0, 40), verdict ? null
    : (Math.max(a, b) + .05) / (Math.min(a, b) + .05), size, svg]);
}
return found;
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    from trustbound.report import render_comparison, write
    from trustbound.report.leaderboard import render_leaderboard

    path = Path(__file__).parents[1] / "report" / "specimens.py"
    spec = importlib.util.spec_from_file_location("specimens", path)
    specimens = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(specimens)
    folder = tmp_path_factory.mktemp("pages")
    record, arrays = specimens.record(("linf:0.1", "l2:0.5"))
    write(record, folder / "full.html", gallery=arrays)
    hostile, held = specimens.hostile()
    write(hostile, folder / "hostile.html", gallery=held)
    write(specimens.bare(), folder / "bare.html")
    (folder / "comparison.html").write_text(render_comparison([record, hostile]), encoding="utf-8")
    (folder / "leaderboard.html").write_text(render_leaderboard(ranked(specimens, record)), encoding="utf-8")
    return folder, specimens


def ranked(specimens, record):
    """Seven audits in two tables, of which the order by each column is another."""
    runs = [
        replace(
            record,
            clean_accuracy=0.9 + 0.01 * ((3 * place) % 7),
            brackets=(specimens.bracket(certified=100 + 10 * place, unknown=90 - 12 * place, broken=10 + 2 * place),),
            data=replace(record.data, sha256=("a" if place < 6 else "b") * 64),
        )
        for place in range(7)
    ]
    return boards(runs, names=[f"run {place}" for place in range(7)])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def show(browser, page, *, width=1200, dark=False):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
    )
    browser.get(page.as_uri())
    # A slow machine may answer before the last sections are parsed.
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script("return document.readyState") == "complete")


NAMES = ("full", "hostile", "bare", "comparison", "leaderboard")


def fetched(browser, page):
    """Everything a page asks for, itself and embedded pictures apart."""
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    show(browser, page)
    assert browser.execute_script("return document.readyState") == "complete"
    time.sleep(0.3)
    asked = [
        message["params"]["request"]["url"]
        for message in (json.loads(line["message"])["message"] for line in browser.get_log("performance"))
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert page.as_uri() in asked
    asked += browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    return [url for url in asked if url != page.as_uri() and not url.startswith("data:image/png")]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched(name, pages, browser):
    assert fetched(browser, pages[0] / f"{name}.html") == []
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.scripts.length") == (name == "leaderboard")


def test_a_page_that_fetches_is_caught(pages, browser):
    """The probe itself can fail."""
    planted = pages[0] / "planted.html"
    text = (pages[0] / "bare.html").read_text(encoding="utf-8")
    planted.write_text(text.replace("</main>", '<img src="x.png"></main>'), encoding="utf-8")
    assert [url.rpartition("/")[2] for url in fetched(browser, planted)] == ["x.png"]


OPEN_ALL = "document.querySelectorAll('details').forEach(each => { each.open = true })"


def test_the_first_screen_holds_sentences_figures_and_bars(pages, browser):
    show(browser, pages[0] / "full.html", width=1280)
    assert browser.execute_script("return [innerWidth, innerHeight]") == [1280, 800]
    for selector, wanted in ((".headline", 2), (".figures dd", 6), (".finding svg", 2), ("#verdict .line", 1)):
        lowest = browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(each => each.getBoundingClientRect())"
            ".filter(box => box.width && box.top >= 0).map(box => box.bottom)",
            selector,
        )
        assert len(lowest) == wanted, selector
        assert max(lowest) <= 800, selector
    sizes = browser.execute_script(
        "return ['dd', 'small'].map(tag => document.querySelector('.figures ' + tag))"
        ".map(each => parseFloat(getComputedStyle(each).fontSize))"
    )
    assert sizes[0] >= 2.5 * sizes[1], "the figures are what is seen first"


@pytest.mark.parametrize("name", ["full", "bare", "comparison"])
@pytest.mark.parametrize("width", [1280, 360])
def test_tables_fit(name, width, pages, browser):
    page = pages[0] / f"{name}.html"
    if name == "comparison":  # the other side of the one of all pages holds names that no table has room for
        record, _ = pages[1].record(("linf:0.1", "l2:0.5"))
        page = write_comparison([record, record], pages[0] / "two.html", names=["plain", "hardened"])
    show(browser, page, width=width)
    browser.execute_script(OPEN_ALL)
    wide = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(each => each.scrollWidth > each.clientWidth + 1)"
        ".map(each => each.getAttribute('aria-label'))"
    )
    assert wide == []


def test_the_folded_page_is_short(pages, browser):
    for width in (1280, 360):
        show(browser, pages[0] / "full.html", width=width)
        assert browser.execute_script("return document.documentElement.scrollHeight") <= 6000
        folded = browser.execute_script(
            "return document.querySelectorAll('.appendix section > details:not([open])').length"
        )
        assert folded == len(pages[1].FOLDED)


@pytest.mark.parametrize("name", ["full", "hostile", "bare"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_every_section_is_visible_and_nothing_overflows(name, width, pages, browser):
    show(browser, pages[0] / f"{name}.html", width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_script(OPEN_ALL)
    seen = browser.execute_script(
        "return [...document.querySelectorAll('main section')].map(s => [s.id, s.getBoundingClientRect().height,"
        " s.innerText.length, getComputedStyle(s).visibility])"
    )
    assert tuple(each[0] for each in seen) == pages[1].SECTIONS
    for section, height, letters, visibility in seen:
        assert height > 60, section
        assert letters > 20, section
        assert visibility == "visible"
    inner, outer = browser.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert outer == width
    assert inner <= outer
    # Whatever is wider than the page lies in a container of its own that scrolls.
    wide = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('svg') &&"
        " e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1"
        " ).map(e => e.tagName + '.' + e.className)"
    )
    assert wide == []
    # Of each figure exactly one drawing is shown, and its words stay inside it.
    shown = browser.execute_script(
        "return [...document.querySelectorAll('figure.picture')].map(f => [...f.querySelectorAll('svg')]"
        ".filter(s => s.getClientRects().length).length)"
    )
    assert set(shown) <= {1}
    cut = browser.execute_script(
        "return [...document.querySelectorAll('svg.figure')].filter(s => s.getClientRects().length).flatMap(s => {"
        " const b = s.getBoundingClientRect(); return [...s.querySelectorAll('text')].filter(t => {"
        " const r = t.getBoundingClientRect(); return r.left < b.left - 2 || r.right > b.right + 2 ||"
        " r.top < b.top - 2 || r.bottom > b.bottom + 2 }).map(t => t.textContent) })"
    )
    assert cut == []


def test_comparison_fits_the_phone(pages, browser):
    show(browser, pages[0] / "comparison.html", width=360)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("name", ["full", "hostile", "comparison"])
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (360, False), (360, True)])
def test_text_is_legible(name, width, dark, pages, browser):
    show(browser, pages[0] / f"{name}.html", width=width, dark=dark)
    browser.execute_script(OPEN_ALL)
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    level = sum(int(each) for each in re.findall(r"\d+", ground)[:3]) / 3
    assert level < 40 if dark else level > 240
    found = browser.execute_script(CONTRAST)
    assert len(found) > 100
    assert sum(each[3] for each in found) > 10
    low = [each for each in found if each[1] is not None and each[1] < 4.5]
    assert low == []
    small = [each for each in found if each[2] < 12]
    assert small == []


def printed(browser):
    """How many pages come out of the printer, all of them A4."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    told = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    document = base64.b64decode(told["data"])
    assert document.startswith(b"%PDF")
    media = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", document)
    assert {(round(float(w)), round(float(h))) for w, h in media} <= {(595, 842), (596, 842), (594, 841)}
    return len(re.findall(rb"/Type\s*/Page\b", document))


def test_prints_on_two_pages_and_the_appendix_on_request(pages, browser):
    show(browser, pages[0] / "full.html", dark=True)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert printed(browser) == 2
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    shown = (
        "return [...document.querySelectorAll('main section, #appendix')].filter(e => e.getClientRects().length)"
        ".map(e => e.id)"
    )
    assert tuple(browser.execute_script(shown)) == pages[1].OPEN
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.execute_script("return document.querySelector('nav').getClientRects().length") == 0
    browser.execute_script("document.querySelector('#cost > details').open = true")
    assert browser.execute_script(shown) == [*pages[1].OPEN, "appendix", "cost"]
    browser.execute_script(OPEN_ALL)
    assert printed(browser) > 4


def test_works_from_the_keyboard(pages, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(browser, pages[0] / "full.html")
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert browser.execute_script("return document.activeElement.className") == "jump"
    assert browser.execute_script("return document.activeElement.getBoundingClientRect().left") >= 0
    summary = browser.find_element(By.CSS_SELECTOR, "#reliability summary")
    cell = browser.find_element(By.CSS_SELECTOR, "#reliability details td")
    assert not cell.is_displayed()
    summary.send_keys(Keys.ENTER)
    assert cell.is_displayed()


def test_a_leaderboard_is_sorted_by_any_column_and_back(browser, pages):
    folder, _ = pages
    page = folder / "leaderboard.html"
    rows = "return [...document.querySelectorAll('#table-1 tbody th')].map(each => each.dataset.value)"
    click = "[...document.querySelectorAll('#table-1 thead button')].find(b => b.textContent === arguments[0]).click()"
    show(browser, page, width=1280)
    first = browser.execute_script(rows)
    assert first == [f"run {place}" for place in (5, 4, 3, 2, 1, 0)]
    browser.execute_script(click, "clean")
    assert browser.execute_script(rows) == [f"run {place}" for place in (2, 4, 1, 3, 5, 0)]
    browser.execute_script(click, "clean")
    assert browser.execute_script(rows) == [f"run {place}" for place in (0, 5, 3, 1, 4, 2)]
    browser.execute_script(click, "run")
    assert browser.execute_script(rows) == sorted(first)
    sorts = "return [...document.querySelectorAll('#table-1 [aria-sort]')].map(each => each.textContent)"
    assert browser.execute_script(sorts) == ["run"]
    show(browser, page, width=360)
    choose = "const s = document.querySelector('#table-1 select'); s.value = '3'; s.onchange()"
    browser.execute_script(choose)
    assert browser.execute_script(rows) == first
    assert browser.execute_script("return document.querySelectorAll('#table-2 tbody tr').length") == 1
