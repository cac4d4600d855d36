"""The report of a cohort in a real browser: what it shows, and what a person does in it."""

import json
import shutil

import numpy as np
import pytest

from GaborSegLib.cohort import group
from GaborSegLib.cohort.items import Item
from GaborSegLib.cohort.report import write_report

pytestmark = pytest.mark.processes

HOSTILE = '</script><img src=x onerror="window.hostile=1">'
NAMES = ("Hippocampus", "Putamen", HOSTILE)


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is in the test extra")
    program, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (program and driver):
        pytest.skip("no chromium with its chromedriver is installed (Debian: chromium, chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of sixty made scans: one has a large Putamen, one failed, one is called as a script would be."""
    folder, random, items = tmp_path_factory.mktemp("report"), np.random.default_rng(0), []
    for number in range(60):
        item = Item(f"s{number:02d}" if number != 7 else f"s07 {HOSTILE}".replace("/", "_"), folder / f"{number}.nii")
        facts = {
            "VolumesMl": {name: float(random.uniform(8, 9)) for name in NAMES},
            "Quality": dict.fromkeys(NAMES, float(random.uniform(0.8, 0.82))),
            "Settings": {"sha256": "0" * 64},
            "Warnings": [HOSTILE] if number == 7 else [],
        }
        if number == 5:
            facts["VolumesMl"]["Putamen"] = 20.0
        if number == 9:
            (folder / "logs").mkdir()
            (folder / "logs/s09.json").write_text(json.dumps({"Reason": "s09.nii: cannot be read"}))
        else:
            (folder / item.file("sidecar", "mixed")).write_text(json.dumps({"GaborSeg": facts}))
        items.append(item)
    write_report(group.read_group(items, folder, "mixed"), folder, "mixed", f"Study {HOSTILE}")
    return folder


@pytest.fixture
def page(browser, folder):
    """The report, opened anew with no ratings kept."""
    browser.get((folder / "report.html").as_uri())
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    yield browser
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


def texts(page, selector):
    return page.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)


def press(page, key):
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(key).perform()


def is_open(page, scan):
    """Wait, shortly, until a scan is open: an address that changes is noticed in the browser's own time."""
    for _ in range(50):
        if texts(page, "#scan-title") == [scan]:
            return True
        page.execute_async_script("setTimeout(arguments[0], 20)")
    return False


def test_it_says_what_was_done_and_what_stands_out(page):
    assert texts(page, ".facts b")[:3] == ["60", "59", "1"]
    flagged = texts(page, "#flagged li")
    assert len(flagged) == 3
    assert flagged[0] == "s09 failed: s09.nii: cannot be read"
    assert flagged[1].startswith("s05 Putamen is larger than in the others: 20.00 mL, robust z +")


def test_what_strangers_wrote_is_text(page):
    assert page.execute_script("return window.hostile") is None
    assert page.find_element("css selector", "h1").text == f"Study {HOSTILE}"
    assert HOSTILE in texts(page, "#flagged")[0] and HOSTILE in texts(page, ".plots figcaption")[2]
    assert page.execute_script("return document.querySelectorAll('img[src=x]').length") == 0


def test_the_table_is_searched_sorted_and_turned(page):
    assert len(texts(page, "#table tbody tr")) == 50
    page.execute_script("document.getElementById('after').click()")
    assert len(texts(page, "#table tbody tr")) == 10
    column = page.find_element("id", "column")
    page.execute_script("arguments[0].value = 1; arguments[0].dispatchEvent(new Event('change'))", column)
    button = next(b for b in page.find_elements("css selector", "#table th button") if b.text.startswith("Putamen"))
    button.click()
    volumes = [float(text) for text in texts(page, "#table tbody tr td:nth-child(4)")]
    assert volumes == sorted(volumes) and len(volumes) == 50
    page.switch_to.active_element.click()  # the button keeps the focus, for a keyboard
    assert texts(page, "#table tbody tr:first-child td:nth-child(4)") == ["20.00"]
    assert texts(page, "th[aria-sort=descending]")
    page.find_element("id", "search").send_keys("cannot be read")
    assert texts(page, "#table tbody tr td:first-child") == ["s09"]
    assert texts(page, "#count") == ["1 to 1 of 1 scans"]


def test_a_scan_is_opened_rated_and_left_by_the_keyboard(page, folder):
    from selenium.webdriver.common.keys import Keys

    page.find_element("link text", "s05").send_keys(Keys.ENTER)
    assert is_open(page, "s05")
    rows = texts(page, "#scan-volumes tbody tr")
    assert rows[1].startswith("Putamen20.00")
    press(page, "3")
    assert texts(page, "[aria-pressed=true]") == ["Bad 3"]
    press(page, "r")
    press(page, "bright\trim")
    page.find_element("id", "close").send_keys(Keys.ENTER)
    page.find_element("id", "search").send_keys("bad")
    assert texts(page, "#table tbody tr td:last-child")[0].startswith("bad: ")
    page.refresh()
    page.get((folder / "report.html").as_uri() + "#scan=s05")
    page.refresh()
    assert texts(page, "[aria-pressed=true]") == ["Bad 3"]  # kept by the browser
    press(page, Keys.ARROW_RIGHT)
    assert is_open(page, "s06")
    press(page, Keys.ESCAPE)
    assert not page.execute_script("return document.getElementById('scan').open")


def test_a_point_opens_its_scan(page):
    page.execute_script("document.querySelectorAll('canvas')[1].scrollIntoView()")
    page.execute_async_script("setTimeout(arguments[0], 200)")
    page.execute_script(
        """const canvas = document.querySelectorAll('canvas')[1], box = canvas.getBoundingClientRect();
        const [x, y] = canvas.points.find(point => point[2].id === 's05');
        canvas.dispatchEvent(new MouseEvent('click', { clientX: box.left + x, clientY: box.top + y }));"""
    )
    assert is_open(page, "s05")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(page, width):
    page.set_window_size(width, 900)
    page.execute_script("location.hash = 'scan=s05'")
    assert is_open(page, "s05")
    inner, body, dialog = page.execute_script(
        "return [innerWidth, document.body.scrollWidth, document.getElementById('scan').scrollWidth]"
    )
    assert body <= inner and dialog <= inner


def test_ratings_are_saved_as_a_table_that_no_spreadsheet_runs(page):
    saved = page.execute_async_script(
        """const done = arguments[0], create = URL.createObjectURL;
        rate(scans[0], { rating: "good", remark: "=cmd|x\\ty" });
        URL.createObjectURL = blob => { blob.text().then(done); return create(blob); };
        saveRatings();"""
    )
    assert saved == "scan\trating\tremark\ns00\tgood\t'=cmd|x y\n"
