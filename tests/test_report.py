"""The report's numbers, from runs whose numbers are known, and the page that shows them."""

import html
import io
import json
import math
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import REPOSITORY

from bitsample_llm.estimators import t_interval
from bitsample_llm.glossary import PHASES, glossary_table
from bitsample_llm.run_writer import RunWriter
from eval.arms import arms_of, first_crossing, matched_gains_bits, paired_difference, paired_ratio, run_result
from eval.figures import plain
from eval.findings import estimate, findings, sentence_of
from eval.process import process_findings
from eval.report import main, read_run, write_report

FIGURE_NAMES = ("essay", "learning", "rates", "phases")
PROBLEMS = [f"problem {n}" for n in range(4)]
MANIFEST = {
    "trainer": "SFTTrainer",
    "device": "cpu",
    "git_commit": "0" * 40,
    "git_dirty": False,
    "packages": {"trl": "1.16.0"},
    "heldout_problems_sha256": "x",
}


def make_run(
    folder,
    start,
    arm,
    regime,
    seed,
    gain_per_step,
    steps=4,
    samples_per_step=10,
    log2_start=-4.0,
    choices=None,
    splits=None,
    facts=None,
    counts=None,
):
    """A run of `steps` steps in which every held-out problem starts at 2^log2_start and gains `gain_per_step` bits a step; in
    another split of `splits` it starts at a value of its own and gains that many times as much. `counts`, passes of each held-out problem at each
    evaluation and the rollouts they are of, stand in place of pass rates."""
    flops_per_step = 1e12
    manifest = MANIFEST | {"start": start, "arm": arm, "regime": regime, "seed": seed, "config": {"choices": choices or {}}}
    manifest |= facts or {}
    splits = {"heldout": (log2_start, 1.0), "train": (log2_start, 1.0)} | (splits or {})
    column = "log2_pass_rate" if counts is None else "reference_log2_probability"
    run_dir = folder / f"{start}-{arm}-{seed}"
    writer = RunWriter.create(run_dir, manifest)
    for step in range(steps + 1):
        flops = step * flops_per_step
        for split, (first, factor) in splits.items():
            for number, problem in enumerate(PROBLEMS):
                row = {"step": step, "split": split, "problem_id": problem, column: first + factor * gain_per_step * step}
                if counts is not None:
                    row |= {"num_passed": counts[0][step][number], "num_rollouts": counts[1]}
                row |= {"update_norm": float(step), "total_flops": flops, "total_seconds": 2.0 * step}
                writer.add_rows("evals", [row])
        if step == 0:
            continue
        line = {"step": step, "generation_step": step if regime == "rl" else None, "samples/total": samples_per_step * step}
        line |= {f"flops/{phase}": 0.0 for phase in PHASES} | {f"flops_useful/{phase}": 0.0 for phase in PHASES}
        line |= {"flops/train_forward": flops, "flops_useful/train_forward": flops / 2, "flops/total": flops, "flops/lost": 0.0}
        line |= {"seconds/total": 2.0 * step, "bits/offered_total": 30.0 * step, "bits/offered_per_sample": 3.0}
        if regime == "rl":
            line |= {"bits/first_error_per_sample": 12.0}
            rollout = {"step": step, "num_tokens": 4, "num_steps": 4, "num_correct_before_first_error": step % 4, "passed": False}
            writer.add_rows("rollouts", [rollout | {"problem_id": p} for p in PROBLEMS])
            line |= {"group/pass_rate": 0.1, "bits/surprisal_per_sample": 2.0, "bits/believed_per_sample": 0.5}
            line |= {
                "group/informative_fraction": 0.5,
                "group/informative_fraction_predicted": 0.4,
                "flops/dead_group_fraction": 0.5,
            }
            row = {"step": step, "group_size": 8, "pass_rate": 0.1, "offered_bits": 0.469}
            writer.add_rows("prompts", [row | {"problem_id": p} for p in PROBLEMS])
        else:
            writer.add_rows("prompts", [{"step": step, "problem_id": p, "offered_bits": 3.0} for p in PROBLEMS])
        writer.add_step(line)
    writer.close("finished")
    return run_result(read_run(run_dir))


