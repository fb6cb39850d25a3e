"""Runs as people have them: of the meter alone, unfinished or damaged ones, and arms of any name. What of them is on the page?"""

import html
import io
import json
import re

import matplotlib.pyplot as plt
import pytest
from made_runs import MANIFEST, make_run, meter_only

from bitsample_llm.records.writer import RunWriter
from bitsample_llm.report.command import report
from bitsample_llm.report.style import plain

PICTURES = {"gain", "essay", "learning", "rates", "phases"}


def test_runs_of_the_meter_alone_are_reported_with_what_they_have(tmp_path, capsys):
    meter_only(tmp_path, "mine")
    meter_only(tmp_path, "named", config={"model": {"model_name_or_path": "some/small-model"}})
    report(arguments=[str(tmp_path)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "GRPOTrainer" in line]
    # steps, samples, offered bits per sample and per PFLOP, absorbed
    told = ["GRPOTrainer", "42", "20", "200", "0.5", "5,000", "–"]
    assert rows == [["mine", *told], ["small-model", *told]]
    # pass rate of the first and last two steps, GFLOP, decode
    numbers = [*told, "0.075", "0.975", "20,000", "20,000"]
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (tmp_path / "report" / "summary.md").read_text().splitlines()
        if "GRPOTrainer" in line
    ]
    assert table == [["mine", *numbers], ["small-model", *numbers]]
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results.get("arms", []) == [] and [fact["flops_decode"] for fact in results["metered"]] == [2e13, 2e13]
    for name in ("report.html", "summary.md"):
        assert "Runs without held-out evaluations" in (tmp_path / "report" / name).read_text()


def test_what_cannot_be_reported_is_left_out_by_name_and_the_rest_is_reported(tmp_path, capsys):
    make_run(tmp_path, "latent", "sft", "sft", 1, 1.0)
    meter_only(tmp_path, "mine")
    meter_only(tmp_path, "broken", state="failed")
    RunWriter.create(tmp_path / "killed", MANIFEST)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "manifest.json").write_text("{")
    report(arguments=[str(tmp_path), "--output_dir", str(tmp_path / "report")])
    told = capsys.readouterr()
    left_out = [line.removeprefix("left out: ") for line in told.err.splitlines()]
    fragments = ("failed run (OutOfMemoryError: no room)", "running run, killed or still", "torn/manifest.json is not JSON")
    for line, fragment in zip(left_out, fragments, strict=True):
        assert fragment in line
    page = html.unescape((tmp_path / "report" / "report.html").read_text())
    summary = html.unescape((tmp_path / "report" / "summary.md").read_text())
    assert "latent  sft" in told.out and "GRPOTrainer" in told.out
    assert "GRPOTrainer" in page and "GRPOTrainer" in summary
    assert all(line in page and line in summary for line in left_out)
    assert json.loads((tmp_path / "report" / "results.json").read_text())["left_out"] == left_out


def test_nothing_to_report_is_one_line_with_every_reason(tmp_path):
    meter_only(tmp_path, "broken", state="failed")
    RunWriter.create(tmp_path / "killed", MANIFEST)
    with pytest.raises(
        SystemExit, match=r"^error: nothing to report: .*broken holds a failed run .*killed holds a running run"
    ) as exit:
        report(arguments=[str(tmp_path)])
    assert "\n" not in str(exit.value) and not (tmp_path / "report").exists()


def test_a_run_of_the_meter_alone_does_not_bring_the_word_exact_to_a_page_of_rollouts(tmp_path, capsys):
    make_run(tmp_path, "base", "sft", "sft", 1, -0.5, steps=2, counts=([[0, 1, 2, 1], [1, 2, 3, 2], [4, 4, 4, 4]], 8))
    meter_only(tmp_path, "mine")
    report(arguments=[str(tmp_path), "--output_dir", str(tmp_path / "page")])
    told = capsys.readouterr().out + "".join(
        (tmp_path / "page" / name).read_text() for name in ("report.html", "summary.md", "results.json")
    )
    assert "exact" not in told.lower() and "GRPOTrainer" in told


HOSTILE = ("$\\frac{$", "a|b", "<script>alert(1)</script>", "_hidden", "'><img src=x>", "100 % & `more`", "\x1b[31mred\nline")


def test_names_are_shown_as_they_stand_and_break_no_picture_table_or_page(tmp_path):
    folders = []
    for number, name in enumerate(HOSTILE):
        folder = tmp_path / str(number)
        make_run(folder, "start", "arm", "rl" if number % 2 else "sft", 1, 0.5)
        path = folder / "start-arm-1" / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"arm": name, "start": name}))
        folders.append(str(folder))
    meter_only(tmp_path / "0", "mine", arm="$\\frac{$", start="<b>x|y</b>")
    report(arguments=[*folders, "--output_dir", str(tmp_path / "report")])
    page = (tmp_path / "report" / "report.html").read_text()
    tags = {tag.lower() for tag in re.findall(r"<([a-zA-Z]+\d?)", page)}
    assert not tags & {"script", "b", "i", "img"} and page.count('<svg role="img"') == len(PICTURES)
    assert html.escape(HOSTILE[2]) in page and "\x1b" not in page
    assert {path.stem for path in (tmp_path / "report" / "figures").iterdir()} == PICTURES
    tables = [line for line in (tmp_path / "report" / "summary.md").read_text().splitlines() if line.startswith("|")]
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    headings = [index for index, line in enumerate(tables) if line.startswith("| start")]
    assert len(headings) >= 3
    for heading in headings:
        rows = columns[heading : next((i for i in headings if i > heading), None)]
        assert len(set(rows)) == 1
    assert "<script>" not in "".join(tables)


def test_a_name_is_plain_text_in_a_figure():
    figure = plt.figure()
    shown = figure.text(0, 0, plain("$\\frac{$ and $5"))
    figure.savefig(io.BytesIO(), format="svg")  # raises where it is read as a formula
    assert shown._preprocess_math(shown.get_text()) == ("$\\frac{$ and $5", False)
