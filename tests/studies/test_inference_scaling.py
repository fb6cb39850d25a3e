"""Closed forms against enumeration, files of problems that do not overlap, and the page of runs whose savings are known."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest

from bitsample_llm.report.prices import HALF, NINE_TENTHS, PricedRun, pack_prices
from eval.studies.inference_scaling.__main__ import inference_scaling_study, read
from eval.studies.inference_scaling.claims import (
    AGE_TARGETS,
    GRPO_OVER_SFT,
    age_rows,
    best_of,
    majority_of,
    pays,
    predicted_distillation_factor,
    predicted_vote_factor,
)
from eval.studies.inference_scaling.make_ages import main as make_ages
from eval.studies.inference_scaling.make_problems import main as make_problems
from eval.studies.inference_scaling.worked import price, worked_claims

PRICE = {
    "grpo": 1e10,
    "plain_8": 2e10,
    "best_of_4": 5e10,
    "majority_of_4": 1e11,
    "distil_A": 2.5e9,
    "distil_C": 2.6e9,
    "grpo_from_C": 3e9,
    "better_C": 9e9,
    "sft": 1e9,
}


def made_run(rung: str, model: str, arm: str, seed: int, p: float, price: float, reason: str = "latent") -> PricedRun:
    """A run that gains in proportion to its FLOPs until it has all but a twentieth of the bits; 90 % of them at its price."""
    flops = np.array([0.0, *np.geomspace(2e7, 4e11, 80)])
    log2_p = math.log2(p) * (1 - np.clip(0.9 * flops / (price * (1 + 0.01 * seed)), 0, 0.95))
    settings = {"learning_rate": 1e-4, "per_device_train_batch_size": 2, "num_generations": 2}
    amounts = {"updates": (flops / 1e8).tolist(), "samples": (flops / 1e8).tolist(), "flops": flops.tolist()}
    state = {"log2_p": log2_p.tolist(), "pass_rate": (2**log2_p).tolist(), "kl_bits": [None] * len(flops)}
    about = {"tags": {"rung": rung, "model": model, "reason": reason}, "settings": settings, "flop_budget": 4e11}
    return PricedRun(
        f"{rung} {model}", arm, seed, log2_p_before=[math.log2(p)] * 4, gains_elsewhere={}, **about, **amounts, **state
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The runs of a packed record, with what lies beside them."""
    folder = tmp_path_factory.mktemp("record")
    runs = [
        made_run("latent G", model, arm, seed, 0.01, cost)
        for model in ("base", "rungs2")
        for arm, cost in PRICE.items()
        for seed in (1, 2, 3)
    ]
    for age, p in (("0.1", 0.1), ("0.3", 0.3)):
        runs += [
            made_run(f"unacquired {age}", "ages0", arm, 1, p, cost, "unacquired") for arm, cost in (("sft", 1e10), ("grpo", 9e11))
        ]
    pack_prices(runs, folder)
    states = [{"model": "ages0", "age": age, "flops": flops, "pass_rate": None} for age, flops in (("0.1", 1e13), ("0.3", 1.2e13))]
    path = ((1e13, 0.1), (1.2e13, 0.3), (1.21e13, 0.65), (1.22e13, 0.5), (1.23e13, 0.7), (1.25e13, 0.95))
    states += [{"model": "ages0", "age": None, "flops": flops, "pass_rate": rate} for flops, rate in path]
    (folder / "ages.jsonl").write_text("".join(json.dumps(state) + "\n" for state in states))
    vote = {"rung": "latent G", "model": "base", "exact": [0.01, 0.02], "passed": 0.015, "best": 0.06, "majority": 0.016}
    (folder / "votes.jsonl").write_text(json.dumps(vote) + "\n")
    return read([str(folder)])


@pytest.mark.parametrize("p", [0.01, 0.3, 0.7])
def test_votes_pass_as_often_as_enumeration_says(p):
    best = majority = 0.0
    for verdicts in itertools.product([True, False], repeat=4):
        weight = math.prod(p if passed else 1 - p for passed in verdicts)
        best += weight * any(verdicts)
        # wrong answers all differ: one pass wins only if it was written first
        majority += weight * (sum(verdicts) > 1 or (sum(verdicts) == 1 and verdicts[0]))
    assert (best_of(p), majority_of(p)) == pytest.approx((best, majority))


def test_closed_forms_are_those_of_the_readme():
    assert [round(predicted_vote_factor(vote, p), 2) for p in (0.013, 0.098) for vote in ("best_of_4", "majority_of_4")] == [
        0.37,
        0.12,
        0.34,
        0.23,
    ]
    rivals = [round(predicted_vote_factor(vote, p, False), 2) for p in (0.013, 0.098) for vote in ("best_of_4", "majority_of_4")]
    assert rivals == [0.98, 0.32, 0.91, 0.62]
    assert [round(predicted_distillation_factor(p, 2), 1) for p in (0.98, 0.48)] == [4.1, 3.8]
    assert [round(GRPO_OVER_SFT / predicted_distillation_factor(p, 2), 1) for p in (0.98, 0.48)] == [2.7, 2.9]


