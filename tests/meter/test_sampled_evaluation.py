"""Where several answers pass, held-out pass rates come from rollouts: they are right, change nothing, and are told as what they are."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import BASE
from made_runs import make_run
from scipy import stats
from test_dataset import jsonl
from test_flops import torch_counter
from test_meter import metered, rl_trainer, sft_trainer
from test_real_models import ran

from bitsample_llm.estimators import wilson_interval
from bitsample_llm.meter.evaluator import EvaluationRollouts, scored_rows
from bitsample_llm.meter.heldout import HeldOut, state_of
from bitsample_llm.records import RecordError, read_run
from bitsample_llm.report import columns
from bitsample_llm.report.command import report
from bitsample_llm.report.runs import arms_of, measured_run
from bitsample_llm.report.sampled import interval_over_problems, sampled_sentences
from bitsample_llm.report.tables import sampled_table
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import exact_pass_rates
from bitsample_llm.tasks import Problem, load_task
from bitsample_llm.tasks.dataset_task import DatasetTask

BARE = load_task("addition", "reversed", difficulty=2, mark="C").problems("heldout", 32, seed=0)
# the reference has a sign, which the model never writes: its own form passes as well
SIGNED = [Problem(problem.problem_id, problem.prompt, f"+{problem.answer}", 2, verifier="numeric") for problem in BARE]
TASK = DatasetTask("signed", SIGNED)


def trainer_of(base_model):
    """As much of a trainer as an evaluation needs."""
    model, tokenizer = base_model
    return SimpleNamespace(accelerator=Accelerator(cpu=True), model=model, processing_class=tokenizer)


def weights(trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def evals(folder) -> list[dict]:
    return read_run(folder / "run").table("evals").to_pylist()


def test_the_share_of_rollouts_that_pass_is_the_probability_of_what_passes(base_model):
    known_P = exact_pass_rates(*base_model, BARE)  # other forms of a number have next to no probability here
    rows = scored_rows(
        trainer_of(base_model), SIGNED, AnswerEnd.of(*base_model), EvaluationRollouts(TASK, per_problem=64, max_tokens=6)
    )
    passed_P = np.array([row["num_passed"] for row in rows])
    assert {row["num_rollouts"] for row in rows} == {64} and {row["log2_pass_rate"] for row in rows} == {None}
    chi_square = ((passed_P - 64 * known_P) ** 2 / (64 * known_P * (1 - known_P))).sum()
    assert stats.chi2.ppf(0.001, len(rows)) < chi_square < stats.chi2.ppf(0.999, len(rows))
    for row in rows:
        assert (row["pass_rate_low"], row["pass_rate_high"]) == wilson_interval(row["num_passed"], 64)
    inside = [row["pass_rate_low"] <= p <= row["pass_rate_high"] for row, p in zip(rows, known_P, strict=True)]
    assert np.mean(inside) > 0.8
    low, high = interval_over_problems(passed_P / 64, 64 * len(rows))
    assert low < known_P.mean() < high
    # the reference itself: the number that was taken for the pass rate
    assert max(row["reference_log2_probability"] for row in rows) < -10 < math.log2(known_P.min())
    assert state_of(0.0, rows).log2_pass_rate == pytest.approx(math.log2(passed_P.sum() / (64 * len(rows))))


def test_one_answer_that_passes_has_its_exact_rate_and_no_rollouts(base_model):
    rows = scored_rows(trainer_of(base_model), BARE, AnswerEnd.of(*base_model))
    assert [2 ** row["log2_pass_rate"] for row in rows] == pytest.approx(list(exact_pass_rates(*base_model, BARE)))
    assert all(row["reference_log2_probability"] == pytest.approx(row["log2_pass_rate"]) for row in rows)
    assert not any("num_rollouts" in row for row in rows)


@pytest.mark.parametrize("make", [sft_trainer, rl_trainer])
def test_weights_rollouts_and_training_flops_are_those_without_the_evaluation(base_model, tmp_path, make):
    found = {}
    for name, sets in (("with", {"heldout": SIGNED}), ("without", {})):
        trainer = make(base_model, tmp_path / name, max_steps=3)
        for module in trainer.model.modules():  # chance in the forward pass too, so that a moved random state would show
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.1
        evaluation = HeldOut(sets, [1.0, 1e9, 2e9, 3e9, 4e9], TASK, max_tokens=6) if sets else None
        meter = metered(trainer, tmp_path / name, evaluation=evaluation)
        with torch_counter() as true:
            trainer.train()
        run = read_run(tmp_path / name / "run")
        found[name] = SimpleNamespace(weights=weights(trainer), run=run, meter=meter)
        counted = meter.total_flops + meter.cumulative["flops/evaluation"]
        assert counted == pytest.approx(true.get_total_flops(), rel=0.02)
    first, second = found["with"], found["without"]
    assert torch.equal(first.weights, second.weights)
    cost_by_step = {row["step"]: row["evaluation_flops"] for row in evals(tmp_path / "with")}
    assert len(cost_by_step) > 2
    spent = first.meter.cumulative["flops/evaluation"] - second.meter.cumulative["flops/evaluation"]
    assert sum(cost_by_step.values()) == pytest.approx(spent)
    assert first.meter.total_flops == second.meter.total_flops
    texts = [
        [(row["step"], row["problem_id"], row["text"]) for row in f.run.table("rollouts").to_pylist()] for f in (first, second)
    ]
    assert texts[0] == texts[1]
    totals = ("samples/total", "tokens/completion", "flops/decode", "flops/prefill")
    assert all(first.run.steps[-1][key] == second.run.steps[-1][key] for key in totals)


def test_draws_are_alike_for_all_arms_and_seeds(base_model, tmp_path):
    counts = []
    for name, make, seed in (("sft", sft_trainer, 1), ("grpo", rl_trainer, 2)):
        trainer = make(base_model, tmp_path / name, seed=seed, max_steps=1)
        evaluation = HeldOut({"heldout": SIGNED}, task=TASK, num_rollouts=16, max_tokens=6)
        metered(trainer, tmp_path / name, evaluation=evaluation)
        trainer.train()
        counts.append([row["num_passed"] for row in evals(tmp_path / name) if row["step"] == 0])
    assert counts[0] == counts[1] and 0 < sum(counts[0]) < 16 * len(SIGNED)


def test_without_a_judge_pass_rates_are_null_and_one_line_says_so(base_model, tmp_path, capsys):
    trainer = sft_trainer(base_model, tmp_path, max_steps=1)
    metered(trainer, tmp_path, with_verifier=False, evaluation=HeldOut({"heldout": SIGNED}))
    trainer.train()
    assert capsys.readouterr().err.count("held-out pass rates are null: pass HeldOut(..., task=...)") == 1
    assert {(row["num_rollouts"], row["log2_pass_rate"]) for row in evals(tmp_path)} == {(None, None)}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with a run of each recipe on signed sums."""
    folder = tmp_path_factory.mktemp("recorded")
    task = load_task("addition", "reversed", difficulty=2, mark="C")
    problems = task.problems("train", 150, seed=0)
    source = jsonl(folder / "sums.jsonl", [{"prompt": p.prompt, "answer": f"+{p.answer}"} for p in problems])
    shared = {"dataset": source, "verifier": "numeric", "num_train_problems": 64, "num_heldout_problems": 16}
    recipes = {"sft": {"max_eval_tokens": 6}, "grpo": {"max_completion_length": 6}}
    for name, options in recipes.items():
        with pytest.MonkeyPatch.context() as patch:
            ran(patch, name, BASE, folder / "runs" / name, max_steps=4, num_eval_rollouts=4, **shared | options)
    return folder / "runs"


