"""The report's numbers, from runs whose numbers are known, and the page that shows them."""

import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from made_runs import make_run, two_starts

from bitsample_llm.estimators import t_interval
from bitsample_llm.records import RecordError
from bitsample_llm.records.glossary import glossary_table
from bitsample_llm.report import columns
from bitsample_llm.report.columns import first_crossing
from bitsample_llm.report.command import report
from bitsample_llm.report.comparison import price_claims
from bitsample_llm.report.estimates import Estimate
from bitsample_llm.report.pairs import paired_difference, paired_ratio
from bitsample_llm.report.runs import arms_of


def test_a_run_is_summed_up_in_the_units_it_says(tmp_path):
    value = make_run(tmp_path, "latent", "sft", "sft", 1, 0.5).value
    assert value(columns.ABSORBED_BITS) == pytest.approx(2.0)
    assert value(columns.ABSORBED_PER_PETAFLOP) == pytest.approx(2.0 / 4e12 * 1e15)
    assert value(columns.ABSORBED_PER_SECOND) == pytest.approx(2.0 / 8.0)
    assert value(columns.OFFERED_PER_SAMPLE) == pytest.approx(3.0)
    assert value(columns.OFFERED_PER_PETAFLOP) == pytest.approx(120 / 4e12 * 1e15)
    assert value(columns.PASS_RATE_BEFORE) == pytest.approx(2**-4)
    assert value(columns.PASS_RATE_BITS) == pytest.approx(2.0)
    assert value(columns.FLOPS_TO_TARGET) == pytest.approx(2e12)
    assert value(columns.SAMPLES_TO_TARGET) == pytest.approx(20)


def test_samples_per_flop_times_bits_per_sample_are_bits_per_flop(tmp_path):
    value = make_run(tmp_path, "latent", "sft", "sft", 1, 0.5).value
    product = value(columns.SAMPLES_PER_PETAFLOP) * value(columns.OFFERED_PER_SAMPLE)
    assert product == pytest.approx(value(columns.OFFERED_PER_PETAFLOP))


def test_a_saturated_run_shows_its_rate_before_half_of_the_bits_were_absorbed(tmp_path):
    run = make_run(tmp_path, "latent", "sft", "sft", 1, 1.0, steps=4)  # all 4 bits; half of them after step 2
    assert run.value(columns.RATE_BEFORE_SATURATION) == pytest.approx(2.0 / 2e12 * 1e15)


def test_what_was_never_reached_is_none_and_not_zero(tmp_path):
    run = make_run(tmp_path, "unacquired", "grpo", "rl", 1, 0.0)
    assert run.value(columns.FLOPS_TO_TARGET) is None and run.value(columns.SAMPLES_TO_TARGET) is None
    assert first_crossing(np.array([0.0, 1.0]), np.array([0.0, 0.5]), 1.0) is None


def test_an_update_is_the_least_that_can_be_bought(tmp_path):
    run = make_run(tmp_path, "latent", "sft", "sft", 1, 3.0, steps=1)  # one update gains three times the target
    prices = [run.value(c) for c in (columns.FLOPS_TO_TARGET, columns.SAMPLES_TO_TARGET, columns.UPDATES_TO_TARGET)]
    assert prices == [1e12, 10, 1]


def test_ratios_are_paired_by_seed_with_a_t_interval_of_the_logarithms(tmp_path):
    arms = {(arm.start, arm.name): arm for arm in two_starts(tmp_path)}
    ratio = paired_ratio(arms["latent", "grpo"], arms["latent", "sft"], columns.SAMPLES_TO_TARGET)
    expected = [1 / (0.25 + 0.001 * seed) for seed in (1, 2, 3)]
    assert ratio.values == pytest.approx(expected)
    assert ratio.mean == pytest.approx(math.exp(np.mean(np.log(expected))))
    assert ratio.interval == pytest.approx([math.exp(bound) for bound in t_interval(np.log(expected))])
    difference = paired_difference(arms["latent", "grpo"], arms["unacquired", "grpo"], columns.ABSORBED_BITS)
    assert difference.mean == pytest.approx(8 * 0.252)


def test_a_verdict_needs_the_whole_interval_on_one_side_and_every_seed(tmp_path):
    latent, unacquired = price_claims(two_starts(tmp_path))
    assert latent.text.startswith("From the latent start") and latent.verdict == "SFT needs fewer FLOPs"
    assert latent.estimate.n == 3
    assert unacquired.verdict.startswith("undecided: within the budget 3 of 3 seeds of SFT, 0 of 3 seeds of GRPO")
    assert unacquired.estimate.n == 0


def test_runs_of_one_seed_twice_are_refused(tmp_path):
    runs = [make_run(tmp_path / folder, "latent", "sft", "sft", 1, 1.0) for folder in ("a", "b")]
    with pytest.raises(RecordError, match="two runs of one seed"):
        arms_of(runs)


def test_runs_that_were_measured_on_other_problems_are_refused(tmp_path):
    runs = [
        make_run(tmp_path, "latent", "sft", "sft", seed, 1.0, facts={"heldout_problems_sha256": sha})
        for seed, sha in ((1, "x"), (2, "y"))
    ]
    with pytest.raises(RecordError, match="different held-out problems"):
        arms_of(runs)


