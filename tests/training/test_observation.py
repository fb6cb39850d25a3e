"""Told more than a verdict: which label is made of it, its gradient, what the record says and charges, resumes, two processes, and what does not go together."""

import copy
import json

import numpy as np
import pytest
import torch
from conftest import BASE
from datasets import Dataset
from test_flops import torch_counter
from test_meter import SHARED
from test_processes import launched
from test_real_models import ran
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from bitsample_llm import InformationMeter
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.tasks import load_task
from bitsample_llm.training.objectives import skipping_dead_updates
from bitsample_llm.training.observation import TOLD, label_of, learning_from_observation
from bitsample_llm.training.rewards import VerdictReward

OPTIONS = {
    "mark": "C",
    "difficulty": 2,
    "answer_format": "reversed",
    "num_train_problems": 64,
    "num_heldout_problems": 8,
    "max_steps": 3,
    "disable_tqdm": "true",
}
BATCH = {"per_device_train_batch_size": 16, "num_generations": 2, "max_completion_length": 5, "learning_rate": 1e-4}
EOS, RIGHT = 1, [4, 7, 5, 1]


@pytest.mark.parametrize(
    ("rollout", "label"),
    [
        ([4, 9, 5, EOS], ([4], [7])),  # a wrong digit in the middle
        ([9], ([], [4])),  # cut off after a wrong one
        ([4, 7, EOS], ([4, 7], [5])),  # ended too early
        ([4, 7, 5, 3, EOS], ([4, 7, 5], [EOS])),  # did not end
        ([4, 7, 5], ([4, 7, 5], [EOS])),  # cut off
    ],
)
def test_the_label_at_the_first_error_comes_after_what_was_right(rollout, label):
    assert label_of("first_error", rollout, False, RIGHT, []) == label


def test_other_labels_stand_after_the_prompt_or_after_the_rollout():
    rollout = [4, 9, EOS]
    assert label_of("answer", rollout, False, RIGHT, []) == ([], RIGHT)
    assert label_of("reply_answer", rollout, False, RIGHT, []) == (rollout, RIGHT)
    assert label_of("reply_verdict", rollout, False, RIGHT, [3]) == (rollout, [3])
    assert label_of("first_error", rollout, True, RIGHT, []) == ([], [])  # another spelling that passes


