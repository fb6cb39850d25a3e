"""The report as a reader's browser shows it, all details open, on a desktop and on a phone; and that its faults are found.

`REPORT_HTML=path/report.html` adds a report to those made here.
"""

import os
from pathlib import Path

import pytest
from browsing import SCREENS, faults_of
from made_runs import make_run, two_starts

from bitsample_llm.report.comparison import comparison_study
from bitsample_llm.report.page import write_page
from bitsample_llm.report.runs import arms_of

pytestmark = pytest.mark.slow

EXTRA = os.environ.get("REPORT_HTML")
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
