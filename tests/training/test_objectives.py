"""Arms between SFT and policy gradient: their losses against the exact probabilities, and updates that are skipped."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from test_meter import SHARED
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer, SFTConfig

from bitsample_llm.information import verdict_sequence_bits
from bitsample_llm.meter.heldout import State
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.likelihood import answer_logprobs
from bitsample_llm.tasks import load_task
from bitsample_llm.training.budget import LOST_BITS, TargetReached, Targets
from bitsample_llm.training.memorisation import ceiling_bits, relabelled
from bitsample_llm.training.objectives import (
    OBJECTIVES,
    AnswerObjectiveTrainer,
    ReinforceTrainer,
    RejectionTrainer,
    VerdictLikelihoodTrainer,
    skipping_dead_updates,
)
from bitsample_llm.training.rewards import VerdictReward
from bitsample_llm.training.rl_choices import parsed_arguments

ROLLOUTS = {"num_generations": 4, "per_device_train_batch_size": 16, "max_completion_length": 4, "beta": 0.0}


@pytest.fixture(scope="module")
def problems():
    return load_task("addition", "reversed", mark="C").problems("train", 16, seed=3)


@pytest.mark.parametrize("p", [1e-6, 0.2, 0.9])
def test_objectives_have_the_gradients_of_what_they_ascend(p):
    slopes = {"log_likelihood": 1.0, "pass_rate": p, "normalised_pass_rate": math.sqrt(p / (1 - p))}
    for name, objective in OBJECTIVES.items():
        logps_B = torch.tensor([math.log(p)], dtype=torch.float64, requires_grad=True)
        objective(logps_B).backward()
        assert -float(logps_B.grad) == pytest.approx(slopes[name], rel=1e-5)


def test_objectives_are_finite_where_the_answer_is_sure():
    for objective in OBJECTIVES.values():
        logps_B = torch.zeros(2, requires_grad=True)
        objective(logps_B).backward()
        assert torch.isfinite(logps_B.grad).all()


def label_trainer(model, tokenizer, problems, tmp_path, objective: str, **options):
    rows = [{"prompt": problem.prompt, "completion": problem.answer} for problem in problems]
    args = SFTConfig(
        **SHARED | {"output_dir": str(tmp_path), "optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1e-2, **options}
    )
    return AnswerObjectiveTrainer(
        model=copy.deepcopy(model),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        objective=objective,
    )


@pytest.mark.parametrize("objective", ["log_likelihood", "pass_rate"])
def test_loss_is_the_mean_over_exact_answer_probabilities(base_model, problems, tmp_path, objective):
    model, tokenizer = base_model
    trainer = label_trainer(
        model, tokenizer, problems, tmp_path, objective, per_device_train_batch_size=16, max_steps=1, logging_steps=1
    )
    trainer.train()
    logps = np.array([logps.sum() for logps in answer_logprobs(model, tokenizer, problems)])
    expected = -logps.mean() if objective == "log_likelihood" else -np.exp(logps).mean()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-3)


def test_accumulated_batches_make_the_update_of_one(base_model, problems, tmp_path):
    whole, cut = (
        label_trainer(
            *base_model,
            problems,
            tmp_path,
            "pass_rate",
            per_device_train_batch_size=16 // n,
            gradient_accumulation_steps=n,
            max_steps=1,
        )
        for n in (1, 2)
    )
    for trainer in (whole, cut):
        trainer.train()
    for one, other in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert any(not torch.equal(a, b) for a, b in zip(whole.model.parameters(), base_model[0].parameters(), strict=True))


def test_objective_of_whole_answers_refuses_packing(base_model, problems, tmp_path):
    with pytest.raises(ValueError, match="one sample a row"):
        label_trainer(*base_model, problems, tmp_path, "pass_rate", packing=True)


@pytest.mark.parametrize(
    ("trainer_class", "config", "nothing"),
    [
        (skipping_dead_updates(GRPOTrainer), GRPOConfig, 1.0),
        (skipping_dead_updates(RLOOTrainer), RLOOConfig, 1.0),
        (skipping_dead_updates(ReinforceTrainer), GRPOConfig, 0.0),
        (skipping_dead_updates(RejectionTrainer), GRPOConfig, 0.0),
    ],
)
def test_an_update_without_advantages_is_skipped_though_adam_has_momentum(
    base_model, problems, tmp_path, trainer_class, config, nothing
):
    model, tokenizer = base_model
    weights, num_calls = [], 0

    def reward(completion_ids, **kwargs):
        nonlocal num_calls
        num_calls += 1
        weights.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
        return [float(index % 2) if num_calls == 1 else nothing for index, _ in enumerate(completion_ids)]

    args = config(**SHARED | ROLLOUTS | {"output_dir": str(tmp_path), "max_steps": 3})
    rows = Dataset.from_list([{"prompt": problem.prompt} for problem in problems])
    trainer = trainer_class(
        model=copy.deepcopy(model), reward_funcs=[reward], args=args, train_dataset=rows, processing_class=tokenizer
    )
    forwards = []
    trainer.model.register_forward_hook(
        lambda module, *_: forwards.append(num_calls) if module.training and torch.is_grad_enabled() else None
    )
    trainer.train()
    assert not all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights[1], weights[2], strict=True))
    assert forwards == [1]  # the skipped updates cost no forward pass either
    assert trainer.state.global_step == 3


@pytest.mark.parametrize(
    ("trainer_class", "learns_from_fails"), [(ReinforceTrainer, False), (skipping_dead_updates(GRPOTrainer), True)]
)
def test_without_a_baseline_the_advantage_is_the_reward(base_model, problems, tmp_path, trainer_class, learns_from_fails):
    model, tokenizer = base_model
    seen = []

    class Watched(trainer_class):
        def _compute_loss(self, model, inputs):
            seen.append(inputs["advantages"].tolist())
            return super()._compute_loss(model, inputs)

    def reward(completion_ids, **kwargs):  # of four groups the first passes, the second is mixed, the others fail
        return [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0] + [0.0] * (len(completion_ids) - 8)

    args = GRPOConfig(**SHARED | ROLLOUTS | {"output_dir": str(tmp_path), "max_steps": 1, "shuffle_dataset": False})
    rows = Dataset.from_list([{"prompt": problem.prompt} for problem in problems])
    Watched(model=copy.deepcopy(model), reward_funcs=[reward], args=args, train_dataset=rows, processing_class=tokenizer).train()
    (advantages,) = seen
    assert len(advantages) == 16 and (min(advantages) < 0) == learns_from_fails
    if not learns_from_fails:  # TRL shuffles the rollouts of a generation
        assert sorted(advantages) == [0.0] * 11 + [1.0] * 5


def loss_and_rollouts(base_model, problems, tmp_path, trainer_class, reward, **extra) -> tuple[float, list[tuple[bool, float]]]:
    """The loss of the first batch, and of each of its rollouts whether it passed and its log-probability."""
    model, tokenizer = base_model
    seen = []

    class Watched(trainer_class):
        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            seen.append((float(loss.detach()), {key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)}))
            return loss

    args = GRPOConfig(**SHARED | ROLLOUTS | {"output_dir": str(tmp_path), "max_steps": 1, "learning_rate": 0.0})
    rows = Dataset.from_list([{"prompt": problem.prompt, "problem_id": problem.problem_id} for problem in problems])
    made_of = {"model": copy.deepcopy(model), "args": args, "train_dataset": rows, "processing_class": tokenizer}
    Watched(reward_funcs=[reward], **made_of, **extra).train()
    loss, inputs = seen[0]
    by_prompt = {problem.prompt: problem for problem in problems}
    rollouts = []
    for row in range(len(inputs["prompt_ids"])):
        problem = by_prompt[tokenizer.decode(inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()])]
        ids = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()].tolist()
        ended = ids[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(ids[:-1] if ended else ids)
        logps = answer_logprobs(model, tokenizer, [replace(problem, answer=text)])[0]
        rollouts.append((ended and text == problem.answer, logps.sum() if ended else logps[:-1].sum()))
    if "passed" in inputs:
        assert [passed for passed, _ in rollouts] == inputs["passed"].tolist()
    assert 0 < sum(passed for passed, _ in rollouts) < len(rollouts)
    return loss, rollouts


@pytest.fixture
def verifier(base_model, problems):
    return RolloutVerifier(load_task("addition", "reversed", mark="C"), problems, base_model[1])


def test_verdict_likelihood_scores_passes_by_log_p_and_fails_by_log_of_one_minus_p(base_model, problems, verifier, tmp_path):
    reward = lambda completion_ids, **kwargs: [0.0] * len(completion_ids)  # noqa: E731  the reward is not what it learns from
    loss, rollouts = loss_and_rollouts(base_model, problems, tmp_path, VerdictLikelihoodTrainer, reward, verifier=verifier)
    expected = [-log_p if passed else -math.log(-math.expm1(log_p)) for passed, log_p in rollouts]
    assert loss == pytest.approx(np.mean(expected), rel=1e-3)


def test_rejection_is_sft_on_the_rollouts_that_passed(base_model, problems, verifier, tmp_path):
    loss, rollouts = loss_and_rollouts(base_model, problems, tmp_path, RejectionTrainer, VerdictReward(verifier))
    assert loss == pytest.approx(np.mean([-log_p for passed, log_p in rollouts if passed]), rel=1e-3)


def stops_after(targets: Targets, *log2_pass_rates: float | None) -> bool:
    """Whether a run stops whose evaluations at 0, 1, 2, 4, ... FLOPs found these; None where no rollout passed."""
    flops = [0.0, *(2.0**power for power in range(len(log2_pass_rates)))]
    states = [
        State(spent, log2_p, 0.0 if log2_p is None else 2**log2_p) for spent, log2_p in zip(flops, log2_pass_rates, strict=False)
    ]
    control = SimpleNamespace(should_training_stop=False)
    TargetReached(SimpleNamespace(heldout_states=states), targets).on_step_end(None, None, control)
    return control.should_training_stop


@pytest.mark.parametrize(("now", "stops"), [(-4.0, False), (-3.1, False), (-2.9, True), (-4.0 - LOST_BITS, True)])
def test_a_run_stops_once_it_gained_its_target_or_lost_its_way(now, stops):
    assert stops_after(Targets(bits=1.0), -4.0, now) == stops


def test_a_trainer_named_in_the_file_brings_its_own_options(tmp_path):
    (tmp_path / "rloo.yaml").write_text("trainer: rloo\nnormalize_advantages: true\n")
    command = ["--config", str(tmp_path / "rloo.yaml"), "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    _, choices, args, _ = parsed_arguments(command)
    assert choices.trainer == "rloo" and isinstance(args, RLOOConfig) and args.normalize_advantages
    with pytest.raises(SystemExit):  # of another trainer it is no option
        parsed_arguments([*command, "--trainer", "grpo"])


@pytest.mark.parametrize(("seen", "stops"), [((None, -1.0), False), ((-4.0, None), False), ((-4.0, -2.9), True)])
def test_a_target_waits_where_no_rollout_passed(seen, stops):
    assert stops_after(Targets(bits=1.0), *seen) == stops


def test_a_target_in_pass_rates_needs_no_pass_to_begin_with_and_is_lost_where_none_passes():
    assert stops_after(Targets(pass_rate=0.5), None, -0.5)
    kept = Targets(pass_rate=0.5, keep_for=3.0)
    assert stops_after(kept, None, -0.5, -0.5, -0.5)
    assert not stops_after(kept, None, -0.5, None, -0.5, -0.5)  # none passed at 2, from 4 on kept until 8 only
    assert not stops_after(Targets(bits=1.0, keep_for=3.0), -4.0, -2.0, None, -2.0, -2.0)


def test_a_target_that_is_to_be_kept_is_kept():
    kept = Targets(bits=1.0, keep_for=3.0)
    assert not stops_after(kept, -4.0, -2.0)  # at 1 FLOP
    assert not stops_after(kept, -4.0, -2.0, -2.0)
    assert stops_after(kept, -4.0, -2.0, -2.0, -2.0)  # until 4
    assert not stops_after(kept, -4.0, -2.0, -3.5, -2.0, -2.0)  # lost at 2, from 4 on kept until 8 only
    assert stops_after(kept, -4.0, -2.0, -3.5, -2.0, -2.0, -2.0)


def test_of_several_targets_all_are_waited_for():
    assert stops_after(Targets(share=0.5), -4.0, -2.0)
    assert not stops_after(Targets(share=0.5, pass_rate=0.5), -4.0, -2.0)
    assert stops_after(Targets(share=0.5, pass_rate=0.5), -4.0, -1.0)
    assert not Targets(keep_for=3.0)


@pytest.mark.parametrize(("num_answers", "num_tried"), [(8, 1), (8, 5), (100, 99), (4, 4)])
def test_verdicts_on_equally_likely_answers_tell_the_closed_form(num_answers, num_tried):
    masses = [1 / num_answers] * num_tried
    told = [verdict_sequence_bits(masses, right if right < num_tried else None) for right in range(num_answers)]
    left = num_answers - num_tried
    closed = math.log2(num_answers) - (left / num_answers * math.log2(left) if left else 0)
    assert np.mean(told) == pytest.approx(closed)


def test_masses_of_distinct_answers_cannot_exceed_one():
    with pytest.raises(ValueError, match="at most 1"):
        verdict_sequence_bits([0.6, 0.6], None)


def test_labels_to_memorise_are_draws_of_the_model_and_told_by_verdicts_up_to_their_surprisal(base_model):
    model, tokenizer = base_model
    problems = load_task("addition", "reversed", mark="C").problems("train", 64, seed=5)
    drawn = relabelled(model, tokenizer, problems, 4, seed=1)
    share_right = np.mean([new.answer == old.answer for new, old in zip(drawn, problems, strict=True)])
    assert 0.25 < share_right < 0.75  # author C is right half of the time
    problem = drawn[0]
    found = [{"text": "999", "ended": True}, {"text": problem.answer, "ended": True}, {"text": "12", "ended": False}]
    told = ceiling_bits(model, tokenizer, problem, found)
    masses = [
        math.exp(answer_logprobs(model, tokenizer, [replace(problem, answer=text)])[0].sum()) for text in ("999", problem.answer)
    ]
    assert told == pytest.approx(verdict_sequence_bits(masses, 1), rel=1e-4)
    assert ceiling_bits(model, tokenizer, problem, found[2:]) == 0
