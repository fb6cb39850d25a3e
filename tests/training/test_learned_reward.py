"""A judge of steps: what it reads, what it learns, and recipes whose reward it gives."""

import json

import pytest
import torch
from conftest import BASE
from test_processes import launched
from test_real_models import ran

from bitsample_llm.flops import forward_flops
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.records import RecordError, read_run
from bitsample_llm.scoring.likelihood import encode_answer
from bitsample_llm.tasks import Step, load_task
from bitsample_llm.training.learned_reward import (
    BATCH,
    FIRST_UPDATES,
    LATER_UPDATES,
    JudgeArguments,
    LearnedVerifier,
    StepJudge,
    judged_verdict,
)

TASK = load_task("addition", "reversed", difficulty=2, mark="E")
PROBLEMS = TASK.problems("train", 8, seed=0)


def told_judge(num: int = 40) -> StepJudge:
    """Of rollouts of three steps whose first feature says whether a step is right; the last feature never varies."""
    torch.manual_seed(0)
    judge = StepJudge(4, "cpu")
    correct = (torch.rand(num, 3) < 0.3).float()
    features = torch.randn(num, 3, 4)
    features[..., 0], features[..., 3] = 6 * correct - 3, 7.0
    judge.tell(list(features), list(correct))
    return judge


def test_the_judge_learns_what_tells_and_finds_nothing_right_before():
    judge, steps = told_judge(), torch.tensor([[3.0, 0, 0, 7], [-3.0, 0, 0, 7]])
    assert judge.probabilities(steps).tolist() == [0, 0] and judge.flops == 0
    judge.learn(4 * FIRST_UPDATES)
    assert judge.flops == 6 * BATCH * 4 * 4 * FIRST_UPDATES
    right, wrong = judge.probabilities(steps).tolist()
    assert right > 0.7 and wrong < 0.2
    assert judge.flops == 6 * BATCH * 4 * 4 * FIRST_UPDATES + 2 * 2 * 4


def test_a_saved_judge_goes_on_as_it_would_have(tmp_path):
    first, second = told_judge(), StepJudge(4, "cpu")
    first.learn(20)
    first.save(tmp_path)
    second.load(tmp_path)
    for judge in (first, second):
        judge.tell([torch.ones(2, 4)], [torch.tensor([1.0, 0.0])])
        judge.learn(LATER_UPDATES)
    assert torch.equal(first.head.weight, second.head.weight) and first.num_told == second.num_told == 41
    assert torch.equal(first.probabilities(torch.ones(1, 4)), second.probabilities(torch.ones(1, 4)))
    with pytest.raises(RecordError, match="of a run without a learned reward"):
        second.load(tmp_path / "elsewhere")


def test_a_rollout_passes_if_all_of_its_steps_are_judged_right():
    steps = [Step(0, 1, False), Step(1, 1, True)]
    assert judged_verdict(steps, [True, True]).passed
    verdict = judged_verdict(steps, [False, True])
    assert not verdict.passed and [(s.start, s.end, s.correct) for s in verdict.steps] == [(0, 1, False), (1, 1, True)]


def test_the_judge_reads_the_start_where_each_step_ends(base_model):
    model, tokenizer = base_model
    verifier = RolloutVerifier(TASK, PROBLEMS, tokenizer)
    learned = LearnedVerifier(verifier, model, JudgeArguments(judge_rollouts=8))
    ids = [encode_answer(tokenizer, problem) for problem in PROBLEMS[:3]]
    answers = [answer_ids for _, answer_ids in ids]
    answers[1] = answers[1][:-1]  # does not end: its end is read where it was cut off
    assert not any(verdict.passed for _, _, verdict in learned.judged([p.problem_id for p in PROBLEMS[:3]], answers))
    for row, (prompt_ids, _) in enumerate(ids):
        hidden = model(torch.tensor([prompt_ids + answers[row]]), output_hidden_states=True).hidden_states
        of_tokens_TH = torch.cat([of_layer[0] for of_layer in hidden], dim=1)[len(prompt_ids) :]
        places = [*range(len(answers[row])), *([-1] if row == 1 else [])]
        assert torch.allclose(learned.features[row], of_tokens_TH[places], atol=1e-4)
        assert len(learned.features[row]) == len(learned.exact[row][2].steps)
    assert learned.exact[0][2].passed and not learned.exact[1][2].passed
    assert learned.start is not model and not any(p.requires_grad for p in learned.start.parameters())