def study(folder):
    """Two starts, two arms, three seeds: a label gains 1 bit in one step of 10 samples, a rollout in four."""
    results = []
    for start, rl_gain in (("latent", 0.25), ("unacquired", 0.0)):
        for seed in (1, 2, 3):
            results.append(make_run(folder, start, "sft", "sft", seed, 1.0))
            noise = 0.0 if rl_gain == 0 else 0.001 * seed
            results.append(make_run(folder, start, "grpo", "rl", seed, rl_gain + noise, steps=8))
    return arms_of(results)


def test_a_run_is_summed_up_in_the_units_it_says(tmp_path):
    values = make_run(tmp_path, "latent", "sft", "sft", 1, 0.5).values
    assert values["absorbed_bits"] == pytest.approx(2.0)
    assert values["absorbed_bits_per_petaflop"] == pytest.approx(2.0 / 4e12 * 1e15)
    assert values["absorbed_bits_per_second"] == pytest.approx(2.0 / 8.0)
    assert values["offered_bits_per_sample"] == pytest.approx(3.0)
    assert values["offered_bits_per_petaflop"] == pytest.approx(120 / 4e12 * 1e15)
    assert values["pass_rate_before"] == pytest.approx(2**-4)
    assert values["pass_rate_bits"] == pytest.approx(2.0)
    assert values["flops_to_target"] == pytest.approx(2e12)
    assert values["samples_to_target"] == pytest.approx(20)


def test_a_saturated_run_shows_its_rate_before_half_of_the_bits_were_absorbed(tmp_path):
    result = make_run(tmp_path, "latent", "sft", "sft", 1, 1.0, steps=4)  # all 4 bits; half of them after step 2
    assert result.values["unsaturated_bits_per_petaflop"] == pytest.approx(2.0 / 2e12 * 1e15)


def test_what_was_never_reached_is_none_and_not_zero(tmp_path):
    values = make_run(tmp_path, "unacquired", "grpo", "rl", 1, 0.0).values
    assert values["flops_to_target"] is None and values["samples_to_target"] is None
    assert first_crossing(np.array([0.0, 1.0]), np.array([0.0, 0.5]), 1.0) is None


def test_no_part_of_the_first_update_can_be_bought(tmp_path):
    values = make_run(tmp_path, "latent", "sft", "sft", 1, 3.0, steps=1).values  # one update gains three times the target
    assert (values["flops_to_target"], values["samples_to_target"], values["updates_to_target"]) == (1e12, 10, 1)


def test_ratios_are_paired_by_seed_with_a_t_interval_of_the_logarithms(tmp_path):
    arms = {(arm.start, arm.name): arm for arm in study(tmp_path)}
    ratio = paired_ratio(arms["latent", "grpo"], arms["latent", "sft"], "samples_to_target")
    expected = [1 / (0.25 + 0.001 * seed) for seed in (1, 2, 3)]
    assert ratio["values"] == pytest.approx(expected)
    assert ratio["mean"] == pytest.approx(math.exp(np.mean(np.log(expected))))
    assert ratio["interval"] == pytest.approx([math.exp(bound) for bound in t_interval(np.log(expected))])
    difference = paired_difference(arms["latent", "grpo"], arms["unacquired", "grpo"], "absorbed_bits")
    assert difference["mean"] == pytest.approx(8 * 0.252)


def test_a_verdict_needs_the_whole_interval_on_one_side(tmp_path):
    found = findings(study(tmp_path))
    latent = next(item for item in found if item["question"].startswith("From the latent start"))
    assert latent["verdict"] == "SFT needs fewer FLOPs" and latent["n"] == 3
    contrast = next(item for item in found if "minus" in item["statistic"])
    assert contrast["verdict"].startswith("no, more from the latent start")
    unreached = [item for item in found if item["question"].startswith("From the unacquired start")]
    assert unreached[0]["verdict"].startswith("undecided") and unreached[0]["n"] == 0


