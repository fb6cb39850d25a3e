"""What is no number is null in the records, ends no training, and is said in the summary."""

import json
import math

import pytest
import torch
from test_meter import PROBLEMS, TASK, metered, sft_trainer
from transformers import Trainer

from bitsample_llm import InformationMeter
from bitsample_llm.meter.heldout import HeldOut
from bitsample_llm.meter.labels import surprisal_bits_of
from bitsample_llm.records import RecordError, read_run
from bitsample_llm.records.writer import finite
from bitsample_llm.report.runs import evaluated_curve
from bitsample_llm.report.summary import summary_lines
from bitsample_llm.scoring.likelihood import exact_pass_rates, scored_answers


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def test_a_training_that_diverges_is_recorded_to_its_end_with_null_for_what_is_no_number(base_model, tmp_path):
    trainer = sft_trainer(base_model, tmp_path, learning_rate=float("inf"), save_strategy="steps", save_steps=2)
    sets = {"heldout": TASK.problems("heldout", 4, seed=0)}
    metered(trainer, tmp_path, evaluation=HeldOut(sets), manifest={"config": {"learning_rate": float("inf")}})
    trainer.train()
    run = read_run(tmp_path / "run")
    for path in (run.run_dir / "steps.jsonl", run.run_dir / "manifest.json"):
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(text, parse_constant=refuse_constant)
    assert run.manifest["state"] == "finished" and run.manifest["config"] == {"learning_rate": None}
    first, *others = run.steps
    assert first["train/loss"] > 0 and first["bits/offered_total"] == pytest.approx(8 * first["bits/offered_per_sample"])
    assert len(others) == 3
    for line in others:
        assert line["train/learning_rate"] is line["train/loss"] is line["bits/offered_per_sample"] is None
        assert line["bits/offered_total"] is line["bits/offered_per_petaflop"] is line["bits/surprisal_per_sample"] is None
        assert line["flops/total"] == pytest.approx(line["step"] * first["flops/total"])
    rows = run.table("prompts").to_pylist()
    assert len(rows) == 4 * 8 and all((row["offered_bits"] is None) is (row["step"] > 1) for row in rows)
    evals = run.table("evals").to_pylist()
    assert len(evals) == 2 * 4
    for row in evals:
        assert (row["log2_pass_rate"] is None) is (row["update_norm"] is None) is (row["step"] > 0)
        assert (None in row["token_log2_probabilities"]) is (row["step"] > 0)
    assert "  diverged: train/loss was not finite from step 2 on, what it makes unknown is null" in summary_lines(run)
    with pytest.raises(RecordError, match="diverged: at step 4"):
        evaluated_curve(run, "heldout")


def test_a_total_that_is_unknown_stays_unknown_after_a_resume(base_model, tmp_path):
    options = {"learning_rate": float("inf"), "save_strategy": "steps", "save_steps": 2}
    trainer = sft_trainer(base_model, tmp_path, **options, max_steps=2)
    meter = metered(trainer, tmp_path)
    meter.on_train_end = lambda *args, **kwargs: None  # as a kill leaves it
    trainer.train()
    trainer = sft_trainer(base_model, tmp_path, **options, resume_from_checkpoint="last")
    metered(trainer, tmp_path)
    trainer.train(resume_from_checkpoint=True)
    lines = read_run(tmp_path / "run").steps
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["bits/offered_total"] is None for line in lines] == [False, True, True, True]
    assert lines[-1]["samples/total"] == 4 * 8


def test_a_pass_rate_of_a_model_that_has_diverged_is_unknown_and_not_one(base_model, tmp_path):
    model, tokenizer = sft_trainer(base_model, tmp_path).model, base_model[1]
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    (score,) = scored_answers(model, tokenizer, PROBLEMS[:1])
    assert score.pass_rates(PROBLEMS[0]) == {}
    assert math.isnan(exact_pass_rates(model, tokenizer, PROBLEMS[:1])[0])


def test_surprisal_of_what_is_no_number_is_no_zero():
    assert math.isnan(surprisal_bits_of(math.nan))
    assert surprisal_bits_of(1e-9) == 0.0 and surprisal_bits_of(-math.log(2)) == pytest.approx(1.0)
    assert finite([math.nan, -math.inf, 2.5, 3, "inf", True, None]) == [None, None, 2.5, 3, "inf", True, None]


def test_a_trainer_that_learns_from_something_else_is_refused_before_anything_of_it_is_read(tmp_path):
    with pytest.raises(TypeError, match="and not what a Trainer learns from"):
        InformationMeter(Trainer.__new__(Trainer), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_summary_tells_totals_from_the_last_step(base_model, tmp_path):
    trainer = sft_trainer(base_model, tmp_path, max_steps=2)
    metered(trainer, tmp_path)
    trainer.train()
    lines = summary_lines(read_run(tmp_path / "run"))
    whole, last = lines.index("whole run"), lines.index("last step (2), mean over its samples")
    keys = [[line.split()[0] for line in part] for part in (lines[whole + 1 : last], lines[last + 1 :])]
    assert keys[0] == [
        "samples/total",
        "bits/offered_total",
        "bits/offered_per_petaflop",
        "flops/total",
        "flops/lost",
        "seconds/total",
        "flops/train_forward",
        "flops/train_backward",
    ]
    assert keys[1] == ["bits/offered_per_sample", "bits/surprisal_per_sample"]
    assert not any("diverged" in line for line in lines)
