"""The study of remarks: its trainer, what its starts are asked, and runs whose prices and paths are known."""

import itertools
import json
import math
import runpy
import sys

import numpy as np
import pytest
from conftest import REPOSITORY

from bitsample_llm.records import read_run
from bitsample_llm.report import remedies
from bitsample_llm.report.paths import OptimizerPath, pack_paths
from bitsample_llm.report.prices import PricedRun, pack_prices
from bitsample_llm.tasks.remarks import KINDS, remark
from eval.studies.remarks.__main__ import TOLD_FILE, read, remarks_study
from eval.studies.remarks.claims import SPOKEN, bits_exponent
from eval.studies.remarks.make_remarked import RemarksInContext
from eval.studies.remarks.make_told import ideal_bits

P, RATE = math.log2(0.01), 3e-4
BITS = dict(zip(KINDS, (0.5, 1.0, 4.0, 16.0), strict=True))
GFLOP_PER_UPDATE = {"read_verdict": 1.6, "read_place": 0.8, "read_place_and_digit": 0.2, "read_answer": 0.2, "place_and_digit": 0.1}


def made_run(model: str, arm: str, seed: int) -> tuple[PricedRun, OptimizerPath]:
    """A run that has half of the bits after ten updates, at FLOPs of its arm."""
    flops = np.array([0.0, *np.geomspace(1e8, 6e10, 60)])
    live = flops / (1e9 * GFLOP_PER_UPDATE.get(arm, 1.0))
    log2_p = P * (1 - np.minimum(0.5 * live / 10 * (1 + 0.01 * seed), 0.97))
    about = {"tags": {"rung": "latent G", "model": model, "reason": "latent"}, "settings": {"learning_rate": RATE}}
    state = {"log2_p": log2_p.tolist(), "pass_rate": (2**log2_p).tolist(), "kl_bits": [1.0] * 61, "gains_elsewhere": {}}
    amounts = {"updates": live.tolist(), "samples": live.tolist(), "flops": flops.tolist()}
    run = PricedRun(f"latent G {model}", arm, seed, log2_p_before=[P] * 4, flop_budget=6e10, **about, **amounts, **state)
    return run, OptimizerPath("latent G", model, arm, seed, [round(value) for value in live], {"decode": 1.0}, 100, [[P]] * 4)


def test_the_page_tells_what_is_told_from_how_it_is_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(remedies.factor, "__defaults__", (0, 300))  # draws of a bootstrap
    runs, paths = zip(*(made_run(*cell) for cell in itertools.product(["a", "b"], SPOKEN, [1, 2])), strict=True)
    pack_prices(runs, tmp_path)
    pack_paths(paths, tmp_path)
    read_bits = {
        kind: dict.fromkeys(("p_right", "log2_p_right", "at_error", "ideal"), 0.1) | {"in_context": BITS[kind]} for kind in KINDS
    }
    told = [{"rung": "latent G", "model": model, "bare": 0.01, "offered": BITS, "remarks": read_bits} for model in "ab"]
    (tmp_path / TOLD_FILE).write_text("".join(json.dumps(line) + "\n" for line in told))
    found = read([str(tmp_path)])
    assert bits_exponent(found, "latent G", "place", "place_and_digit").mean == pytest.approx(1.0, abs=0.05)
    assert bits_exponent(found, "latent G", "place_and_digit", "answer").mean == pytest.approx(0.0, abs=0.05)
    page = remarks_study(found, "a command")
    verdicts = {claim.text: claim.verdict for claim in page.claims}
    assert verdicts["Learned in one way, do FLOPs fall as bits rise, from place to digit (4 times the bits)?"] == "yes"
    assert (
        verdicts["Learned in one way, do FLOPs fall as bits rise, from digit to answer (4 times the bits)?"]
        == "no, less than the bits"
    )
    assert verdicts["Does it matter how it is learned: digit?"] == "yes, reading is dearer"
    assert verdicts["Does it matter how it is learned: place?"] == "no, within 1.5"
    for picture in page.all_pictures:
        picture.draw().savefig(tmp_path / f"{picture.name}.png")
    assert all(len(row) == len(table.rows[0]) for table in (page.table, *page.tables) for row in table.rows)


def test_a_perfect_reader_is_told_what_the_bare_prediction_lacks():
    bare_KV = np.log2(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))  # of two tokens after what was written; 0 and 1 are right
    assert [ideal_bits(kind, bare_KV, [0, 2], [0, 1], 1) for kind in KINDS] == pytest.approx(
        [-math.log2(1 - 0.4), 1 - math.log2(0.2), 1 + math.log2(10), 1 + math.log2(10)]
    )
    assert ideal_bits("place", bare_KV, [0, 2], [0, 2], None) == pytest.approx(-math.log2(0.4))
    assert ideal_bits("answer", bare_KV, [1, 1], [0, 1], 0) == pytest.approx(1 + math.log2(10))


@pytest.mark.parametrize("kind", ["verdict", "place_and_digit"])
def test_the_teacher_reads_the_remark_on_the_rollout_that_it_judges(monkeypatch, tmp_path, kind):
    seen = []
    prepare = RemarksInContext._prepare_training_batch

    def watched(self, inputs):
        batch = prepare(self, inputs)
        seen.append((self, [dict(example) for example in inputs], batch))
        return batch

    program = REPOSITORY / "eval" / "studies" / "remarks" / "make_remarked.py"
    options = {
        "mark": "G",
        "difficulty": 2,
        "answer_format": "reversed",
        "num_train_problems": 32,
        "num_heldout_problems": 8,
        "remark": kind,
    }
    options |= {
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "num_generations": 2,
        "save_strategy": "no",
        "disable_tqdm": "true",
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(
        sys, "argv", [str(program), "--config", str(program.with_suffix(".yaml")), "--output_dir", str(tmp_path / "run"), *words]
    )
    monkeypatch.chdir(REPOSITORY)
    module = runpy.run_path(str(program))
    monkeypatch.setattr(module["RemarksInContext"], "_prepare_training_batch", watched, raising=False)
    module["main"]()
    run, rollouts = read_run(tmp_path / "run"), read_run(tmp_path / "run").table("rollouts").to_pylist()
    assert run.steps[-1]["flops/score_reference"] > 0 and len(rollouts) == 24 and len(seen) == 3
    for place, rollout in enumerate(rollouts):
        trainer, inputs, batch = seen[place // 8]
        row = place % 8
        right = trainer.verifier.problem_by_id[inputs[row]["problem_id"]].answer
        said = (
            trainer.verifier.problem_by_id[rollout["problem_id"]].prompt
            + rollout["text"]
            + remark(kind, rollout["text"], right, rollout["ended"])
        )
        num_written = batch["completion_ids"].shape[1]
        read_ids, read_mask = batch["teacher_input_ids"][row], batch["teacher_attention_mask"][row].bool()
        assert trainer.processing_class.decode(read_ids[:-num_written][read_mask[:-num_written]]) == said
        assert read_ids[-num_written:].tolist() == batch["completion_ids"][row].tolist()
