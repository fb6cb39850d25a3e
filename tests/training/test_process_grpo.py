"""Credit for steps: formulas against hand counts, their fairness to the number of steps, and TRL's trainer around them."""

import copy
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from scripts.tiny_qwen2 import byte_level_bpe
from test_meter import SHARED, metered
from trl import GRPOConfig, GRPOTrainer

from bitsample_llm.flops import forward_flops
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.records import read_run
from bitsample_llm.scoring.likelihood import answer_logprobs
from bitsample_llm.tasks import Step, Verdict, load_task
from bitsample_llm.training.credit import (
    CREDITS,
    EPSILON,
    first_error,
    process_tokens,
    right_prefix_share,
    right_step_share,
    steps_of_tokens,
    token_advantages,
)
from bitsample_llm.training.process_grpo import ProcessGRPOTrainer, token_spans
from bitsample_llm.training.rewards import VerdictReward

groups_of_steps = st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=2, max_size=8)


def test_first_error_credits_what_is_right_blames_what_is_wrong_and_leaves_the_rest():
    advantages = first_error([[True, True, True], [True, False, True], [False, True, True]])
    spread = np.std([1, 1, 1, 1, 0, 0]) + EPSILON  # the steps that were reached
    assert np.allclose(advantages[0] * spread, [1 - 2 / 3, 1 - 1 / 2, 0])
    assert np.allclose(advantages[1] * spread, [1 - 2 / 3, 0 - 1 / 2, 0])
    assert np.allclose(advantages[2] * spread, [0 - 2 / 3, 0, 0])


def test_process_tokens_sums_the_normalised_steps_from_each_step_on():
    advantages = process_tokens([[True, False], [True, True]])
    rewards = (np.array([[1, 0], [1, 1]]) - 0.75) / (np.std([1, 0, 1, 1]) + EPSILON)
    assert np.allclose(advantages[0], [rewards[0].sum(), rewards[0, 1]])
    assert np.allclose(advantages[1], [rewards[1].sum(), rewards[1, 1]])


@given(groups_of_steps)
def test_first_error_sums_to_nothing_at_every_step_of_a_group(group):
    advantages = first_error(group)
    for k in range(max(map(len, group))):
        assert abs(sum(a[k] for a in advantages if len(a) > k)) < 1e-6


@given(groups_of_steps)
def test_steps_that_are_all_right_or_all_wrong_move_nothing(group):
    alike = [[group[0][0]] * len(steps) for steps in group]
    for credit in (first_error, process_tokens):
        assert all(np.allclose(advantages, 0) for advantages in credit(alike))


def preference_for_steps(credit, pass_rate: float, num_groups: int = 4000) -> tuple[float, float]:
    """Mean advantage of the first token of completions of six steps less that of two, and its standard error: every step is
    right with the same probability, so neither length is better."""
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(num_groups):
        group = [(rng.random(size) < pass_rate).tolist() for size in (2, 2, 2, 2, 6, 6, 6, 6)]
        firsts = [float(advantages.sum() if credit is first_error else advantages[0]) for advantages in credit(group)]
        differences.append(np.mean(firsts[4:]) - np.mean(firsts[:4]))
    return float(np.mean(differences)), float(np.std(differences) / num_groups**0.5)


@pytest.mark.parametrize("pass_rate", [0.2, 0.5, 0.9])
def test_first_error_prefers_neither_more_steps_nor_fewer(pass_rate):
    mean, error = preference_for_steps(first_error, pass_rate)
    assert abs(mean) < 4 * error + 1e-9


def test_process_tokens_has_no_preference_among_equal_steps_but_one_where_later_steps_are_better():
    mean, error = preference_for_steps(process_tokens, 0.5)
    assert abs(mean) < 4 * error
    # four more steps that are always right: each is above the group's mean step and adds to the sum
    group = [[True, False], [False, True], [True, False, True, True, True, True], [False, True, True, True, True, True]]
    advantages = process_tokens(group)
    assert min(a[0] for a in advantages[2:]) > max(a[0] for a in advantages[:2])
    of_first_error = [a.sum() for a in first_error(group)]
    assert np.allclose(of_first_error[0], of_first_error[2]) and np.allclose(of_first_error[1], of_first_error[3])


def judged_as(steps) -> Verdict:
    return Verdict(all(steps), "correct" if all(steps) else "wrong_digit", tuple(Step(n, n + 1, ok) for n, ok in enumerate(steps)))


def test_steps_left_out_count_as_wrong():
    assert right_step_share(judged_as([True, False]), 4) == 0.25
    assert right_step_share(judged_as([True] * 8), 4) == 1.0
    assert right_step_share(judged_as([True] * 4 + [False] * 4), 4) == 0.5


