"""The study of the pretrained model on made-up runs; its problems; and starts whose problems come from a file."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bitsample_llm.report.gains import rungs_of
from bitsample_llm.report.prices import HALF, PricedRun
from eval.studies.exchange.make_bench import FileProblems
from eval.studies.pretrained.__main__ import pretrained_study
from eval.studies.pretrained.claims import Found, text_loss_per_bit
from eval.studies.pretrained.make_problems import halves, letter_rows, write_problems

LABELS, ROLLOUTS = 2e10, 1e12  # FLOPs to half of the bits


def made_run(arm: str, seed: int, price: float, text_loss: float = 0.02) -> PricedRun:
    """A run that gains 8 bits in proportion to its FLOPs, half of them at `price`, until 7 are gained."""
    flops = np.array([0.0, *np.geomspace(price / 10, price * 10, 30)])
    log2_p = -8 + np.minimum(4 * flops / price, 7)
    samples = flops / (1e10 if arm == "sft" else 1.25e10)
    return PricedRun(
        start="two digits, bare smollm2",
        arm=arm,
        seed=seed,
        tags={"reason": "pretrained", "rung": "two digits, bare", "model": "smollm2"},
        settings={"learning_rate": 1e-5, "per_device_train_batch_size": 1},
        log2_p_before=[-7.0, -9.0],
        flop_budget=None,
        updates=list(range(31)),
        samples=samples.tolist(),
        flops=flops.tolist(),
        log2_p=log2_p.tolist(),
        pass_rate=np.exp2(log2_p).tolist(),
        kl_bits=[1.0] * 31,
        gains_elsewhere={},
        text_bits_per_token={"plain_english": [4.7, 4.7 + text_loss]},
        useful_flops=(flops * (0.8 if arm == "sft" else 0.4)).tolist(),
    )


def made_lines(rung: str, bits: float, share_of_one: float) -> list[dict]:
    """Runs in which one label gains a share of the bits, four twice that, and eight rollouts what one label gains."""
    place = {
        "rung": rung,
        "model": "smollm2",
        "reason": "pretrained",
        "learning_rate": 1e-5,
        "labels_per_pass": None,
        "rounds": None,
    }
    lines = []
    gains = {("labels", 1): share_of_one, ("labels", 4): 2 * share_of_one, ("passes", 8): share_of_one}
    for (arm, n), share in (gains | {("wrong_labels", 1): share_of_one / 4}).items():
        after = -bits * (1 - share)
        evaluations = [[0, -bits, 0.1], [1, after, 0.2]]
        num = 1 if arm == "passes" else n
        cell = place | {"arm": arm, "n": n, "num_trained": num, "num_passed": num if arm == "passes" else None}
        if arm != "passes":
            lines.append(cell | {"seed": 101, "is_tuning": True, "evaluations": evaluations})
        lines += [cell | {"seed": seed, "is_tuning": False, "evaluations": evaluations, "log2_p": None} for seed in (1, 2, 3)]
    return lines


@pytest.fixture
def found():
    runs = [made_run("sft", seed, LABELS * (1 + seed / 50), 0.05) for seed in range(1, 6)]
    runs += [made_run("grpo", seed, ROLLOUTS * (1 + seed / 20), 0.01) for seed in range(1, 6)]
    lines = made_lines("two digits, bare", 8.0, 0.55) + made_lines("two digits, four lines", 3.0, 0.2)
    return Found.of(runs, rungs_of(lines + made_lines("three digits, four lines", 6.0, 0.05)))


def test_the_ratio_is_that_of_kept_prices_seed_by_seed(found):
    ratio = found.over_sft("grpo", HALF)
    assert ratio.n == 5 and ratio.mean == pytest.approx(ROLLOUTS / LABELS * 1.09, rel=0.02)
    assert found.over_sft("grpo", HALF, "samples").mean == pytest.approx(ratio.mean * 0.8, rel=0.01)
    assert found.over_sft("grpo", HALF, "useful_flops").mean == pytest.approx(ratio.mean / 2, rel=0.01)
    assert found.over_sft("grpo", HALF, "seconds").mean is None  # not recorded
    assert text_loss_per_bit(found.arms["sft"][1]) == pytest.approx(0.05 / 7)


def test_every_question_gets_the_verdict_of_its_numbers(found):
    study = pretrained_study(found, "made")
    verdict_of = {claim.text: claim.verdict for claim in study.claims}
    assert verdict_of["What does GRPO pay in FLOPs to half of the bits, compared with SFT?"] == "more"
    assert verdict_of["One label gains more than half of the bits: two digits, bare."].startswith("supported")
    assert verdict_of["One label gains less than a tenth of the bits: three digits, four lines."].startswith("supported")
    assert verdict_of["One wrong label gains less than half of what a right one gains: two digits, bare."].startswith("supported")
    assert verdict_of["Does GRPO under the bare prompt go beyond what four solved lines show at once?"] == "yes"
    assert verdict_of["GRPO loses less of plain English than SFT."] == "supported"
    assert "times the FLOPs of SFT" in study.answer and len(study.all_pictures) == 2


def test_a_run_that_did_not_keep_it_leaves_the_ratio_unmeasured(found):
    lost = found.arms["grpo"][1]
    found.arms["grpo"][1] = replace(lost, log2_p=[-8.0] * 31)
    assert found.over_sft("grpo", HALF).mean is None
    assert "reached and kept by 4 of 5 runs of GRPO and 5 of 5 of SFT" in pretrained_study(found, "made").answer


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("problems")
    with pytest.MonkeyPatch.context() as patch:  # the package that has the task needs a C compiler
        rows = [{"prompt": f"How many a in {'a' * n}?\nAnswer: ", "answer": str(n)} for n in range(1, 9)]
        patch.setattr("eval.studies.pretrained.make_problems.letter_rows", lambda: rows)
        write_problems(folder)
    return folder


def test_nothing_held_out_is_trained_on_in_any_order_and_answers_are_right(problems):
    for name in ("sums1", "sums2", "sums3", "larger"):
        parts = [
            [json.loads(line) for line in (problems / f"{part}.jsonl").read_text().splitlines()]
            for part in (name, f"{name}_heldout")
        ]
        asked = [
            {
                tuple(sorted(word for word in row["prompt"].replace("?", "").replace(",", "").split() if word.isdigit()))
                for row in part
            }
            for part in parts
        ]
        assert not asked[0] & asked[1] and len(asked[0]) == len(parts[0]) > 30 and len(asked[1]) == len(parts[1]) >= 18
        for row in parts[0] + parts[1]:
            a, b = (int(word) for word in row["prompt"].replace("?", "").replace(",", "").split() if word.isdigit())
            assert row["answer"] == str(max(a, b) if name == "larger" else a + b)
    before = {path.name: path.read_text() for path in problems.iterdir() if "letters" not in path.name}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.studies.pretrained.make_problems.letter_rows", lambda: [{"prompt": "p", "answer": "1"}] * 3)
        write_problems(problems)
    assert before == {name: (problems / name).read_text() for name in before}


def test_a_sentence_is_cut_at_a_word():
    assert halves("One two three four.") == {"prompt": "One two", "answer": " three four."}


def test_problems_of_a_file_are_in_one_pool_each_and_shown_ones_in_none(problems):
    source = FileProblems(str(problems / "sums2.jsonl"), 4)
    pools = {name: source.problems(name, 10**6, seed=1) for name in ("train", "tuning", "heldout")}
    names = [problem.problem_id for pool in pools.values() for problem in pool]
    assert len(set(names)) == len(names) and source.num_problems("train") == len(pools["train"])
    shown = {problem.prompt.rpartition("\n")[0] for pool in pools.values() for problem in pool}
    assert len(shown) == 1 and shown.pop().count("\n") == 3
    own = {problem.prompt.rpartition("\n")[2] for pool in pools.values() for problem in pool}
    assert not any(line[: line.index("Answer: ") + 8] in own for line in pools["train"][0].prompt.splitlines()[:4])
    assert source.problems("train", 5, seed=1) == pools["train"][:5] != source.problems("train", 5, seed=2)


def test_the_letters_need_their_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(ValueError, match="pip install 'bitsample_llm\\[reasoning-gym\\]'"):
        letter_rows()


def test_every_wrong_answer_is_wrong(problems):
    right, wrong = (
        [json.loads(line) for line in (problems / f"{name}.jsonl").read_text().splitlines()] for name in ("sums2", "sums2_wrong")
    )
    assert [row["prompt"] for row in right] == [row["prompt"] for row in wrong]
    assert all(a["answer"] != b["answer"] for a, b in zip(right, wrong, strict=True))