def test_recipes_draw_what_was_asked_for(recorded):
    for name in ("sft", "grpo"):
        run = read_run(recorded / name)
        assert run.manifest["evaluation_rollouts"] == {"per_problem": 4, "max_tokens": 6}
        assert {row["num_rollouts"] for row in run.table("evals").to_pylist()} == {4}
        assert run.steps[-1]["flops/evaluation"] > 0


def test_the_report_tells_rollouts_and_never_says_exact(recorded, tmp_path, capsys):
    report(arguments=[str(recorded), "--output_dir", str(tmp_path)])
    told = capsys.readouterr().out + "".join(
        (tmp_path / name).read_text() for name in ("report.html", "summary.md", "results.json")
    )
    assert "exact" not in told.lower()
    assert "pass rate before (from 4 rollouts per problem)" in told and "surprisal of the reference answer" in told
    for result in (measured_run(read_run(recorded / name)) for name in ("sft", "grpo")):
        rows = [row for row in result.run.table("evals").to_pylist() if row["split"] == "heldout"]
        before, after = (sum(row["num_passed"] for row in rows if row["step"] == step) for step in (0, 4))
        assert (
            result.value(columns.PASS_RATE_BITS) == result.value(columns.ABSORBED_BITS) == pytest.approx(math.log2(after / before))
        )
        assert result.value(columns.ABSORBED_MEDIAN) is None and result.value(columns.SURPRISAL_BEFORE) is None


