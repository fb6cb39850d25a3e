"""The exchange rate's numbers, on made-up runs of which the truth is known, and its maker on the embedded model."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY

from bitsample_llm.records import RecordError
from bitsample_llm.report.gains import (
    Setting,
    chosen_setting,
    gain_of_labels,
    read_lines,
    rungs_of,
    samples_to_gain,
    waiting_law,
)
from eval.studies.exchange.__main__ import exchange_study, read
from eval.studies.exchange.claims import claims_of, matched_claims
from eval.studies.exchange.make_bench import Bench, Cell, Start, rollout_seed
from eval.studies.exchange.make_data_limited import starts_of
from eval.studies.exchange.matched import matched_gains, matched_table, read_starts
from eval.studies.exchange.observer import gate_gains, observer_gains
from eval.studies.exchange.rates import bracketed_worth, exchange_rate, labels_per_pass, law_errors, worth_estimate

AVAILABLE = 3.0


def gain(num_labels: float) -> float:
    """Of a skill of which each label tells half of what is left."""
    return AVAILABLE * (1 - 0.5**num_labels)


def made_lines(pass_rate: float = 0.1, worth: float = 1.0, rung: str = "latent E", reason: str = "latent") -> list[dict]:
    """Lines of runs at three pretraining seeds in which a pass teaches what `worth` labels do; half the updates gain half as much."""
    rng = np.random.default_rng(0)
    lines = []
    for model in ("a", "b", "c"):
        for arm, sizes in (("labels", (1, 2, 3, 4, 6, 8, 16, 64)), ("passes", (4, 16, 64, 256))):
            for n in sizes:
                for seed in (1, 2, 3, 4, 101, 102):
                    num_trained = n if arm == "labels" else int(rng.binomial(n, pass_rate))
                    if seed > 100 and model != "a":
                        continue
                    gained = gain(num_trained * (worth if arm == "passes" else 1.0))
                    for rate, share in ((1e-4, 0.5), (3e-4, 1.0), (1e-3, 0.2)) if seed > 100 else ((3e-4, 1.0),):
                        shares = ((0, 0.0), (1, 0.5 * share), (2, share), (4, 0.1 * share))
                        evaluations = [[updates, -AVAILABLE + part * gained, pass_rate] for updates, part in shares]
                        place = {
                            "rung": rung,
                            "model": model,
                            "reason": reason,
                            "arm": arm,
                            "n": n,
                            "seed": seed,
                            "is_tuning": seed > 100,
                        }
                        lines.append(place | {"learning_rate": rate, "num_trained": num_trained, "evaluations": evaluations})
    return lines


def test_a_run_is_read_at_the_setting_that_other_seeds_chose():
    lines = made_lines()
    of_labels = [line for line in lines if line["is_tuning"] and line["arm"] == "labels"]
    half = np.mean([gain(n) / 2 for n in (1, 2, 3, 4, 6, 8, 16, 64)])
    assert chosen_setting(of_labels) == Setting(3e-4, 2, True, True, pytest.approx(half))
    (rung,) = rungs_of(lines)
    assert {run.gain_bits for run in rung.runs["labels", 4]} == {gain(4)}
    assert all(setting.is_inner_rate for setting in rung.settings.values()) and all(
        run.updates == 2 for run in rung.runs["labels", 64]
    )


def test_runs_of_an_earlier_search_and_shorter_ones_do_not_count():
    lines = made_lines()
    reported = [line for line in lines if not line["is_tuning"]]
    shorter = [line | {"evaluations": line["evaluations"][:2]} for line in reported]
    other_rate = [line | {"learning_rate": 1e-4, "evaluations": [[0, -AVAILABLE, 0.1], [2, -9.0, 0.1]]} for line in reported]
    assert rungs_of(shorter + lines + other_rate) == rungs_of(lines)


def test_no_pass_gains_nothing_and_is_no_unmeasured_run():
    (rung,) = rungs_of(made_lines(pass_rate=0.01))
    assert all(run.gain_bits == 0.0 for run in rung.runs["passes", 4] if run.num_trained == 0)


@pytest.mark.parametrize("worth", [1.0, 0.5, 0.2])
def test_what_a_pass_is_worth_is_found(worth):
    rungs = rungs_of(made_lines(worth=worth))
    assert worth_estimate(rungs, labels_per_pass).mean == pytest.approx(worth, rel=0.2)
    claim = claims_of(rungs)[1]
    assert "worth a label" in claim.text and claim.verdict.startswith("yes") == (worth == 1.0), claim


@pytest.mark.parametrize(("worth", "found"), [(1.0, 1.0), (0.7, 0.7), (0.2, 0.5), (3.0, 2.0)])
def test_labels_at_the_setting_of_the_passes_bracket_what_a_pass_is_worth(worth, found):
    lines = made_lines(pass_rate=0.2, worth=worth)
    for line in [line for line in lines if line["arm"] == "passes" and not line["is_tuning"]]:
        for factor in (0.5, 1.0, 2.0):
            gained = gain(round(factor * line["num_trained"]))
            evaluations = [[at, before + (at > 0) * gained, p] for at, (before, p) in enumerate([(-AVAILABLE, 0.2)] * 3)]
            labels = {
                "arm": "as_many_labels",
                "labels_per_pass": factor,
                "num_passed": line["num_trained"],
                "evaluations": evaluations,
            }
            lines.append(line | labels | {"num_trained": round(factor * line["num_trained"])})
    rungs = rungs_of(lines)
    assert worth_estimate(rungs, bracketed_worth).mean == pytest.approx(found, rel=0.15)
    claim = claims_of(rungs)[0]
    assert "at one setting" in claim.statistic and claim.verdict.startswith("yes") == (worth == 1.0), claim


def test_a_start_is_read_at_its_own_search():
    lines = made_lines()
    own = [line | {"model": "b"} for line in lines if line["is_tuning"] and line["arm"] == "labels"]
    for line in own:  # at this model one update is better
        line["evaluations"] = [[{1: 2, 2: 1}.get(at, at), log2_p, p] for at, log2_p, p in line["evaluations"]]
    for model, updates in (("a", 2), ("b", 1), ("c", 2)):
        (rung,) = rungs_of([line for line in lines if line["arm"] == "labels"] + own)
        assert {run.updates for run in rung.runs["labels", 16] if run.model == model} == {updates}


def test_passes_of_groups_are_read_at_their_own_search_where_there_was_one():
    lines = [line for line in made_lines() if line["model"] == "a" and line["arm"] == "labels"]
    reported = [
        line | {"arm": "passes_of_groups", "num_passed": 16}
        for line in lines
        if (line["n"], line["learning_rate"], line["is_tuning"]) == (16, 3e-4, False)
    ]
    for line in reported:  # one update is best for them
        line["evaluations"] = [[{1: 2, 2: 1}.get(at, at), log2_p, p] for at, log2_p, p in line["evaluations"]]
    searched = [line | {"is_tuning": True, "seed": 100 + line["seed"]} for line in reported]
    for runs, updates in ((lines + reported, 2), (lines + reported + searched, 1)):
        (rung,) = rungs_of(runs)
        assert {run.updates for run in rung.runs["passes_of_groups", 16]} == {updates}


def test_where_passes_gain_nothing_their_worth_is_not_measured():
    lines = made_lines()
    for line in lines:
        if line["model"] == "b" and line["arm"] == "passes":
            line["evaluations"] = [[updates, -AVAILABLE, p] for updates, _, p in line["evaluations"]]
    claim = claims_of(rungs_of(lines))[1]
    assert claim.estimate.mean is None and "passes nothing" in claim.verdict


def test_the_exchange_rate_follows_the_waiting_law_and_not_one_over_p():
    rungs = rungs_of(made_lines(pass_rate=0.1))
    (rung,) = rungs
    law = waiting_law(rung, gain(1), "a")
    # E[1 - .5 ** K] = 1 - (1 - p / 2) ** n is a half at n = 13.5
    assert law == pytest.approx(math.log(0.5) / math.log(0.95), rel=0.15)
    rates = [exchange_rate(rung, model) for model in "abc"]
    assert np.exp(np.mean(np.log(rates))) == pytest.approx(law, rel=0.35)
    errors = law_errors(rungs)
    assert errors["waiting law"][0] < errors["essay, -log2 p / H(p)"][0] and errors["1/p"][1] == 3


def test_interpolation_is_in_the_logarithm_and_never_beyond_the_sizes():
    n, gains = np.array([1.0, 4.0, 16.0]), np.array([0.5, 1.0, 2.0])
    assert samples_to_gain(n, gains, 0.75) == pytest.approx(2.0)
    assert samples_to_gain(n, gains, 0.4) is None and samples_to_gain(n, gains, 2.1) is None
    (rung,) = rungs_of(made_lines())
    assert gain_of_labels(rung, np.array([0, 1, 64]), "a") == pytest.approx([0, gain(1), gain(64)])


def test_the_observer_of_two_authors_is_bayes_rule():
    lines = [
        {"model": "m", "split": "heldout", "seed": 0, "log2_p": {"A": [0.0], "E": [-3.0]}},
        {"model": "m", "split": "train", "seed": 1, "log2_p": {"A": [0.0] * 64, "E": [-3.0] * 64}},
    ]
    curve = dict(observer_gains(lines, "E"))
    for n in (0, 1, 4):
        weight = 1 / (1 + 8.0**-n)
        assert curve[n] == pytest.approx(1 + math.log2(weight + (1 - weight) / 8) / 3)


def test_the_observer_of_gates_learns_of_each_gate_from_its_own_labels_alone():
    of_heldout = {"log2_p": {"A": [0.0, 0.0], "E": [-3.0, -3.0]}, "gates": [1, 2]}
    of_train = {"log2_p": {"A": [0.0] * 64, "E": [-3.0] * 64}, "gates": [1] * 64}
    lines = [{"model": "m", "split": split, "seed": 1} | of for split, of in (("heldout", of_heldout), ("train", of_train))]
    curve = dict(gate_gains(lines, "E", 0.5))
    shut = 1 + math.log2(0.5 + 0.5 / 8) / 3  # share of the bits at a gate of which no label told
    assert curve[0] == pytest.approx(shut) and curve[64] == pytest.approx((1 + shut) / 2)
    assert dict(gate_gains(lines, "E", 0.99))[0] == pytest.approx(1 + math.log2(0.01 + 0.99 / 8) / 3)


def test_the_page_has_both_pictures_and_a_broken_line_is_named(tmp_path):
    lines = made_lines() + made_lines(rung="unacquired 0.1", reason="unacquired")
    lines.append(lines[-1] | {"arm": "passes_in_rounds", "rounds": 4})  # which the first lines do not have
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    study = exchange_study(read([tmp_path]), "command")
    assert [picture.draw() is not None for picture in study.all_pictures] == [True, True]
    assert len(study.table.rows) == 3
    start = {"rung": "latent E", "model": "base", "log2_p": [-3.25, -1.5]}
    (tmp_path / "latent_E-base.start.json").write_text(json.dumps(start))
    command = [sys.executable, "-m", "eval.studies.exchange", "pack", str(tmp_path), str(tmp_path / "packed")]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    ((place, log2_p),) = read_starts([tmp_path / "packed"]).items()
    assert place == ("latent E", "base") and log2_p.tolist() == start["log2_p"]
    assert rungs_of(read_lines([tmp_path / "packed"])) == rungs_of(lines)
    (tmp_path / "runs.jsonl").write_text('{"rung": "x"}\n{"torn')
    with pytest.raises(RecordError, match=r"runs\.jsonl, line 2 is not JSON"):
        read_lines([tmp_path])


def test_a_second_program_finds_the_numbers_of_the_record():
    record = REPOSITORY / "eval/records/2026-11-22_exchange"
    program = [sys.executable, REPOSITORY / "eval/studies/exchange/check.py", record / "runs"]
    printed = subprocess.run(list(map(str, program)), capture_output=True, text=True, check=True).stdout
    found = dict(line.rsplit(": ", 1) for line in printed.splitlines() if "/" in line and ": " in line)
    claims = json.loads((record / "results.json").read_text())["claims"]
    asked = [claim for claim in claims if claim["statistic"].startswith("labels per pass, at one setting")]
    assert len(asked) == 3
    for claim in asked:
        reason = claim["text"].split(":")[0]
        for name, value in zip(("mean", "low", "high"), (claim["mean"], *claim["interval"]), strict=True):
            assert float(found[f"labels_per_pass/{reason}/{name}"]) == pytest.approx(value, rel=1e-3)


def test_a_seed_draws_other_rollouts_at_another_start_and_the_same_ones_again():
    starts = starts_of(yaml.safe_load((REPOSITORY / "eval/studies/exchange/data_limited.yaml").read_text()))
    seeds = {rollout_seed(start, seed) for start in starts for seed in (1, 2)}
    assert len(seeds) == 2 * len(starts) and seeds == {rollout_seed(start, seed) for start in starts for seed in (1, 2)}


def test_the_reduced_study_needs_no_model_that_is_not_in_git():
    config = yaml.safe_load((REPOSITORY / "eval/studies/exchange/small.yaml").read_text())
    starts = starts_of(config)
    assert {start.reason for start in starts} == {"latent", "unacquired"}
    assert all((REPOSITORY / start.folder / "model.safetensors").is_file() for start in starts)


@pytest.mark.slow
def test_the_maker_goes_on_where_it_stopped_and_every_learner_runs(tmp_path):
    config = yaml.safe_load((REPOSITORY / "eval/studies/exchange/data_limited.yaml").read_text())
    config |= {"seeds": [1], "tuning_seeds": [101], "first_learning_rates": [3e-4], "learning_rates": [3e-4]}
    config |= {"most_updates": {"latent": {1: 2}}, "num_labels": {"latent": [1]}, "num_rollouts": [16]}
    rung = {"reason": "latent", "mark": "C", "difficulty": 3}
    config |= {"models": {"latent": {"base": "data/base"}}, "rungs": {"latent C": rung}, "labels_per_pass": [0.5]}
    config["wide"] |= {"starts": {"latent C": [16]}, "rounds": {"latent C": [2]}, "searched": ["passes_of_groups"]}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    command = [
        sys.executable,
        "-m",
        "eval.studies.exchange.make_data_limited",
        "--config",
        tmp_path / "small.yaml",
        "--output_dir",
        tmp_path / "runs",
        "--jobs",
        "1",
    ]
    for wide, expected in (([], 4), (["--wide"], 17), (["--wide"], 17)):
        finished = subprocess.run([*map(str, command), *wide], cwd=REPOSITORY, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr[-2000:]
        lines = read_lines([tmp_path / "runs"])
        assert len(lines) == expected
        (tmp_path / "runs" / "latent_C-base.jsonl").open("a").write('{"torn')  # as a kill leaves it
    assert all(line["num_trained"] > 0 and len(line["evaluations"]) == 3 for line in lines if line["is_tuning"])


def test_labels_are_compared_on_problems_of_the_same_pass_rates():
    """Of two starts the one spreads its pass rates; on the problems that match both gain the share that was built in."""
    rng = np.random.default_rng(0)
    starts, rungs = {}, []
    for name, reason, spread, share in (("latent E", "latent", 0.2, 0.8), ("unacquired 0.1", "unacquired", 1.5, 0.1)):
        lines = made_lines(rung=name, reason=reason)
        for model in ("a", "b", "c"):
            starts[name, model] = -3.3 + spread * rng.standard_normal(256)
        for line in lines:
            gained = share * (np.abs(starts[name, line["model"]] + 3.3) < 0.6)  # elsewhere nothing
            line["log2_p"] = starts[name, line["model"]] * (1 - gained)
            line["evaluations"] = line["evaluations"][:3]
        rungs += rungs_of(lines)
    rows = matched_gains(rungs, starts)
    assert [row.n for row in rows] == [1, 2, 3, 4, 6, 8, 16, 64]
    assert [share.mean for share in rows[0].shares] == pytest.approx([0.8, 0.1], abs=0.03)
    idle = [replace(run, updates=0, log2_p=None) for run in rungs[1].runs["labels", 1] if run.model == "c"]
    rungs[1].runs["labels", 1] = [run for run in rungs[1].runs["labels", 1] if run.model != "c"] + idle
    share = matched_gains(rungs, starts)[0].shares[1]  # where no update was chosen nothing is gained, and that counts
    assert share.n == 3 and min(share.values) == 0.0
    verdicts = {claim.text: claim.verdict for claim in matched_claims(rows)}
    asked = "on problems matched with {}: what share of the available bits does one label gain?"
    assert verdicts[f"latent E, {asked.format('unacquired 0.1')}"] == "more than 0.5"
    (all_latent, latent), (all_other, other) = rows[0].spread_bits
    assert all_other > 5 * all_latent and abs(other - latent) < math.log2(1.25)
    assert 40 < rows[0].num_problems < 128 and len(matched_table(rows).rows) == 9


def test_where_several_answers_pass_passes_are_the_rollouts_own_answers():
    config = {"num_rollouts": [64], "seeds": [1]}
    start = Start("several", "base", "latent", str(REPOSITORY / "data" / "base"), "E", 2, accepted_digits=1)
    bench = Bench(start, config)
    rollouts = bench.rollouts(Cell("passes", 64, 1, 1e-4, False))
    assert all(passed == (text[:1] == problem.answer[:1]) for problem, text, passed in rollouts)
    passes = bench.labelled(Cell("passes", 64, 1, 1e-4, False))
    assert 0 < len(passes) < 64 and any(
        new.answer != old.answer for new, old in zip(passes, [p for p, _, ok in rollouts if ok], strict=True)
    )
    share = np.mean([passed for *_, passed in rollouts])
    known = np.exp2(bench.before[False].log2_p).mean()
    assert abs(share - known) < 4 * math.sqrt(known * (1 - known) / 64)
    assert known > load_known_pass_rate()


def test_wrong_labels_of_a_file_are_answers_of_its_other_problems(tmp_path):
    for name, first, num in (("sums", 10, 40), ("sums_heldout", 60, 8)):
        rows = [{"prompt": f"{a}+7=", "answer": str(a + 7)} for a in range(first, first + num)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = str(tmp_path / "sums.jsonl")
    start = Start("sums", "base", "pretrained", str(REPOSITORY / "data" / "base"), "E", 2, dataset=file)
    bench = Bench(start, {"num_rollouts": [1], "seeds": [1]})
    right, wrong = (bench.labelled(Cell(arm, 16, 1, 1e-4, False)) for arm in ("labels", "wrong_labels"))
    assert [problem.prompt for problem in right] == [problem.prompt for problem in wrong]
    answers = {problem.answer for problem in bench.problems(64, 0)}
    assert all(bad.answer != good.answer and bad.answer in answers for good, bad in zip(right, wrong, strict=True))
    assert len({problem.answer for problem in wrong}) > 8


def load_known_pass_rate() -> float:
    """Of the same start where the whole answer has to be right."""
    whole = Bench(Start("whole", "base", "latent", str(REPOSITORY / "data" / "base"), "E", 2), {"num_rollouts": [1], "seeds": [1]})
    return float(np.exp2(whole.before[False].log2_p).mean())