def test_the_share_of_the_right_prefix_tells_where_the_first_error_is_and_no_more():
    every = list(itertools.product([True, False], repeat=4))
    assert [right_prefix_share(judged_as(steps), 4) for steps in every] == [([*steps, False].index(False)) / 4 for steps in every]
    assert right_prefix_share(judged_as([True, True]), 4) == 0.5  # what is left out is not right


def test_the_mix_is_half_first_error_and_half_outcome():
    values = token_advantages(CREDITS["process_outcome"], np.array([0.4, -0.6]), 1.0, [[0], [1], []])
    assert values == pytest.approx([0.7, 0.2, 0.5])


def test_a_token_that_covers_two_steps_gets_both_or_the_sum_from_the_first():
    covered = [[0, 1], [1, 2]]
    values = np.array([3.0, 1.0, -2.0])
    assert token_advantages(CREDITS["first_error"], values, 0.0, covered) == [2.0, -0.5]
    assert token_advantages(CREDITS["process_tokens"], values, 0.0, covered) == [3.0, 1.0]


@pytest.fixture(scope="module")
def bpe_tokenizer():
    """Byte-level BPE whose tokens cover several digits."""
    return byte_level_bpe([str(number) for number in range(10, 100)] * 3)


@given(st.text(st.sampled_from("0123456789+=;é€ "), max_size=24))
def test_token_spans_tile_the_text_for_byte_level_bpe(bpe_tokenizer, text):
    ids = bpe_tokenizer(text)["input_ids"]
    spans = token_spans(bpe_tokenizer, [*ids, bpe_tokenizer.eos_token_id])
    decoded = bpe_tokenizer.decode(ids)
    assert spans[-1] == (len(decoded), len(decoded))
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    assert spans[0][0] == 0


def test_digits_in_one_token_are_steps_of_that_token(bpe_tokenizer):
    task = load_task("addition", "plain", difficulty=2)
    tokens = {number: bpe_tokenizer(str(number))["input_ids"] for number in range(20, 100)}
    number, ids = next((number, ids) for number, ids in tokens.items() if len(ids) == 1)
    problem = task.problem(10, number - 10)
    verdict = task.verify(problem, str(number), True)
    assert steps_of_tokens(token_spans(bpe_tokenizer, [*ids, bpe_tokenizer.eos_token_id]), verdict.steps) == [[0, 1], [2]]
    too_long = task.verify(problem, f"{number}7", True)  # the end should have stood where the third digit is
    spans = [(0, 1), (1, 2), (2, 3), (3, 3)]
    assert steps_of_tokens(spans, too_long.steps) == [[0], [1], [2], []]


TASK = load_task("addition", "reversed", difficulty=3, mark="D")
PROBLEMS = TASK.problems("train", 32, seed=0)
SIZES = {"num_generations": 8, "per_device_train_batch_size": 32, "max_completion_length": 5, "beta": 0.0}


def process_trainer(base_model, folder, trainer=ProcessGRPOTrainer, reward=VerdictReward, problems=PROBLEMS, config=None, **extra):
    model, tokenizer = base_model
    args = GRPOConfig(output_dir=str(folder / "checkpoints"), **SHARED | SIZES | (config or {}))
    verifier = RolloutVerifier(TASK, problems, tokenizer)
    if trainer is ProcessGRPOTrainer:
        extra["verifier"] = verifier
    rows = Dataset.from_list([{"prompt": p.prompt, "problem_id": p.problem_id} for p in problems])
    model = copy.deepcopy(model)
    return trainer(model, [reward(verifier)], args=args, train_dataset=rows, processing_class=tokenizer, **extra)


def weights(trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


class Constant(ProcessGRPOTrainer):
    """The scalar of TRL at every token."""

    def _token_advantages(self, output):
        return output["advantages"][:, None].expand(output["completion_ids"].shape).contiguous()


LOSSES = ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"]


@pytest.mark.parametrize("loss_type", LOSSES)
def test_advantages_constant_along_a_completion_are_plain_grpo_bit_for_bit(base_model, tmp_path, loss_type):
    config = {"loss_type": loss_type, "max_steps": 2}
    plain = process_trainer(base_model, tmp_path, GRPOTrainer, config=config)
    plain.train()
    verifier = RolloutVerifier(TASK, PROBLEMS, base_model[1])
    constant = process_trainer(base_model, tmp_path, Constant, config=config, credit=CREDITS["first_error"], verifier=verifier)
    constant.train()
    assert torch.equal(weights(plain), weights(constant))


@pytest.mark.parametrize("name", ["process_sum", "process_prefix", "process_tokens", "first_error", "process_outcome"])
@pytest.mark.parametrize("config", [{}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 16}], ids=["", "cut"])
def test_every_assignment_trains_and_first_error_bits_are_at_least_the_outcomes(base_model, tmp_path, name, config):
    reward = partial(VerdictReward, name=CREDITS[name].reward)
    trainer = process_trainer(base_model, tmp_path, reward=reward, config=config, credit=CREDITS[name])
    metered(trainer, tmp_path, with_verifier=False, pass_threshold=1.0)
    trainer.train()
    assert not torch.equal(weights(trainer), torch.cat([p.detach().flatten() for p in base_model[0].parameters()]))
    assert read_run(tmp_path / "run").table("rollouts").num_rows == 4 * 32