@pytest.mark.parametrize("told", TOLD)
def test_the_first_update_is_that_of_the_labels_log_probability(base_model, tmp_path, told):
    model, tokenizer = base_model
    task = load_task("addition", "reversed", mark="C")
    problems = task.problems("train", 16, seed=3)
    verifier = RolloutVerifier(task, problems, tokenizer)
    seen = []

    class Watched(learning_from_observation(skipping_dead_updates(GRPOTrainer))):
        def _generate(self, prompts):
            result = super()._generate(prompts)
            seen.extend(zip(result[0], result[1], strict=True))
            return result

    options = {"num_generations": 2, "per_device_train_batch_size": 16, "max_completion_length": 5, "beta": 0.0, "optim": "sgd"}
    options |= {"learning_rate": 1e-2, "max_grad_norm": 0.0, "max_steps": 1, "output_dir": str(tmp_path)}
    rows = Dataset.from_list([{"prompt": problem.prompt, "problem_id": problem.problem_id} for problem in problems])
    made_of = {"model": copy.deepcopy(model), "args": GRPOConfig(**SHARED | options), "train_dataset": rows}
    trainer = Watched(reward_funcs=[VerdictReward(verifier)], processing_class=tokenizer, told=told, verifier=verifier, **made_of)
    meter = InformationMeter(trainer, tmp_path / "run", verifier=verifier, reward_is_verdict=False)
    trainer.add_callback(meter)
    with torch_counter() as true:
        trainer.train()
    assert meter.total_flops + meter.cumulative["flops/evaluation"] == pytest.approx(true.get_total_flops(), rel=0.02)

    by_prompt = {problem.prompt: problem for problem in problems}
    by_hand, total, num_tokens, num_learned = copy.deepcopy(model).train(), 0.0, 0, 0
    for prompt_ids, completion_ids in seen:
        problem = by_prompt[tokenizer.decode(prompt_ids)]
        right = tokenizer(problem.answer)["input_ids"] + [tokenizer.eos_token_id]
        passed = list(completion_ids) == right
        verdict = tokenizer("1" if passed else "0")["input_ids"]
        between, label = label_of(told, completion_ids, passed, right, verdict)
        ids = torch.tensor([[*prompt_ids, *between, *label]])
        logps = by_hand(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        total, num_tokens = total + logps[len(logps) - len(label) :].sum(), num_tokens + len(label)
        num_learned += bool(label)
    assert (num_learned < len(seen)) == (told == "first_error")
    (-total / num_tokens).backward()
    for after, at_hand in zip(trainer.model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(after, at_hand - 1e-2 * at_hand.grad, atol=1e-6)


@pytest.mark.parametrize("told", TOLD)
def test_the_rollout_is_drawn_recorded_and_charged_and_its_surprisal_is_not_the_labels(monkeypatch, tmp_path, told):
    run = ran(monkeypatch, "grpo", BASE, tmp_path / "run", told=told, skip_dead_updates="true", **OPTIONS | BATCH)
    line, rows, groups = run.steps[-1], run.table("rollouts").to_pylist(), run.table("prompts").to_pylist()
    assert run.manifest["arm"] == f"grpo_told_{told}" and len(rows) == line["samples/total"] == 3 * 16
    assert any(row["passed"] for row in rows) and all(row["reward"] == float(row["passed"]) for row in rows)
    assert all(row["surprisal_bits"] is None for row in rows) and line.get("bits/believed_per_sample") is None
    assert all(row["offered_bits"] is None and 0 < row["pass_rate"] < 1 for row in groups)  # what is offered is not a verdict's
    assert line["flops/prefill"] > 0 and line["flops/decode"] > 0 and line["flops/train_backward"] > line["flops/train_forward"] > 0


def test_rollouts_that_passed_cost_no_update_where_only_errors_teach(monkeypatch, tmp_path):
    options = OPTIONS | BATCH | {"skip_dead_updates": "true", "mark": "A"}
    only_errors, answers = (
        ran(monkeypatch, "grpo", BASE, tmp_path / told, told=told, **options) for told in ("first_error", "answer")
    )
    assert np.mean([row["passed"] for row in only_errors.table("rollouts").to_pylist()]) > 0.9
    assert only_errors.steps[-1]["flops/train_forward"] < 0.2 * answers.steps[-1]["flops/train_forward"]


def test_labels_at_errors_teach(monkeypatch, tmp_path):
    options = OPTIONS | BATCH | {"told": "first_error", "max_steps": 12, "learning_rate": 3e-4, "mark": "G"}
    run = ran(monkeypatch, "grpo", BASE, tmp_path / "run", **options)
    rates = {}
    for row in run.table("evals").to_pylist():
        if row["split"] == "heldout":
            rates.setdefault(row["step"], []).append(2 ** row["log2_pass_rate"])
    assert np.mean(rates[0]) < 0.1 and np.mean(rates[max(rates)]) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("told", ["first_error", "reply_answer"])
def test_a_run_that_is_told_more_resumes(monkeypatch, tmp_path, told):
    options = OPTIONS | BATCH | {"told": told, "save_strategy": "steps", "save_steps": 2}
    whole = ran(monkeypatch, "grpo", BASE, tmp_path / "whole", **options | {"max_steps": 5})
    ran(monkeypatch, "grpo", BASE, tmp_path / "cut", **options | {"max_steps": 3})
    manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
    (tmp_path / "cut" / "manifest.json").write_text(json.dumps(manifest | {"state": "running"}))
    resumed = {"resume_from_checkpoint": tmp_path / "cut" / "checkpoints" / "checkpoint-2", "max_steps": 5}
    cut = ran(monkeypatch, "grpo", BASE, tmp_path / "cut", **options | resumed)
    texts = [[(row["step"], row["text"]) for row in run.table("rollouts").to_pylist()] for run in (whole, cut)]
    assert len(texts[0]) == 5 * 16 and texts[0] == texts[1]


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(monkeypatch, tmp_path):
    """Right answers are the same whatever was sampled."""
    options = OPTIONS | {
        "told": "answer",
        "num_generations": 2,
        "max_completion_length": 5,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    one = ran(monkeypatch, "grpo", BASE, tmp_path / "one", per_device_train_batch_size=64, **options)
    two, _ = launched("grpo", "two_cpus", tmp_path / "two", **options)
    assert one.steps[-1]["samples/total"] == two.steps[-1]["samples/total"] == 3 * 64
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name / "model") for name in ("one", "two")]
    start = AutoModelForCausalLM.from_pretrained(BASE)
    moved = [torch.cat([(a - b).flatten() for a, b in zip(m.parameters(), start.parameters(), strict=True)]) for m in models]
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.999 and moved[0].norm() > 0


@pytest.mark.slow
def test_two_processes_of_which_one_may_have_nothing_to_learn(tmp_path):
    options = {"mark": "A", "told": "first_error", "num_generations": 2, "max_completion_length": 5, "skip_dead_updates": "true"}
    run, _ = launched("grpo", "two_cpus", tmp_path / "two", **options)
    assert run.manifest["state"] == "finished" and run.table("rollouts").num_rows == 3 * 64


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"told": "everything"}, "invalid choice: 'everything'"),
        ({"told": "answer", "trainer": "rloo"}, "--told needs --trainer grpo, got rloo"),
        ({"told": "answer", "reward": "first_error"}, "--told needs --reward outcome, got first_error"),
        ({"told": "answer", "vote": "best"}, "--vote and --told do not go together"),
        ({"told": "answer", "beta": 0.1}, "--told trains on labels, not on rollouts: pass --beta 0"),
    ],
)
def test_choices_that_cannot_be_are_told_in_one_line(recipe, tmp_path, options, said):
    words = [word for name, value in (OPTIONS | BATCH | options).items() for word in (f"--{name}", value)]
    done = recipe("grpo", *words, "--output_dir", tmp_path / "run")
    assert done.returncode in (1, 2)
    assert said in done.stderr and done.stderr.count("\n") == 1, done.stderr[-500:]