def credit_study(folder, first_error_gain: float, sum_rate: float = 3e-4):
    """Outcome and process arms from a start of 2^-9, three seeds each; early stop changes nothing."""
    results = []
    for seed in (1, 2, 3):
        for reward, gain in (("outcome", 0.1), ("process_sum", 0.1), ("first_error", first_error_gain)):
            for stops in (False, True):
                choices = {"trainer": "grpo", "reward": reward, "stop_at_first_error": stops}
                name = f"{reward}{'_stop' * stops}"
                noisy = gain * (1 + 0.01 * seed)
                rate = sum_rate if reward == "process_sum" else 3e-4
                facts = {"config": {"choices": choices, "training": {"learning_rate": rate}}}
                results.append(make_run(folder, "low", name, "rl", seed, noisy, steps=8, log2_start=-9.0, facts=facts))
    return arms_of(results)


@pytest.mark.parametrize(
    ("gain", "claim", "curve"), [(0.5, "supported", "it helps"), (0.2, "contradicted", "it makes no difference that matters")]
)
def test_claim_8_asks_for_three_times_the_rate_and_the_curve_for_a_margin(tmp_path, gain, claim, curve):
    arms = credit_study(tmp_path, gain)
    found = {finding["question"]: finding for finding in process_findings(arms)}
    asked = next(finding for question, finding in found.items() if "claim 8" in question)
    assert asked["verdict"] == claim and asked["mean"] == pytest.approx(gain / 0.1)
    assert "the offered bits predict 4" in asked["statistic"]  # 12 over 3
    assert found["From the low start, does first_error help?"]["verdict"] == curve
    assert found["From the low start, does process_sum help?"]["verdict"] == "it makes no difference that matters"
    assert found["From the low start, does the credit of first_error help beyond its bits?"]["verdict"] == curve
    assert found["From the low start, does an early stop help outcome?"]["verdict"] == "it makes no difference that matters"
    write_report(arms, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Process reward against outcome reward" in page and "Which way to assign credit absorbs most?" in page
    assert (tmp_path / "report" / "figures" / "offered_absorbed.png").stat().st_size > 0


def test_credit_is_not_told_from_bits_where_the_learning_rates_differ(tmp_path):
    found = {finding["question"]: finding for finding in process_findings(credit_study(tmp_path, 0.5, sum_rate=1e-4))}
    asked = found["From the low start, does the credit of first_error help beyond its bits?"]
    assert asked["verdict"] == "undecided: the learning rates differ too (3.00e-04 and 1.00e-04)"
    assert asked["mean"] > 0 and found["From the low start, does first_error help?"]["verdict"] == "it helps"


def test_a_study_without_process_rewards_has_no_section_on_them(tmp_path):
    arms = study(tmp_path)
    assert process_findings(arms) == []
    write_report(arms, tmp_path / "report")
    assert "Process reward against" not in (tmp_path / "report" / "report.html").read_text()


def test_runs_of_one_seed_twice_or_on_other_problems_are_refused(tmp_path):
    first = make_run(tmp_path / "a", "latent", "sft", "sft", 1, 1.0)
    second = make_run(tmp_path / "b", "latent", "sft", "sft", 1, 1.0)
    with pytest.raises(Exception, match="two runs of one seed"):
        arms_of([first, second])


def test_matched_gains_leave_out_problems_whose_pass_rates_differ():
    class Result:
        def __init__(self, before, gains):
            self.log2_before = dict(zip("abc", before, strict=True))
            self.log2_after = {name: value + gain for (name, value), gain in zip(self.log2_before.items(), gains, strict=True)}

    first, second = Result([-3.0, -3.0, -3.0], [1.0, 2.0, 10.0]), Result([-3.1, -2.9, -8.0], [0.0, 0.5, 7.0])
    assert matched_gains_bits(first, second, 1.25) == (1.5, 0.25, 2)
    assert matched_gains_bits(first, second, 1.01) is None


def test_the_page_is_self_contained_and_every_picture_has_a_text(tmp_path, capsys):
    study(tmp_path)
    main([str(tmp_path), "--output_dir", str(tmp_path / "report")])
    printed = capsys.readouterr().out
    assert "latent" in printed and "report.html" in printed
    page = (tmp_path / "report" / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=['\"](?!data:)", page)
    pictures = re.findall(r"<img alt='([^']*)' src='data:image/svg", page)
    assert len(pictures) == 4 and all(len(text) > 40 for text in pictures)
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    sft = next(arm for arm in results["arms"] if arm["arm"] == "sft" and arm["start"] == "latent")
    assert sft["values"]["absorbed_bits"] == {"mean": 4.0, "interval": [4.0, 4.0], "n": 3, "values": [4.0, 4.0, 4.0]}
    summary = (tmp_path / "report" / "summary.md").read_text()
    assert "| latent | sft | 3 |" in summary
    assert {path.name for path in (tmp_path / "report" / "figures").iterdir()} == {
        "essay.png", "learning.png", "rates.png", "phases.png"
    }  # fmt: skip


def meter_only(folder, name, seed=42, trainer="GRPOTrainer", state="finished", **facts):
    """A run of the meter on a plain script: no evaluations, no arm, no start, no configuration."""
    writer = RunWriter.create(folder / name, {"trainer": trainer, "regime": "rl", "seed": seed, "device": "cpu"} | facts)
    for step in range(1, 21):
        line = {"step": step, "generation_step": step, "samples/total": 10 * step, "bits/offered_total": 5.0 * step}
        line |= {f"{kind}/{phase}": 0.0 for kind in ("flops", "flops_useful") for phase in PHASES}
        line |= {"flops/decode": 1e12 * step, "flops/total": 1e12 * step, "flops/lost": 0.0, "seconds/total": 2.0 * step}
        writer.add_step(line | {"group/pass_rate_estimate": step / 20})
    writer.close(state, None if state == "finished" else "OutOfMemoryError: no room")
    return folder / name


def test_runs_of_the_meter_alone_are_reported_with_what_they_have(tmp_path, capsys):
    meter_only(tmp_path, "mine")
    meter_only(tmp_path, "named", config={"model": {"model_name_or_path": "some/small-model"}})
    main([str(tmp_path)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "GRPOTrainer" in line]
    # steps, samples, offered bits a sample and a PFLOP, absorbed, pass rate of the first and last two steps, GFLOP, decode
    numbers = ["GRPOTrainer", "42", "20", "200", "0.5", "5,000", "–", "0.075", "0.975", "20,000", "20,000"]
    assert rows == [["mine", *numbers], ["small-model", *numbers]]
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["arms"] == [] and [fact["flops_decode"] for fact in results["metered"]] == [2e13, 2e13]
    for name in ("report.html", "summary.md"):
        assert "Runs without held-out evaluations" in (tmp_path / "report" / name).read_text()


def test_what_cannot_be_reported_is_left_out_by_name_and_the_rest_is_reported(tmp_path, capsys):
    make_run(tmp_path, "latent", "sft", "sft", 1, 1.0)
    meter_only(tmp_path, "mine")
    meter_only(tmp_path, "broken", state="failed")
    RunWriter.create(tmp_path / "killed", MANIFEST)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "manifest.json").write_text("{")
    main([str(tmp_path), "--output_dir", str(tmp_path / "report")])
    told = capsys.readouterr()
    left_out = [line.removeprefix("left out: ") for line in told.err.splitlines()]
    for line, fragment in zip(
        left_out,
        ("failed run (OutOfMemoryError: no room)", "running run, killed or still", "torn/manifest.json is not JSON"),
        strict=True,
    ):
        assert fragment in line
    assert "latent  sft" in told.out and "GRPOTrainer" in told.out
    page = html.unescape((tmp_path / "report" / "report.html").read_text())
    summary = html.unescape((tmp_path / "report" / "summary.md").read_text())
    assert all(line in page and line in summary for line in left_out)
    assert json.loads((tmp_path / "report" / "results.json").read_text())["left_out"] == left_out


def test_nothing_to_report_is_one_line_with_every_reason(tmp_path):
    meter_only(tmp_path, "broken", state="failed")
    RunWriter.create(tmp_path / "killed", MANIFEST)
    with pytest.raises(
        SystemExit, match=r"^error: nothing to report: .*broken holds a failed run .*killed holds a running run"
    ) as exit:
        main([str(tmp_path)])
    assert "\n" not in str(exit.value) and not (tmp_path / "report").exists()


HOSTILE = ("$\\frac{$", "a|b", "<script>alert(1)</script>", "_hidden", "'><img src=x>", "100 % & `more`", "\x1b[31mred\nline")


def test_names_are_shown_as_they_stand_and_break_no_picture_table_or_page(tmp_path):
    results = []
    for number, name in enumerate(HOSTILE):
        folder = tmp_path / str(number)
        make_run(folder, "start", "arm", "rl" if number % 2 else "sft", 1, 0.5)
        path = folder / "start-arm-1" / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"arm": name, "start": name}))
        results.append(str(folder))
    meter_only(tmp_path / "0", "mine", arm="$\\frac{$", start="<b>x|y</b>")
    main([*results, "--output_dir", str(tmp_path / "report")])
    page = (tmp_path / "report" / "report.html").read_text()
    tags = {tag.lower() for tag in re.findall(r"<([a-zA-Z]+\d?)", page)}
    assert not tags & {"script", "b", "i"} and page.count("<img") == len(FIGURE_NAMES)
    assert html.escape(HOSTILE[2]) in page and "\x1b" not in page
    assert len(list((tmp_path / "report" / "figures").iterdir())) == len(FIGURE_NAMES)
    tables = [line for line in (tmp_path / "report" / "summary.md").read_text().splitlines() if line.startswith("|")]
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    for heading in [index for index, line in enumerate(tables) if line.startswith("| start")]:
        rows = columns[heading : next((i for i in range(heading + 1, len(tables)) if tables[i].startswith("| start")), None)]
        assert len(set(rows)) == 1
    assert "<script>" not in "".join(tables)