def counted_run(folder, arm: str, passes: list[list[int]], rollouts: int = 8):
    """A run whose held-out problems pass so many times at each evaluation; their reference answer loses half a bit a step."""
    return make_run(folder, "base", arm, "sft", 1, -0.5, steps=len(passes) - 1, counts=(passes, rollouts))


def test_bits_are_those_of_the_mean_pass_rate(tmp_path):
    value = counted_run(tmp_path, "sft", [[0, 1, 2, 1], [1, 2, 3, 2], [4, 4, 4, 4]]).value
    assert (value(columns.PASS_RATE_BEFORE), value(columns.PASS_RATE_AFTER)) == (4 / 32, 16 / 32)
    assert value(columns.ABSORBED_BITS) == value(columns.PASS_RATE_BITS) == pytest.approx(2.0)
    assert value(columns.FLOPS_TO_TARGET) == pytest.approx(1e12)  # at the first step: 8 of 32 for 4 of 32
    assert value(columns.RATE_BEFORE_SATURATION) == pytest.approx(1.5 / (1e12 * (1 + 0.5)) * 1e15)  # half of the 3 bits there are
    assert (value(columns.REFERENCE_SURPRISAL_BEFORE), value(columns.REFERENCE_SURPRISAL_AFTER)) == (4.0, 5.0)


def test_bits_without_a_pass_are_null_and_counted(tmp_path):
    results = [
        counted_run(tmp_path, "never", [[0, 0, 0, 0], [0, 1, 0, 0], [1, 2, 3, 2]]),
        counted_run(tmp_path, "lost", [[1, 2, 3, 2], [2, 2, 2, 2], [0, 0, 0, 0]]),
        counted_run(tmp_path, "between", [[1, 1, 1, 1], [0, 0, 0, 0], [2, 2, 2, 2]]),
    ]
    assert [result.value(columns.PASS_RATE_BITS) for result in results] == [None, None, pytest.approx(1.0)]
    assert [result.value(columns.CURVE_SCORE) for result in results] == [None, None, None]
    assert results[0].value(columns.ABSORBED_PER_PETAFLOP) is None and results[0].value(columns.FLOPS_TO_TARGET) is None
    arms = arms_of(results)
    assert "In 3 of 9 evaluations no rollout passed" in " ".join(sampled_sentences(arms))
    heading, *rows = sampled_table(arms).rows
    column = heading.index("evaluations without a pass")
    assert {row[1]: row[column] for row in rows} == {"never": "1 of 3", "lost": "1 of 3", "between": "1 of 3"}
    report(arguments=[str(tmp_path), "--output_dir", str(tmp_path / "report")])  # figures and tables bear what is null


def test_where_all_rollouts_agree_the_interval_has_a_width():
    assert interval_over_problems(np.zeros(10), 80) == wilson_interval(0, 80)
    low, high = interval_over_problems(
        np.array([0.0, 1.0] * 50), 800
    )  # what differs is the problems: a binomial of 100, not of 800
    assert high - low == pytest.approx(2 * 1.96 * 0.05, rel=0.1)


def test_exact_and_sampled_runs_are_not_mixed(tmp_path, capsys):
    sampled = counted_run(tmp_path, "sampled", [[1, 1, 1, 1], [2, 2, 2, 2]])
    exact = make_run(tmp_path, "base", "exact", "sft", 1, 0.5)
    with pytest.raises(RecordError, match="make one report of each kind"):
        arms_of([exact, sampled])


def test_a_record_of_the_reference_answer_alone_is_refused(tmp_path):
    facts = {"data": {"pass_rates": "not exact: several answers pass, and the probability recorded is of the reference answer"}}
    with pytest.raises(RecordError, match="has no held-out pass rates, only the probability of one of several answers"):
        make_run(tmp_path, "base", "sft", "sft", 1, 0.5, facts=facts)
