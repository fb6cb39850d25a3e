"""Who gets the credit for a rollout? Advantages of steps and of tokens from verdicts on steps, next to TRL's one scalar.

A group holds the G rollouts of one prompt, rollout i with step verdicts c_ik in {0, 1}, k = 1..K_i. K_i may differ: the policy
decides how many steps it takes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bitsample_llm.tasks import Step, Verdict

EPSILON = 1e-4  # TRL's, added to every standard deviation that divides


def right_step_share(verdict: Verdict, num_steps: int) -> float:
    """Share of right steps, as one scalar: sum_k c_k / max(K, number of steps of the right completion).

    Steps left out count as wrong ones, and so do steps too many.
    """
    return sum(step.correct for step in verdict.steps) / max(len(verdict.steps), num_steps)


def right_prefix_share(verdict: Verdict, num_steps: int) -> float:
    """Share of the steps before the first wrong one, as one scalar, of max(K, number of steps of the right completion).

    It tells what the position of the first error tells, and credits the whole rollout with it.
    """
    return verdict.num_correct_before_first_error / max(len(verdict.steps), num_steps)


def process_tokens(group: Sequence[Sequence[bool]]) -> list[np.ndarray]:
    """Advantage of each step: the sum of the normalised rewards of the steps from it on.

    r_ik = (c_ik - mean) / (std + eps), mean and std over all steps of the group; A_ik = sum_{j >= k} r_ij. The baseline is the
    group's mean step. A completion of more steps sums more terms, so where steps are better than the mean length is rewarded.

    Source: DeepSeekMath (arXiv 2402.03300), section 4.1.3.
    """
    rewards = [np.asarray(steps, dtype=float) for steps in group]
    all_steps = np.concatenate(rewards)
    return [np.cumsum(((r - all_steps.mean()) / (all_steps.std() + EPSILON))[::-1])[::-1] for r in rewards]


def first_error(group: Sequence[Sequence[bool]]) -> list[np.ndarray]:
    """Advantage of each step up to the first wrong one, which is blamed; 0 after it.

    A_ik = (c_ik - b_k) / (s + eps). The baseline b_k is the mean of c_jk over the rollouts j that reach step k without an
    error, so that step k is compared with step k; s is the standard deviation of all steps reached in the group. For every k
    the advantages sum to 0 over the group, whoever reaches k: neither more steps nor fewer are preferred.
    """
    reached = [next((k + 1 for k, correct in enumerate(steps) if not correct), len(steps)) for steps in group]
    values = [np.asarray(steps[:num], dtype=float) for steps, num in zip(group, reached, strict=True)]
    spread = np.concatenate(values).std() + EPSILON
    baselines = [np.mean([v[k] for v in values if len(v) > k]) for k in range(max(reached))]
    advantages = []
    for steps, v in zip(group, values, strict=True):
        whole = np.zeros(len(steps))
        whole[: len(v)] = (v - baselines[: len(v)]) / spread
        advantages.append(whole)
    return advantages


class Credit(NamedTuple):
    """A way to assign credit: the reward that TRL turns into a scalar, and the advantages of steps that replace or join it.

    `step_weight` is the share of the step advantages in a token's advantage; the rest is TRL's scalar,
    (R_i - mean R) / (std R + eps) over the group. `sums_later_steps`: a token that covers two steps gets the advantage of the
    first, because the steps that end at or after the token are summed; else it gets the mean of both.
    """

    reward: str
    step_advantages: Callable[[Sequence[Sequence[bool]]], list[np.ndarray]] | None = None
    step_weight: float = 0.0
    sums_later_steps: bool = False


CREDITS = {
    "outcome": Credit("outcome"),  # R = 1 for a pass, else 0
    "process_sum": Credit("process_sum"),  # R = right_step_share: a denser reward, credited as the outcome is
    "process_prefix": Credit("process_prefix"),  # R = right_prefix_share: what first_error tells, credited as the outcome is
    "process_tokens": Credit("outcome", process_tokens, 1.0, sums_later_steps=True),
    "first_error": Credit("outcome", first_error, 1.0),
    "process_outcome": Credit("outcome", first_error, 0.5),  # half first_error, half outcome
    "random": Credit("random"),  # R is a fair coin: the control
}


def steps_of_tokens(token_spans: Sequence[tuple[int, int]], steps: Sequence[Step]) -> list[list[int]]:
    """Numbers of the steps that each token has characters of.

    A step of width zero, the end of an answer, is the token that begins where it stands: the end-of-sequence token, or what
    was written in its place. Tokens may cover several steps, and a step several tokens.

    >>> steps_of_tokens([(0, 2), (2, 2)], [Step(0, 1, True), Step(1, 2, True), Step(2, 2, True)])
    [[0, 1], [2]]
    """
    covered: list[list[int]] = []
    for start, end in token_spans:
        inside = [
            k
            for k, step in enumerate(steps)
            if (step.start < end and start < step.end) or (step.start == step.end and step.start == start)
        ]
        covered.append(inside)
    return covered


def token_advantages(
    credit: Credit, step_advantages: np.ndarray, scalar_advantage: float, covered: Sequence[Sequence[int]]
) -> list[float]:
    """Advantage of each token of a rollout; a token of no step has a step advantage of 0."""
    advantages = []
    for steps in covered:
        if not steps:
            of_steps = 0.0
        elif credit.sums_later_steps:
            of_steps = float(step_advantages[steps[0]])
        else:
            of_steps = float(np.mean(step_advantages[list(steps)]))
        advantages.append(credit.step_weight * of_steps + (1 - credit.step_weight) * scalar_advantage)
    return advantages
