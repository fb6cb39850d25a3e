"""Runs from the same weights share what evaluations of their start found; nothing else of them changes."""

import copy
import multiprocessing
from types import SimpleNamespace

import pytest
import torch
from test_meter import metered, rl_trainer, sft_trainer
from test_sampled_evaluation import BARE, SIGNED, TASK, evals, weights

from bitsample_llm.meter.heldout import HeldOut
from bitsample_llm.meter.start_evaluations import StartEvaluations, digest_of
from bitsample_llm.records import read_run

PLACE = ("total_seconds", "evaluation_flops")  # what differs between runs that found the same


def trained(make, base_model, folder, seed=1, kept=None, sets=None, stop=None):
    """A run of three steps with its evaluations, and its last weights."""
    trainer = make(base_model, folder, max_steps=3, seed=seed)
    sets = sets or {"heldout": SIGNED[:16], "exact": BARE[:8]}
    evaluation = HeldOut(sets, [1.0], TASK, max_tokens=6, num_kl_problems=4, start_evaluations=kept)
    metered(trainer, folder, evaluation=evaluation, stop=stop)
    trainer.train()
    return evals(folder), weights(trainer)


def at_start(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in PLACE} for row in rows if row["step"] == 0]


@pytest.mark.parametrize("make", [sft_trainer, rl_trainer])
def test_seeds_share_the_evaluation_of_their_start_and_no_other(base_model, tmp_path, make):
    kept = tmp_path / "kept"
    alone, first, second = (
        trained(make, base_model, tmp_path / name, seed, folder)
        for name, seed, folder in (("alone", 2, None), ("first", 1, kept), ("second", 2, kept))
    )
    assert len(list(kept.iterdir())) == 2  # one of each set
    assert at_start(alone[0]) == at_start(first[0]) == at_start(second[0]) and len(at_start(first[0])) == 24
    assert all((row["evaluation_flops"] > 0) for row in first[0])
    assert all((row["evaluation_flops"] > 0) is (row["step"] > 0) for row in second[0])
    assert torch.equal(alone[1], second[1]) and not torch.equal(first[1], second[1])
    strip = [
        [{key: value for key, value in row.items() if key != "total_seconds"} for row in rows if row["step"]]
        for rows, _ in (alone, second)
    ]
    assert strip[0] == strip[1]
    lines = [read_run(tmp_path / name / "run").steps[-1] for name in ("alone", "second")]
    assert lines[0]["flops/total"] == lines[1]["flops/total"] and lines[0]["flops/evaluation"] > lines[1]["flops/evaluation"]


class Weightless(torch.nn.Module):
    device, config = "cpu", SimpleNamespace(_attn_implementation="eager")


def leave_many(folder, barrier, failures) -> None:
    """Leave the same rows as another process, at the same time."""
    try:
        for number in range(300):
            barrier.wait(60)
            rows = StartEvaluations(folder, Weightless()).rows(str(number), lambda: [{"log2_pass_rate": -1.5}])
            assert rows == [{"log2_pass_rate": -1.5}]
    except BaseException as error:
        failures.put(repr(error))
        barrier.abort()
        raise


def test_two_runs_may_leave_the_same_at_the_same_time(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, failures = context.Barrier(2), context.Queue()
    both = [context.Process(target=leave_many, args=(tmp_path, barrier, failures)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0], failures.get(timeout=5)
    assert len(list(tmp_path.iterdir())) == 300


def test_another_model_another_question_and_another_arm_are_told_apart(base_model, tmp_path):
    kept = tmp_path / "kept"
    other = copy.deepcopy(base_model[0])
    with torch.no_grad():
        other.get_input_embeddings().weight[5, 0] += 1e-3
    one = {"heldout": BARE[:8]}
    trained(sft_trainer, base_model, tmp_path / "a", kept=kept, sets=one)
    first = next(kept.iterdir()).read_bytes()
    rows, _ = trained(sft_trainer, (other, base_model[1]), tmp_path / "b", kept=kept, sets=one)
    assert len(list(kept.iterdir())) == 2 and rows[0]["evaluation_flops"] > 0
    trained(sft_trainer, base_model, tmp_path / "c", kept=kept, sets={"heldout": BARE[1:9]})
    trained(sft_trainer, base_model, tmp_path / "d", kept=kept, sets={"heldout": SIGNED[:8]})
    assert len(list(kept.iterdir())) == 4
    trained(sft_trainer, base_model, tmp_path / "e", kept=kept, sets=one)
    other = copy.deepcopy(base_model[0])
    same = digest_of(other)
    other.set_attn_implementation("sdpa")
    assert digest_of(base_model[0]) == same != digest_of(other)
    assert len(list(kept.iterdir())) == 4 and first in [path.read_bytes() for path in kept.iterdir()]
