"""A page as a reader's browser shows it: headless Chromium at the width of a desktop and of a phone, all details open.

Without Chromium tests that open it are skipped, and fail under `REQUIRE_CHROMIUM=1`, which CI sets.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

SCREENS = {
    "desktop": {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    "phone": {"width": 390, "height": 844, "deviceScaleFactor": 3, "mobile": True},
}
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


@contextlib.contextmanager
def opened_browser() -> Iterator[Chrome]:
    """A headless Chromium that reaches no host but this machine and logs its console and its requests."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        message = "no chromium with chromedriver on PATH; on Debian: apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("REQUIRE_CHROMIUM") == "1" else pytest.skip)(message)
    options = ChromeOptions()
    options.binary_location = chromium
    for switch in ("--headless=new", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"):
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