def test_a_name_is_plain_text_in_a_figure():
    figure = plt.figure()
    shown = figure.text(0, 0, plain("$\\frac{$ and $5"))
    figure.savefig(io.BytesIO(), format="svg")  # raises where it is read as a formula
    assert shown._preprocess_math(shown.get_text()) == ("$\\frac{$ and $5", False)


def test_an_estimate_without_an_interval_shows_none():
    assert estimate({"mean": None, "interval": None}) == "–"
    assert estimate({"mean": 2.0, "interval": None}) == "2"
    assert estimate({"mean": 2.0, "interval": [1.0, 3.0]}) == "2 [1, 3]"


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


def test_the_readme_shows_the_output_of_the_recorded_study():
    record = REPOSITORY / "eval" / "records" / "2026-11-21_quick_study"
    printed = (record / "table.txt").read_text()
    assert printed.strip() in (REPOSITORY / "README.md").read_text()
    results = json.loads((record / "results.json").read_text())
    for finding in results["findings"]:
        assert sentence_of(finding) in printed
    for arm in results["arms"]:
        cells = [arm["start"], arm["arm"], str(len(arm["seeds"])), estimate(arm["values"]["absorbed_bits"])]
        assert re.search(r"\s+".join(map(re.escape, cells[:3])) + r"\s.*" + re.escape(cells[3]), printed)


def test_the_readmes_metric_table_is_the_glossarys():
    text = (REPOSITORY / "README.md").read_text()
    (table,) = re.findall(r"<!-- made by `python -m bitsample_llm\.glossary` -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert table == glossary_table()
