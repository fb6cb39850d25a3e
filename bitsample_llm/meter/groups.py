"""What GRPO and RLOO show of their groups: rewards, verdicts, pass rates, and the bits that an outcome offers. F reward functions."""

from collections import Counter
from functools import lru_cache

import numpy as np

from bitsample_llm.information import binary_entropy_bits, first_error_entropy_bits, informative_group_probability
from bitsample_llm.jackknife import jackknife_categorical_entropy_bits, jackknife_entropy_bits
from bitsample_llm.meter.hooks import require, wrap
from bitsample_llm.meter.rollouts import GenerationObserver

_verdict_bits = lru_cache(maxsize=4096)(jackknife_entropy_bits)  # of a group's counts, which come again and again


@lru_cache(maxsize=4096)
def _entropy_bits(values: tuple[int, ...]) -> float:
    """Jackknife entropy of sorted values."""
    return jackknife_categorical_entropy_bits(list(Counter(values).values()))


class RolloutObserver(GenerationObserver):
    """Records rollouts of GRPO or RLOO with verdict and rewards, and groups with pass rates; arguments: `InformationMeter`."""

    compares_rollouts = True  # of a group with each other, so that one whose rewards are all equal teaches nothing

    def __init__(self, trainer, meter, verifier, pass_threshold: float | None, reward_is_verdict: bool, exact_pass_rates: bool):
        require(trainer, "reward_weights", *(("num_generations", "reward_func_names") if self.compares_rollouts else ()))
        super().__init__(trainer, meter, verifier, getattr(trainer, "num_generations", 1))
        self.pass_threshold = pass_threshold
        self.reward_is_verdict = reward_is_verdict
        can_be_exact = verifier is not None and verifier.task.has_one_accepted_string and self.sampling["is_own_distribution"]
        # with tools there are other ways to the answer, and the prompt names the tools
        self.exact_pass_rates = exact_pass_rates and can_be_exact and not getattr(trainer, "tools", None)
        self._rewards_BF = np.empty((0, 0))  # of all processes
        self._prompt_states = self._watched_prompts() if self.exact_pass_rates else None
        wrap(trainer, "_calculate_rewards", self._around_rewards)

    def _watched_prompts(self):
        """What each generation computes of its prompts, where right answers may be scored after them."""
        from bitsample_llm.meter.evaluator import SHARDED  # noqa: PLC0415 - only where pass rates are exact
        from bitsample_llm.scoring.prompt_states import PromptStates, is_deterministic  # noqa: PLC0415

        states = PromptStates()

        def keep(module, args, kwargs, output) -> None:
            if self.counter.generating and self.trainer.model.training:
                states.keep(kwargs, output)

        # a sharded model's passes must be as many on all processes
        if self.trainer.accelerator.distributed_type not in SHARDED and is_deterministic(self.meter.model):
            self.counter.causal_lm.register_forward_hook(keep, with_kwargs=True)
        return states

    def _around_generation(self, original, inputs):
        if self._prompt_states is not None and self.trainer.model.training:  # it has changed since the last generation
            self._prompt_states.begin(self.verifier.most_tokens_before_end(self.trainer, inputs, self.meter.end))
        return super()._around_generation(original, inputs)

    def _around_rewards(self, original, *args, **kwargs):
        rewards_BF = original(*args, **kwargs)  # of all processes, groups complete
        if self.trainer.model.training:
            self._rewards_BF = rewards_BF.double().cpu().numpy()
        return rewards_BF

    def _complete(self, rollouts: list[dict]) -> None:
        self._add_rewards(rollouts)
        if self.verifier is None:
            for rollout in rollouts:
                rollout["passed"] = None if rollout["reward"] is None else self._passes(rollout["reward"])
        self._record_groups([rollouts[at : at + self.num_generations] for at in range(0, len(rollouts), self.num_generations)])

    def _add_rewards(self, rollouts: list[dict]) -> None:
        weights_F = self.trainer.reward_weights.double().cpu().numpy()
        names = self.trainer.reward_func_names
        rewards_BF, rewards_B = self._rewards_BF, (self._rewards_BF * weights_F).sum(axis=1)
        if (is_missing_BF := np.isnan(rewards_BF)).any():  # a function, or all, did not score it
            known_B = np.nansum(rewards_BF * weights_F, axis=1)
            rewards_BF, rewards_B = np.where(is_missing_BF, None, rewards_BF), np.where(is_missing_BF.all(axis=1), None, known_B)
        for rollout, reward, rewards in zip(rollouts, rewards_B.tolist(), rewards_BF.tolist(), strict=True):
            rollout["reward"] = reward
            rollout["rewards"] = dict(zip(names, rewards, strict=True))

    def _passes(self, reward: float) -> bool | None:
        if self.pass_threshold is not None:
            return reward >= self.pass_threshold
        if reward in (0.0, 1.0):
            return reward == 1.0
        if self.generation_step <= 1:  # before anything was trained
            raise ValueError(
                f"a rollout got the reward {reward:g}, which is neither 0 nor 1: tell the meter which reward is a pass, "
                "InformationMeter(..., pass_threshold=...)"
            )
        return None

    def _record_groups(self, groups: list[list[dict]]) -> None:
        problem_ids = [group[0]["problem_id"] for group in groups]
        how = self.trainer, problem_ids, self.meter.end, self._prompt_states
        exact = self.verifier.exact_pass_rates(*how) if self.exact_pass_rates else [{}] * len(groups)
        rows, verdicts, selected = [], [], getattr(self.trainer, "selected_pass_rates", [None] * len(groups))
        for problem_id, group, pass_rates, selected_at in zip(problem_ids, groups, exact, selected, strict=True):
            passed = [rollout["passed"] for rollout in group if rollout["passed"] is not None]
            row = pass_rates | {"problem_id": problem_id, "group_size": len(passed), "num_passed": sum(passed)}
            rows.append(row | {"selected_at_pass_rate": selected_at} | self._first_error_bits(row, group))
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
        if offered := [row["offered_bits"] * row["group_size"] for row in rows if "offered_bits" in row]:
            self.totals.count("bits/offered_total", sum(offered))
        if self.compares_rollouts:
            self._observe_informative(groups, rows)

    def _observe_informative(self, groups: list[list[dict]], rows: list[dict]) -> None:
        judged = [group for group, row in zip(groups, rows, strict=True) if self.verifier is None or row["group_size"]]
        scored = [{rollout["reward"] for rollout in group} - {None} for group in judged]
        self.totals.observe("group/informative_fraction", [float(len(rewards) > 1) for rewards in scored])
        if self.reward_is_verdict and (pass_rates := [row["pass_rate"] for row in rows if "pass_rate" in row]):
            predicted = informative_group_probability(np.array(pass_rates), self.num_generations)
            self.totals.observe("group/informative_fraction_predicted", predicted.tolist())

    @staticmethod
    def _add_offered_bits(rows: list[dict]) -> None:
        """Add to each group what the outcome of one more rollout offers; a single rollout says nothing of it."""
        exact = [row for row in rows if "pass_rate" in row]
        counted = [row for row in rows if "pass_rate" not in row and row["group_size"] > 1]
        bits = binary_entropy_bits(np.array([row["pass_rate"] for row in exact])).tolist() if exact else []
        bits += [_verdict_bits(row["num_passed"], row["group_size"]) for row in counted]
        for row, value in zip(exact + counted, bits, strict=True):
            row |= {"offered_bits": value, "offered_bits_estimator": "exact" if "pass_rate" in row else "jackknife"}

    @staticmethod
    def _first_error_bits(row: dict, group: list[dict]) -> dict:
        """What the position of the first wrong step of one more rollout offers, where a verifier judges steps."""
        if "step_pass_rates" in row:
            bits = first_error_entropy_bits(np.minimum(row["step_pass_rates"], 1.0))
            return {"first_error_entropy_bits": bits, "first_error_entropy_estimator": "exact"}
        if len(group) < 2 or "num_correct_before_first_error" not in group[0]:
            return {}
        places = [(rollout["num_correct_before_first_error"], rollout["num_steps"]) for rollout in group]
        bits = _entropy_bits(tuple(sorted([place if place < num_steps else -1 for place, num_steps in places])))
        return {"first_error_entropy_bits": bits, "first_error_entropy_estimator": "jackknife"}