OPTIONS = {
    **{"answer_format": "reversed", "difficulty": 2, "mark": "E", "num_train_problems": 64, "num_heldout_problems": 4},
    **{"max_completion_length": 4, "per_device_train_batch_size": 16, "num_generations": 8, "learning_rate": 3e-4},
    **{"reward": "first_error", "judge_rollouts": 40, "disable_tqdm": "true", "skip_dead_updates": "true"},
}


def judged_lines(run) -> list[dict]:
    return [json.loads(line) for line in (run.run_dir / "judge.jsonl").read_text().splitlines()]


def test_rollouts_that_teach_the_judge_earn_nothing_and_later_ones_what_it_says(monkeypatch, tmp_path, base_model):
    run = ran(monkeypatch, "grpo", BASE, tmp_path / "run", max_steps=8, **OPTIONS)
    rows = run.table("rollouts").to_pylist()
    early, late = ([row for row in rows if (row["step"] <= 3) == is_early] for is_early in (True, False))
    assert not any(row["reward"] for row in early) and any(row["passed"] for row in early)  # 48 of 16 each were judged
    assert any(row["reward"] for row in late) and {row["reward"] for row in late} <= {0.0, 1.0}
    assert sum(row["reward"] == row["passed"] for row in late) > 0.5 * len(late)
    assert all(step["flops/train_forward"] == 0 for step in run.steps[:3]) and run.steps[-1]["flops/train_forward"] > 0
    assert run.steps[-1].get("bits/offered_total") in (0, None)  # a judgement is no verdict
    lines = judged_lines(run)
    assert [line["told"] for line in lines] == [16, 32, 48] + [48] * 5
    assert all("steps" not in line for line in lines[:3])
    for line in lines[3:]:
        assert sum(line["steps"]) == sum(row["num_steps"] for row in rows if row["step"] == line["step"])
        assert all(0 <= right <= num for right, num in zip(line["right"], line["steps"], strict=True))
        of_step = [row for row in rows if row["step"] == line["step"]]
        true = [row["num_correct_before_first_error"] / row["num_steps"] for row in of_step]
        assert line["true_prefix"] == pytest.approx(sum(true) / len(true), abs=1e-3)
        assert line["judged_prefix"] >= sum(row["reward"] for row in of_step) / len(of_step) - 1e-3
    model, tokenizer = base_model
    first = [row for row in rows if row["step"] == 1]
    length = 8 + max(row["num_tokens"] for row in first)  # a prompt has eight tokens at two digits, with the mark
    prompt = len(tokenizer(TASK.problem(12, 34).prompt)["input_ids"])
    length = prompt + max(row["num_tokens"] for row in first)
    read = forward_flops(model.config, 16 * length, length, output_tokens=16)
    assert run.steps[0]["flops/reward_model"] == pytest.approx(read, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"judge_share": 0.25}, {"reward": "process_sum", "trainer": "rloo"}, {"use_peft": "true", "judge_rollouts": 20}],
    ids=str,
)
def test_a_run_with_a_judge_resumes(monkeypatch, tmp_path, options):
    options = OPTIONS | options | {"save_strategy": "steps", "save_steps": 2}
    whole = ran(monkeypatch, "grpo", BASE, tmp_path / "whole", max_steps=6, **options)
    ran(monkeypatch, "grpo", BASE, tmp_path / "cut", max_steps=5, **options)
    manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
    (tmp_path / "cut" / "manifest.json").write_text(json.dumps(manifest | {"state": "running"}))
    resumed = {"resume_from_checkpoint": tmp_path / "cut" / "checkpoints" / "checkpoint-2"}
    cut = ran(monkeypatch, "grpo", BASE, tmp_path / "cut", max_steps=6, **resumed, **options)
    texts = [[(row["text"], row["reward"]) for row in run.table("rollouts").to_pylist()] for run in (whole, cut)]
    assert len(texts[0]) == 6 * 16 and texts[0] == texts[1]
    assert judged_lines(whole) == judged_lines(cut)