def test_the_page_is_self_contained_and_every_picture_has_a_text(tmp_path, capsys):
    two_starts(tmp_path)
    report(arguments=[str(tmp_path), "--output_dir", str(tmp_path / "report")])
    printed = capsys.readouterr().out
    assert "latent" in printed and "report.html" in printed
    page = (tmp_path / "report" / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=['\"](?!#)", page)
    pictures = re.findall(r'<svg role="img" aria-label="([^"]*)"', page)
    assert len(pictures) == 5 and all(len(text) > 40 for text in pictures)
    assert "sft from latent, seed 2: 4 bits absorbed" in page  # what hovering over its line says
    results = json.loads((tmp_path / "report" / "results.json").read_text(), parse_constant=pytest.fail)
    sft = next(arm for arm in results["arms"] if arm["arm"] == "sft" and arm["start"] == "latent")
    assert sft["values"]["absorbed_bits"] == {"mean": 4.0, "interval": [4.0, 4.0], "n": 3, "values": [4.0, 4.0, 4.0]}
    summary = (tmp_path / "report" / "summary.md").read_text()
    assert re.search(r"\| latent \| sft \| 3 \| 4 \|", summary)
    names = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert names == {"gain.png", "essay.png", "learning.png", "rates.png", "phases.png"}


def test_an_empty_folder_is_one_clear_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "eval.report", str(tmp_path)], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.returncode != 0
    assert done.stderr.strip() == f"error: {tmp_path} is no run directory and holds none"


def test_one_run_is_summed_up_in_the_terminal(tmp_path):
    make_run(tmp_path, "latent", "grpo", "rl", 1, 0.5)
    done = subprocess.run(
        [sys.executable, "-m", "bitsample_llm", str(tmp_path / "latent-grpo-1")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "4 steps" in done.stdout and "4e+12 FLOPs" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    make_run(tmp_path, "latent", "grpo", "rl", 1, 0.5)
    read, write = os.pipe()
    os.close(read)  # as `| head` leaves it
    command = [sys.executable, "-m", "bitsample_llm", str(tmp_path / "latent-grpo-1")]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


NEW_STUDY = '''
"""Does SFT gain more than a bit?"""

from dataclasses import replace

from bitsample_llm.report.claims import Answers, judged
from bitsample_llm.report.columns import ABSORBED_BITS
from bitsample_llm.report.command import report
from bitsample_llm.report.comparison import comparison_study


def study(arms, command):
    sft = next(arm for arm in arms if arm.tags.get("reason") == "latent" and arm.regime == "sft")
    answers = Answers("yes", "neither", "no")
    bits = sft.estimate(ABSORBED_BITS)
    claim = judged(__doc__, "absorbed bits, threshold 1", bits, (1, 1), answers, 3, "not every seed was run")
    return replace(comparison_study(arms, command), title=__doc__, answer=claim.sentence(), claims=[claim])


if __name__ == "__main__":
    report(study, prog="new_study")
'''


def test_a_new_study_is_one_folder_of_at_most_60_lines(tmp_path):
    assert len(NEW_STUDY.splitlines()) <= 60
    (tmp_path / "new_study").mkdir()
    (tmp_path / "new_study" / "__main__.py").write_text(NEW_STUDY)
    two_starts(tmp_path / "runs")
    command = [sys.executable, str(tmp_path / "new_study"), str(tmp_path / "runs"), "--output_dir", str(tmp_path / "page")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    answer = "Does SFT gain more than a bit? Yes (absorbed bits, threshold 1: 4, n = 3 seeds)."
    assert answer in " ".join(done.stdout.split())
    assert f"<h1>{answer}</h1>" in (tmp_path / "page" / "report.html").read_text()
    (claim,) = json.loads((tmp_path / "page" / "results.json").read_text())["claims"]
    assert (claim["verdict"], claim["mean"], claim["n"]) == ("yes", 4.0, 3)


def test_the_readme_shows_the_output_of_the_recorded_study():
    record = REPOSITORY / "eval" / "records" / "2026-11-30_quick_study"
    printed = (record / "table.txt").read_text()
    assert printed.strip() in (REPOSITORY / "README.md").read_text()
    results = json.loads((record / "results.json").read_text())
    for arm in results["arms"]:
        absorbed = Estimate.of(arm["values"]["absorbed_bits"])
        cells = [arm["start"], arm["arm"], str(len(arm["seeds"])), absorbed.text()]
        assert re.search(r"\s+".join(map(re.escape, cells)), printed)
    (price,) = [claim for claim in results["claims"] if claim["text"].startswith("From the latent start")]
    assert f"GRPO needed {Estimate.of(price).text()} times the FLOPs of SFT" in " ".join(printed.split())


def test_what_a_study_prints_fits_a_terminal():
    lines = (REPOSITORY / "eval" / "records" / "2026-11-30_quick_study" / "table.txt").read_text().splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 100


def test_the_metric_table_of_the_docs_is_the_glossarys():
    text = (REPOSITORY / "bitsample_llm" / "README.md").read_text()
    (table,) = re.findall(r"<!-- made by `python -m bitsample_llm\.records\.glossary` -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert table == glossary_table()