def test_token_advantages_are_those_of_the_steps_and_nothing_after_the_end(base_model, tmp_path):
    trainer = process_trainer(base_model, tmp_path, credit=CREDITS["first_error"])
    trainer.model.train()
    inputs = [{"prompt": p.prompt, "problem_id": p.problem_id} for p in PROBLEMS[:4] for _ in range(8)]
    output = trainer._generate_and_score_completions(inputs)
    advantages_BT, mask_BT = output["advantages"], output["completion_mask"].bool()
    assert (advantages_BT[~mask_BT] == 0).all()
    tokenizer = base_model[1]
    for start in range(0, 32, 8):
        group = []
        for row in range(start, start + 8):
            ids = output["completion_ids"][row][mask_BT[row]].tolist()
            ended = ids[-1] == tokenizer.eos_token_id
            text = tokenizer.decode(ids[:-1] if ended else ids)
            group.append([s.correct for s in TASK.verify(PROBLEMS[start // 8], text, ended).steps])
        for row, expected in zip(range(start, start + 8), first_error(group), strict=True):
            got = advantages_BT[row][: len(expected)].tolist()
            assert got == pytest.approx(expected[: len(got)].tolist(), abs=1e-5)  # one token a character, the end is EOS


def test_nothing_after_an_early_stop_is_trained_on(base_model, tmp_path):
    trainer = process_trainer(base_model, tmp_path, credit=CREDITS["outcome"], stop_at_first_error=True)
    trainer.model.train()
    inputs = [{"prompt": p.prompt, "problem_id": p.problem_id} for p in PROBLEMS[:4] for _ in range(8)]
    output = trainer._generate_and_score_completions(inputs)
    tokenizer, num_stopped = base_model[1], 0
    for row, problem in enumerate(p for p in PROBLEMS[:4] for _ in range(8)):
        ids = output["completion_ids"][row][output["completion_mask"][row].bool()].tolist()
        assert tokenizer.pad_token_id not in ids
        text = tokenizer.decode([token for token in ids if token != tokenizer.eos_token_id])
        num_stopped += ids[-1] != tokenizer.eos_token_id and len(text) < 5
        assert problem.answer.startswith(text[:-1])  # the wrong step is the last
    assert num_stopped > 5


@pytest.mark.slow
def test_early_stop_saves_the_useful_decoding_that_step_pass_rates_predict(base_model, tmp_path):
    """(1/K) sum_{k<K} prod_{j<=k} p_j of the decoding, which starts after the first token: the prompt's pass gave that."""
    model, tokenizer = base_model
    problems = TASK.problems("train", 256, seed=1)
    config = {"max_steps": 4, "per_device_train_batch_size": 512, "learning_rate": 0.0}
    useful, executed = {}, {}
    for stop in (False, True):
        trainer = process_trainer(
            base_model, tmp_path / str(stop), problems=problems, config=config, credit=CREDITS["outcome"], stop_at_first_error=stop
        )
        meter = metered(trainer, tmp_path / str(stop), with_verifier=False)
        trainer.train()
        useful[stop], executed[stop] = meter.cumulative["flops_useful/decode"], meter.cumulative["flops/decode"]
    rollouts = read_run(tmp_path / "True" / "run").table("rollouts").to_pylist()
    seen = {row["problem_id"] for row in rollouts}
    chosen = [problem for problem in problems if problem.problem_id in seen]
    survival = [np.cumprod(np.exp(logps)) for logps in answer_logprobs(model, tokenizer, chosen)]
    # decoding pass t feeds the t-th token, which is not the last one of its row
    per_rollout = np.mean([s[:-1].sum() for s in survival])
    price = forward_flops(model.config, 1, len(problems[0].prompt) + 2, 1)
    assert useful[True] == pytest.approx(per_rollout * len(rollouts) * price, rel=0.1)
    assert executed[True] == pytest.approx(useful[True], rel=0.02)  # finished rows left the batch
    assert useful[True] < 0.6 * useful[False] and executed[True] < 0.6 * executed[False]
