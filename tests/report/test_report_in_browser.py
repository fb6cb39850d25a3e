"""The report as a reader's browser shows it, all details open: headless Chromium at the width of a desktop and of a phone.

`REPORT_HTML=path/report.html` adds a report to those made here. Without Chromium the tests are skipped, and fail under
`REQUIRE_CHROMIUM=1`, which CI sets.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from made_runs import make_run, two_starts
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from bitsample_llm.report.comparison import comparison_study
from bitsample_llm.report.page import write_page
from bitsample_llm.report.runs import arms_of

pytestmark = pytest.mark.slow

SCREENS = {
    "desktop": {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    "phone": {"width": 390, "height": 844, "deviceScaleFactor": 3, "mobile": True},
}
EXTRA = os.environ.get("REPORT_HTML")
MIN_FONT_PX = 14

# Faults of the loaded page as lines of text; its arguments are the width of the screen and the smallest font size.
FIND_FAULTS = """
const [screenWidth, minFont] = arguments, faults = [], root = document.documentElement, width = root.clientWidth;
const all = (selector) => [...document.querySelectorAll(selector)];
const name = (element) => `<${element.localName}> "${(textOf(element) || element.textContent).trim().slice(0, 40)}"`;
const textOf = (element) => (element.getAttribute(element.localName === "img" ? "alt" : "aria-label") || "").trim();
const pictures = "img, svg[role=img]";
for (const folded of all("details")) folded.open = true;
// A desktop's vertical scroll bar takes a few pixels of the layout viewport.
if (width > screenWidth || width < screenWidth - 20) faults.push(`layout viewport is ${width} px wide on a screen of ${screenWidth}`);
if (root.scrollWidth > width) faults.push(`document scrolls sideways: ${root.scrollWidth} px in ${width}`);
if (!all("h1").length) faults.push("no h1");
for (const heading of all("h1, h2, h3, h4, h5, h6")) if (!heading.innerText.trim()) faults.push(`empty heading: ${name(heading)}`);
if (!all(pictures).length) faults.push("no picture");
for (const img of all("img")) {
  if (!img.complete || !img.naturalWidth) faults.push(`missing image: ${name(img)}`);
}
for (const picture of all(pictures)) if (!textOf(picture)) faults.push(`no text alternative: ${name(picture)}`);
for (const element of all(`${pictures}, figcaption`)) {
  const box = element.getBoundingClientRect();
  if (!box.width || !box.height) faults.push(`invisible: ${name(element)}`);
  let [left, right] = [0, width];
  for (let above = element.parentElement; above !== document.body; above = above.parentElement) {
    if (getComputedStyle(above).overflowX === "visible") continue;
    const bounds = above.getBoundingClientRect();
    [left, right] = [Math.max(left, bounds.left), Math.min(right, bounds.right)];
  }
  if (box.left < left - 0.5 || box.right > right + 0.5) {
    faults.push(`clipped: ${name(element)} spans ${box.left} to ${box.right} in ${left} to ${right}`);
  }
}
for (const element of all("body *:not(svg, svg *)")) {
  const hides = ["hidden", "clip"].includes(getComputedStyle(element).overflowX);
  if (hides && element.scrollWidth > element.clientWidth + 1) faults.push(`hides its overflow: ${name(element)}`);
}
const small = new Map();
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement, size = parseFloat(getComputedStyle(element).fontSize);
  const shown = texts.currentNode.data.trim() && element.checkVisibility() && element.localName !== "title";
  if (shown && size < minFont) small.set(element.localName, `tiny text: ${size} px in ${name(element)}`);
}
return [...faults, ...small.values()];
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>t</title>
<style>img { max-width: 100%; } .wide { overflow-x: auto; }</style></head><body>
<h1>Title</h1><p class="body">Text.</p>
<div class="wide"><table><tr><td><div style="width: 2000px">cell</div></td></tr></table></div>
<figure><img alt="A red bar." src="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='3000' height='9'/%3E">
<figcaption>Caption.</figcaption></figure>
<details><summary>More</summary><div class="wide"><table class="folded"><tr><td>cell</td></tr></table></div>
<svg role="img" aria-label="A blue line." viewBox="0 0 9 9" width="90" height="90"><path d="M0 0L9 9" stroke="blue"/></svg></details>
</body></html>
"""


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium that reaches no host and logs its console and its requests."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        message = "no chromium with chromedriver on PATH; on Debian: apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("REQUIRE_CHROMIUM") == "1" else pytest.skip)(message)
    options = ChromeOptions()
    options.binary_location = chromium
    for switch in ("--headless=new", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(switch)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root with it
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options=options, service=ChromeService(driver)) as opened:
        yield opened


def faults_of(browser: Chrome, page: Path, screen: str) -> list[str]:
    """What is wrong with a page on a screen, one line a fault."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", SCREENS[screen])
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)  # what earlier pages left
    browser.get(page.resolve().as_uri())
    faults = browser.execute_script(FIND_FAULTS, SCREENS[screen]["width"], MIN_FONT_PX)
    faults += [f"console: {line['message'][:200]}" for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    urls = {}
    for line in browser.get_log("performance"):
        event = json.loads(line["message"])["message"]
        params = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            url = urls[params["requestId"]] = params["request"]["url"][:200]
            if not url.startswith(("file:", "data:")):
                faults.append(f"request to the network: {url}")
        elif event["method"] == "Network.loadingFailed":
            faults.append(f"failed request: {urls.get(params['requestId'])}: {params['errorText']}")
    return faults


def many_arms(folder):
    """Arms with long names, as wide a table as there is."""
    names = ("sft", "grpo", "process_tokens_stop", "verdict_likelihood", "grpo_random_reward")
    regimes = ("sft", "rl", "rl", "rl", "rl")
    splits = {split: (-6.0, 0.5) for split in ("seen", "shifted", "marked", "other_operation", "other_format")}
    starts = ("latent 3 digits E", "latent plain 2 digits F", "unacquired age 0.1")
    places = [
        (start, name, regime, seed) for start in starts for name, regime in zip(names, regimes, strict=True) for seed in (1, 2)
    ]
    return arms_of([make_run(folder, *place, 0.3 + 0.01 * place[-1], splits=splits) for place in places])


STUDIES = {"two starts": two_starts, "many arms": many_arms}


@pytest.fixture(scope="module", params=[*STUDIES, *(["REPORT_HTML"] if EXTRA else [])])
def report(request, tmp_path_factory) -> Path:
    """A report.html: of records made here, or the one that the environment names."""
    if request.param == "REPORT_HTML":
        return Path(EXTRA)
    folder = tmp_path_factory.mktemp("report")
    return write_page(comparison_study(STUDIES[request.param](folder / "runs"), "test"), folder / "report")


@pytest.mark.parametrize("screen", SCREENS)
def test_a_report_is_whole_and_legible(browser, report, screen):
    assert report.is_file()
    assert faults_of(browser, report, screen) == []


@pytest.mark.parametrize("screen", SCREENS)
def test_a_page_without_faults_has_none(browser, tmp_path, screen):
    page = tmp_path / "page.html"
    page.write_text(PAGE)
    assert faults_of(browser, page, screen) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (' alt="A red bar."', "", "no text alternative"),
        ("A red bar.", " ", "no text alternative"),
        ("data:image/svg+xml,", "absent.svg?", "missing image"),
        ("data:image/svg+xml,", "absent.svg?", "failed request"),
        ("data:image/svg+xml,%3C", "data:image/svg+xml,", "missing image"),
        ("</style>", "body { background: url(absent.png); }</style>", "failed request"),
        ("data:image/svg+xml,", "http://example.org/", "request to the network"),
        ("</body>", "<script>undefined_name</script></body>", "console"),
        ("max-width: 100%", "max-width: none", "clipped: <img>"),
        ("max-width: 100%", "max-width: none", "document scrolls sideways"),
        ("max-width: 100%; }", "max-width: none; } figure { overflow-x: auto; }", "clipped: <img>"),
        ("<figcaption>", '<figcaption style="margin-left: -99px">', "clipped: <figcaption>"),
        ("max-width: 100%; }", "display: none; }", "invisible: <img>"),
        ("overflow-x: auto", "overflow-x: visible", "document scrolls sideways"),
        ("overflow-x: auto", "overflow-x: hidden", "hides its overflow: <div>"),
        ("<h1>Title</h1>", "<p>Title</p>", "no h1"),
        ("<h1>Title</h1>", "<h1>Title</h1><h2> </h2>", "empty heading"),
        ("</style>", ".body { font-size: 13px; }</style>", "tiny text: 13 px in <p>"),
        (' aria-label="A blue line."', "", "no text alternative: <svg>"),
        ('width="90"', 'width="3000"', "clipped: <svg>"),
        ('class="folded"', 'class="folded" style="position: absolute; width: 2000px"', "document scrolls sideways"),
        ("<summary>", '<summary style="font-size: 9px">', "tiny text: 9 px in <summary>"),
    ],
)
@pytest.mark.parametrize("screen", SCREENS)
def test_a_fault_is_found(browser, tmp_path, screen, old, new, fault):
    assert old in PAGE
    page = tmp_path / "page.html"
    page.write_text(PAGE.replace(old, new))
    assert any(line.startswith(fault) for line in faults_of(browser, page, screen))


def test_a_page_that_a_phone_shows_at_a_desktops_width_is_found(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(PAGE.replace('name="viewport"', 'name="other"'))
    assert "layout viewport is 980 px wide on a screen of 390" in faults_of(browser, page, "phone")


@pytest.mark.parametrize("screen", SCREENS)
def test_a_page_without_a_picture_is_found(browser, tmp_path, screen):
    page = tmp_path / "page.html"
    page.write_text(PAGE.replace("<img", "<br").replace('role="img"', ""))
    assert "no picture" in faults_of(browser, page, screen)