@pytest.mark.slow
def test_two_processes_learn_one_judge(tmp_path):
    options = {"num_generations": 64, "judge_rollouts": 64, "judge_share": 0.25, "reward": "first_error"}
    run, _ = launched("grpo", "two_cpus", tmp_path / "two", **options)
    assert read_run(tmp_path / "two").manifest["state"] == "finished"
    assert [line["told"] for line in judged_lines(run)] == [64, 80, 96]
    rows = run.table("rollouts").to_pylist()
    assert (
        len(rows) == 3 * 64
        and any(line["judged_prefix"] > 0 for line in judged_lines(run)[1:])
        and run.steps[-1]["flops/reward_model"] > 0
    )


@pytest.mark.slow
def test_shuffled_verdicts_teach_nothing(monkeypatch, tmp_path):
    options = OPTIONS | {"judge_verdicts": "shuffled", "max_steps": 12, "judge_rollouts": 128, "learning_rate": 0}
    counts = {}
    for verdicts in ("exact", "shuffled"):
        lines = judged_lines(ran(monkeypatch, "grpo", BASE, tmp_path / verdicts, **options | {"judge_verdicts": verdicts}))[8:]
        right, steps = (
            [sum(line[name][place] for line in lines for place in half) for half in (range(5), range(5, 10))]
            for name in ("right", "steps")
        )
        counts[verdicts] = right[1] / max(steps[1], 1) - right[0] / steps[0]  # how much more often right where judged right
    assert counts["exact"] > 0.6 > abs(counts["shuffled"]) + 0.2


@pytest.mark.slow
def test_credit_for_steps_may_skip_batches_without_an_advantage(monkeypatch, tmp_path):
    options = OPTIONS | {"judge_rollouts": 0, "max_steps": 3, "mark": "A"}  # hardly ever wrong
    run = ran(monkeypatch, "grpo", BASE, tmp_path / "run", **options)
    assert all(row["passed"] for row in run.table("rollouts").to_pylist()) and run.steps[-1]["flops/train_forward"] == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"judge_share": 0.5}, "pass --judge_rollouts above 0"),
        ({"judge_verdicts": "shuffled"}, "pass --judge_rollouts above 0"),
        ({"judge_rollouts": -1}, "--judge_rollouts must be at least 0"),
        ({"judge_rollouts": 8, "judge_share": 1.5}, "--judge_share must be"),
        ({"judge_rollouts": 8, "reward": "random"}, "a --reward that is made of verdicts"),
        ({"judge_rollouts": 8, "trainer": "rejection"}, "needs --trainer grpo or rloo"),
        ({"judge_rollouts": 8, "selection": "thompson"}, "--judge_rollouts and --selection do not go together"),
        ({"judge_rollouts": 8, "stop_at_low_value": "true"}, "--stop_at_low_value and --judge_rollouts do not go together"),
        ({"judge_rollouts": 8, "stop_at_first_error": "true"}, "--stop_at_first_error and --judge_rollouts do not go together"),
    ],
)
def test_what_no_judge_can_do_is_told_in_one_line(recipe, tmp_path, options, told):
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    done = recipe("grpo", *words, "--num_train_problems", 64, "--num_heldout_problems", 4, "--output_dir", tmp_path / "run")
    assert done.returncode in (1, 2)
    assert told in done.stderr and done.stderr.count("\n") == 1, done.stderr[-500:]
