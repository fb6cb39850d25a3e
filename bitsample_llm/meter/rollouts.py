"""What trainers that sample show of their rollouts: GRPO and RLOO, whose groups get rewards, and distillation.

B rollouts of this process, T tokens. The rollouts of a generation are held back until all of them have been trained on,
because their surprisal is that of the training forward; what a checkpoint finds half-trained is kept beside it.
"""

from collections import Counter

import numpy as np
import torch
from accelerate.utils import gather_object

from bitsample_llm.estimators import jackknife_categorical_entropy_bits, jackknife_entropy_bits
from bitsample_llm.information import (
    believed_reward_bits,
    binary_entropy_bits,
    first_error_entropy_bits,
    informative_group_probability,
)
from bitsample_llm.meter.hooks import TrainingLosses, require, wrap
from bitsample_llm.meter.labels import NATS_PER_BIT, surprisal_bits_of


def sampling_settings(trainer) -> dict:
    """How a trainer samples: temperature and truncation, and whether that is the model's own distribution."""
    args = trainer.args
    asked = {name: getattr(args, name, None) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    asked |= {key: value for key, value in (args.generation_kwargs or {}).items() if key in asked}
    is_truncated = asked["top_p"] not in (None, 1) or (asked["top_k"] or 0) > 0 or bool(asked["min_p"])
    is_own = not is_truncated and asked["temperature"] == 1 and asked["repetition_penalty"] in (None, 1)
    return asked | {"is_truncated": is_truncated, "is_own_distribution": is_own}


class GenerationObserver:
    """Takes down the completions of every generation, and what they cost where no forward pass was seen.

    Subclasses add what their trainer tells of them.
    """

    def __init__(self, trainer, meter, verifier, num_generations: int):
        self.trainer = trainer
        self.meter, self.totals, self.counter = meter, meter.totals, meter.counter
        self.verifier = verifier
        self.num_generations = num_generations
        self.sampling = sampling_settings(trainer)
        self.generation_step = 0
        self._rollouts: list[dict] | None = None  # the generation being trained on, of all processes
        self._logps_B: np.ndarray | None = None  # of this process's part of it
        self._trained_B: np.ndarray | None = None  # which rows of it have been trained on
        self._completion_ids: list[list[int]] = []
        self._num_own_tokens: list[int] = []  # of each completion: what tools answered in it is not the model's
        self._num_turns = 0
        self._num_prompt_tokens = 0
        TrainingLosses(trainer, self.counter.causal_lm, self._record_loss)
        wrap(trainer, "_generate", self._around_generate)
        wrap(trainer, "_generate_single_turn", self._around_turn)
        wrap(trainer, "_generate_and_score_completions", self._around_generation)

    def _around_generate(self, original, prompts):
        counter, passes_before, turns_before = self.counter, self.counter.num_passes, self._num_turns
        counter.generating = True
        result = original(prompts)
        counter.generating = False
        prompt_ids, completion_ids = result[:2]
        if counter.num_passes == passes_before and self._num_turns == turns_before:  # a `rollout_func` that calls a server
            counter.count_generation(prompt_ids, [len(ids) for ids in completion_ids])
        self._completion_ids = [list(map(int, ids)) for ids in completion_ids]
        own_masks = result[2] if len(result) > 3 else None  # RLOO, which has no tools, returns three things
        self._num_own_tokens = [int(sum(mask)) for mask in own_masks or [[1] * len(ids) for ids in completion_ids]]
        num_tokens = sum(map(len, prompt_ids)) + sum(map(len, completion_ids))
        self._num_prompt_tokens = num_tokens - sum(self._num_own_tokens)
        return result

    def _around_turn(self, original, prompt_ids, *args, **kwargs):
        """One turn of a generation; there are several where the model calls tools."""
        counter, passes_before = self.counter, self.counter.num_passes
        # continuous batching packs the prompts of many rollouts into rows that no formula of ours prices
        counter.paused = getattr(self.trainer, "use_transformers_continuous_batching", False)
        result = original(prompt_ids, *args, **kwargs)
        was_unseen = counter.paused or counter.num_passes == passes_before
        counter.paused = False
        self._num_turns += 1
        if was_unseen:
            completion_ids = result[0] if isinstance(result, tuple) else result
            counter.count_generation(prompt_ids, [len(ids) for ids in completion_ids])
        return result

    def _around_generation(self, original, inputs):
        output = original(inputs)
        if self.trainer.model.training:
            self.end_generation()
            self.generation_step += 1
            parts = gather_object([(self._own_rollouts(inputs), self._num_prompt_tokens)])
            rollouts = [self.meter.place() | rollout for part, _ in parts for rollout in part]
            for index, rollout in enumerate(rollouts):
                rollout["sample"] = index % self.num_generations
            self.totals.count("samples/total", len(rollouts))
            self.totals.count("tokens/prompt", sum(num_tokens for _, num_tokens in parts))
            self.totals.count("tokens/completion", sum(rollout["num_tokens"] for rollout in rollouts))
            self._complete(rollouts)
            # the trainer shuffles rows after this; the index goes with them and finds its rollout again
            output["rollout_index"] = torch.arange(len(inputs), device=output["completion_ids"].device)
            self._logps_B = np.full(len(inputs), np.nan)
            self._trained_B = np.zeros(len(inputs), dtype=bool)
            self._rollouts = rollouts
        return output

    def _own_rollouts(self, inputs: list[dict]) -> list[dict]:
        """Rows of the rollouts of this process; without a verifier `passed` is null."""
        problem_ids = [example.get("problem_id") for example in inputs]
        if self.verifier is not None:
            rows = self.verifier.rows(problem_ids, self._completion_ids)
        else:
            texts_and_ends = self.meter.end.texts_and_ends(self._completion_ids)
            rows = [
                {"problem_id": problem_id, "text": text, "ended": ended, "passed": None}
                for problem_id, (text, ended) in zip(problem_ids, texts_and_ends, strict=True)
            ]
        return [row | {"num_tokens": num} for row, num in zip(rows, self._num_own_tokens, strict=True)]

    def _complete(self, rollouts: list[dict]) -> None:
        """Add to the rollouts of all processes what the trainer knows of them, and record their groups."""

    def _record_loss(self, loss: float, inputs: dict, logps_BT: torch.Tensor | None) -> None:
        self.totals.observe("train/loss", [loss])
        if self._rollouts is None:  # handed on: later iterations on the same rollouts are not the policy's own
            return
        rows = inputs["rollout_index"].tolist()
        self._trained_B[rows] = True
        if logps_BT is not None:
            is_scored_B = inputs["completion_mask"].any(dim=1)  # TRL may mask truncated completions: they have no surprisal
            if (own_BT := inputs.get("tool_mask")) is not None:  # what tools answered was not sampled; before it is the prompt
                logps_BT = logps_BT[:, -own_BT.shape[1] :] * own_BT
            logps_B = torch.where(is_scored_B, logps_BT.sum(dim=1).double(), torch.nan)
            self._logps_B[rows] = logps_B.cpu().numpy()

    def end_step(self) -> None:
        """Hand on the generation if all of it has been trained on."""
        if self._trained_B is not None and self._trained_B.all():  # the same on every process, which all gather or none
            self.end_generation()

    def end_generation(self) -> None:
        """Hand on the rollouts with the surprisal that their training forward showed, null where none was run."""
        rollouts = self.pending_rollouts()
        surprisals = [rollout["surprisal_bits"] for rollout in rollouts if rollout["surprisal_bits"] is not None]
        self.totals.observe("bits/surprisal_per_sample", surprisals)
        if not self.sampling["is_truncated"]:  # the surprisal is then of another distribution than the sampler's
            self.totals.observe("bits/believed_per_sample", believed_reward_bits(np.array(surprisals)).tolist())
        self._rollouts = self._logps_B = self._trained_B = None  # first, so that an interrupt between hands nothing on twice
        self.meter.add_rows("rollouts", rollouts)

    def pending_rollouts(self, alone: bool = False) -> list[dict]:
        """Rows of the generation that is being trained on, with the surprisals known so far.

        All processes ask together, or the first one `alone`, because another has failed: the others' surprisals stay null.
        """
        if self._rollouts is None:
            return []
        logps = self._logps_B.tolist()
        logps = logps + [np.nan] * (len(self._rollouts) - len(logps)) if alone else gather_object(logps)
        bits = [surprisal_bits_of(logp) if np.isfinite(logp) else None for logp in logps]
        return [rollout | {"surprisal_bits": value} for rollout, value in zip(self._rollouts, bits, strict=True)]

    def resume(self, generation_step: int) -> None:
        """Go on after a generation; the one under way is forgotten: the record has what its checkpoint knew of it."""
        self.generation_step = generation_step
        self._rollouts = self._logps_B = self._trained_B = None


class RolloutObserver(GenerationObserver):
    """Records every rollout of GRPO or RLOO with its verdict and rewards, and every group with its pass rate.

    Args:
        pass_threshold: total reward that counts as a pass where there is no verifier; needed unless rewards are 0 or 1.
        reward_is_verdict: whether the reward tells if a rollout passed; if not, what it offers is not measured.
        exact_pass_rates: whether to compute them where they exist: with a verifier, sampling from the model's distribution.
    """

    def __init__(self, trainer, meter, verifier, pass_threshold: float | None, reward_is_verdict: bool, exact_pass_rates: bool):
        require(trainer, "num_generations", "reward_func_names", "reward_weights")
        super().__init__(trainer, meter, verifier, trainer.num_generations)
        self.pass_threshold = pass_threshold
        self.reward_is_verdict = reward_is_verdict
        can_be_exact = verifier is not None and verifier.task.has_one_accepted_string and self.sampling["is_own_distribution"]
        # with tools there are other ways to the answer, and the prompt names the tools
        self.exact_pass_rates = exact_pass_rates and can_be_exact and not getattr(trainer, "tools", None)
        self._rewards_BF = np.empty((0, 0))  # of all processes
        wrap(trainer, "_calculate_rewards", self._around_rewards)

    def _around_rewards(self, original, *args, **kwargs):
        rewards_BF = original(*args, **kwargs)  # of all processes, groups complete
        if self.trainer.model.training:
            self._rewards_BF = rewards_BF.double().cpu().numpy()
        return rewards_BF

    def _complete(self, rollouts: list[dict]) -> None:
        weights_F = self.trainer.reward_weights.double().cpu().numpy()
        names = self.trainer.reward_func_names
        for rollout, rewards_F in zip(rollouts, self._rewards_BF, strict=True):
            is_scored = not np.isnan(rewards_F).all()
            rollout["reward"] = float(np.nansum(rewards_F * weights_F)) if is_scored else None
            rollout["rewards"] = {
                name: None if np.isnan(reward) else reward for name, reward in zip(names, rewards_F.tolist(), strict=True)
            }
            if self.verifier is None:
                rollout["passed"] = self._passes(rollout["reward"]) if is_scored else None
        self._record_groups([rollouts[at : at + self.num_generations] for at in range(0, len(rollouts), self.num_generations)])

    def _passes(self, reward: float) -> bool | None:
        if self.pass_threshold is not None:
            return reward >= self.pass_threshold
        if reward in (0.0, 1.0):
            return reward == 1.0
        if self.generation_step == 1:  # before anything was trained
            raise ValueError(
                f"a rollout got the reward {reward:g}, which is neither 0 nor 1: tell the meter which reward is a pass, "
                "InformationMeter(..., pass_threshold=...)"
            )
        return None

    def _record_groups(self, groups: list[list[dict]]) -> None:
        problem_ids = [group[0]["problem_id"] for group in groups]
        exact = [{}] * len(groups)
        if self.exact_pass_rates:
            exact = self.verifier.exact_pass_rates(self.trainer, problem_ids, self.meter.end)
        rows, verdicts = [], []
        for problem_id, group, pass_rates in zip(problem_ids, groups, exact, strict=True):
            passed = [rollout["passed"] for rollout in group if rollout["passed"] is not None]
            row = {"problem_id": problem_id, "group_size": len(passed), "num_passed": sum(passed), **pass_rates}
            rows.append(row | self._first_error_bits(row, group))
            verdicts += map(float, passed)
        if self.reward_is_verdict:  # else what the reward tells is not measured: null
            self._add_offered_bits(rows)
        self.meter.add_rows("prompts", rows)
        for metric, column in (
            ("group/pass_rate", "pass_rate"),
            ("bits/offered_per_sample", "offered_bits"),
            ("bits/first_error_per_sample", "first_error_entropy_bits"),
        ):
            self.totals.observe(metric, [row[column] for row in rows if column in row])
        self.totals.observe("group/pass_rate_estimate", verdicts)
        scored = [[rollout["reward"] for rollout in group if rollout["reward"] is not None] for group in groups]
        self.totals.observe("group/informative_fraction", [float(len(set(rewards)) > 1) for rewards in scored])
        if self.reward_is_verdict:
            pass_rates = np.array([row["pass_rate"] for row in rows if "pass_rate" in row])
            predicted = informative_group_probability(pass_rates, self.num_generations)
            self.totals.observe("group/informative_fraction_predicted", predicted.tolist())
        if offered := [row["offered_bits"] * row["group_size"] for row in rows if "offered_bits" in row]:
            self.totals.count("bits/offered_total", sum(offered))

    @staticmethod
    def _add_offered_bits(rows: list[dict]) -> None:
        """Add to each group what the outcome of one more rollout offers; a single rollout says nothing of it."""
        exact = [row for row in rows if "pass_rate" in row]
        counted = [row for row in rows if "pass_rate" not in row and row["group_size"] > 1]
        num_passed, group_size = (np.array([row[key] for row in counted], dtype=int) for key in ("num_passed", "group_size"))
        for part, estimator, bits in (
            (exact, "exact", binary_entropy_bits(np.array([row["pass_rate"] for row in exact]))),
            (counted, "jackknife", jackknife_entropy_bits(num_passed, group_size)),
        ):
            for row, value in zip(part, bits.tolist(), strict=True):
                row |= {"offered_bits": value, "offered_bits_estimator": estimator}

    @staticmethod
    def _first_error_bits(row: dict, group: list[dict]) -> dict:
        """What the position of the first wrong step of one more rollout offers, where a verifier judges steps."""
        if "step_pass_rates" in row:
            bits = first_error_entropy_bits(np.minimum(row["step_pass_rates"], 1.0))
            return {"first_error_entropy_bits": bits, "first_error_entropy_estimator": "exact"}
        if len(group) < 2 or "num_correct_before_first_error" not in group[0]:
            return {}
        nowhere = ("num_steps", "num_correct_before_first_error")  # the same number where no step is wrong
        positions = Counter(None if len({r[key] for key in nowhere}) == 1 else r[nowhere[1]] for r in group)
        bits = jackknife_categorical_entropy_bits(list(positions.values()))
        return {"first_error_entropy_bits": bits, "first_error_entropy_estimator": "jackknife"}


class DistillationObserver(GenerationObserver):
    """Records the completions of TRL's DistillationTrainer, what the teacher told of them and what the teacher cost.

    The teacher offers the divergence of its distribution from the student's, which is the loss, summed over the tokens.
    """

    def __init__(self, trainer, meter, verifier):
        require(trainer, "teacher_model", "beta")
        self._teacher_config = trainer.accelerator.unwrap_model(trainer.teacher_model).config.get_text_config()
        super().__init__(trainer, meter, verifier, num_generations=1)

    def _complete(self, rollouts: list[dict]) -> None:
        if self.verifier is not None:
            self.totals.observe("group/pass_rate_estimate", [float(rollout["passed"]) for rollout in rollouts])

    def _record_loss(self, loss: float, inputs: dict, logps_BT: torch.Tensor | None) -> None:
        super()._record_loss(loss, inputs, logps_BT)
        self._count_projections(inputs)
        # the loss is over the tokens of all processes, scaled up for their mean
        num_nats = loss * float(inputs["num_items_in_batch"]) / self.trainer.accelerator.num_processes
        parts = gather_object([(num_nats / NATS_PER_BIT, len(inputs["rollout_index"]))])
        bits, num = sum(part for part, _ in parts), sum(part for _, part in parts)
        self.totals.count("bits/offered_total", bits)
        self.totals.observe("bits/offered_per_sample", [bits / num] * num)

    def _count_projections(self, inputs: dict) -> None:
        """The trainer projects both models' hidden states itself, and once more backward, where the student has gradients."""
        useful = int(inputs["completion_mask"].sum())
        ran = useful if inputs["completion_ids"].device.type == "cuda" else inputs["completion_ids"].numel()
        num_forward = 2 if 0 < self.trainer.beta < 1 else 1  # a mixture needs both log-partitions first
        count = self.counter.count_projections
        count("train_forward", num_forward, ran, useful)
        count("train_backward", 2 + self.counter.layers.output_trainable, ran, useful)
        count("score_reference", num_forward + 1, ran, useful, self._teacher_config)