def test_the_page_says_what_each_arm_saves(found):
    for arm, cost in PRICE.items():
        if arm != "grpo":
            for target in (HALF, NINE_TENTHS):
                assert found.remedies.factor("latent G", arm, target).estimate.mean == pytest.approx(PRICE["grpo"] / cost, rel=0.02)
    study = inference_scaling_study(found, "made")
    verdicts = {(claim.text, claim.statistic.split(",")[1].split(" against")[0].strip()): claim.verdict for claim in study.claims}
    assert verdicts["Does prompt distillation cost SFT plus its rollouts?", "SFT on passes under A"] == "yes, within 1.5"
    assert verdicts["Do votes cost the dilution of credit?", "best of 4"] == "yes, within 1.5"
    assert verdicts["Do votes cost their informative updates alone?", "best of 4"] == "no, it is less"
    by_text = {claim.text: claim.verdict for claim in study.claims}
    assert by_text["Best of n as the policy that is trained saves FLOPs."] == "contradicted"
    assert by_text["RL under the better prompt saves FLOPs under the target's."] == "supported"
    assert [table.title for table in study.tables] == [
        "What votes offer before training",
        "From which age is training cheaper than going on with pretraining?",
        "What GRPO absorbs in 300 GFLOP at each age",
        "Settings",
    ]
    for picture in study.all_pictures:
        assert picture.draw().axes


def test_training_pays_from_an_age_if_it_is_cheaper_than_going_on(found):
    rows = {(row["age"], row["arm"]): row for row in age_rows(found, AGE_TARGETS[0])}
    assert rows["0.3", "sft"]["on"] == pytest.approx(3e11)  # .65 is lost again
    assert rows["0.1", "grpo"]["on"] == pytest.approx(2.3e12)
    assert pays([rows["0.3", "sft"]]) == "pays"
    assert not rows["0.1", "grpo"]["reached"]
    assert pays([rows["0.1", "grpo"]]) == "undecided"  # a bound below what going on costs tells nothing
    assert pays([rows["0.3", "grpo"] | {"price": 4e11}]) == "does not pay"
    assert pays([]) == "undecided"


def test_worked_steps_are_priced_by_what_is_kept():
    flops = [0.0, 1e9, 2e9, 4e9, 8e9, 16e9, 30e9]
    about = {"is_exact": False, "flops": flops, "seed": 1, "draw": 2e8, "train": 4e8}
    kept = about | {"rung": "worked E", "arm": "grpo", "pass_rate": [0.1, 0.6, 0.4, 0.6, 0.7, 0.8, 0.9]}
    never = about | {"rung": "direct E", "arm": "grpo", "pass_rate": [0.0] * 7}
    assert price(kept) == (4e9, True)
    assert price(never) == (8e9, False)
    direct = [
        about | {"rung": "direct A", "arm": arm, "pass_rate": rates}
        for arm, rates in (("sft", kept["pass_rate"]), ("grpo", [0.1] * 7))
    ]
    claims = worked_claims([kept, never, *direct])
    assert [claim.verdict for claim in claims] == ["supported", "supported"]
    assert claims[1].estimate.mean == pytest.approx(4 * 1.5)  # half an update more for each label


def test_checkpoints_and_what_was_logged_become_states(tmp_path, monkeypatch):
    folder = tmp_path / "ages-seed3"
    (folder / "ladder" / "pass-rate-0.1").mkdir(parents=True)
    cost = {"updates": 10, "tokens": 1000, "flops": {"train_forward": 1e9, "train_backward": 2e9, "evaluation": 5e9}}
    (folder / "ladder" / "pass-rate-0.1" / "pretraining.json").write_text(json.dumps(cost))
    (folder / "log.txt").write_text("it\r{'pass_rate/2/A': '0.25', 'pass_rate/2/C': '0.2', 'num_input_tokens_seen': 2000}\n")
    bare = tmp_path / "ages-seed4"
    shutil.copytree(folder / "ladder", bare / "ladder")
    monkeypatch.setattr("sys.argv", ["make_ages", str(folder), str(bare), str(tmp_path / "ages.jsonl")])
    make_ages()
    rows = [json.loads(line) for line in (tmp_path / "ages.jsonl").read_text().splitlines()]
    kept = {"age": "0.1", "flops": 3e9, "pass_rate": None}
    assert rows[:2] == [{"model": "ages3", **kept}, {"model": "ages3", "age": None, "flops": 6e9, "pass_rate": 0.25}]
    # without a log the checkpoint is what is known
    assert rows[2:] == [{"model": "ages4", **kept}, {"model": "ages4", "age": None, "flops": 3e9, "pass_rate": 0.1}]


def operands(prompt: str) -> frozenset[str]:
    return frozenset(prompt[1:-1].split("+"))


def test_prompts_of_a_row_ask_the_same_and_no_pair_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["make_problems", str(tmp_path)])
    make_problems()
    rows = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in tmp_path.iterdir()}
    for row in rows["reported-train"]:
        assert (row["prompt"][0], row["by_A"][0], row["by_C"][0]) == ("G", "A", "C")
        assert row["prompt"][1:] == row["by_A"][1:] == row["by_C"][1:]
    heldout = {operands(row["prompt"]) for name, of_file in rows.items() if name.endswith("heldout") for row in of_file}
    asked = {operands(row["prompt"]) for name, of_file in rows.items() if not name.endswith("heldout") for row in of_file}
    assert heldout and asked and not heldout & asked
