"""The theory: a policy that has three answers to a problem. What does each way to train do to the odds of the general one over the rule?

Conventions. g, h: probabilities of the general answer and of the rule's, the rest w = 1 - g - h is wrong. s: share of the problems on which
the rule is right too. There the pass rate is g + h, on the others g, and the mean reward is r = g + h s. A way to train ascends the mean over
problems of weight(p) dp, p being a problem's pass rate: 1 for policy gradient, 1/p for SFT, and what the division by a group's standard
deviation leaves of it for GRPO.

In `strategies` a softmax over three logits, the same for all problems, says which strategy answers. In `digits` two gates do: the first lets g + h pass, which
is all that a problem without a carry asks for, and the second lets g/(g + h) of that pass.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from scipy.stats import binom

Weight = Callable[[float], float]


def group_weight(size: int) -> Weight:
    """The weight of GRPO with groups of `size` rollouts: c passes give advantages whose sum of squares the division makes `size` - 1, and the expected gradient is
    E[c (size - c) / (size^2 std)] / (p (1 - p)) times that of p.
    """
    passed = np.arange(1, size)
    std = np.sqrt(passed * (size - passed) / (size * (size - 1)))
    pushed = passed * (size - passed) / (size**2 * std)
    return lambda p: float((binom.pmf(passed, size, p) * pushed).sum() / (p * (1 - p)))


GROUP = 8
WEIGHTS: dict[str, Weight] = {
    "pass_rate": lambda p: 1.0,
    "normalised_pass_rate": lambda p: 1 / np.sqrt(p * (1 - p)),
    "group of 8": group_weight(GROUP),
    "log_likelihood": lambda p: 1 / p,
}


def strategies(g: float, h: float, s: float, weight: Weight) -> np.ndarray:
    """Gradients of the three logits: general, rule, wrong."""
    easy, hard = s * weight(g + h), (1 - s) * weight(g)
    w = 1 - g - h
    return np.array(
        [
            g * (easy * w + hard * (1 - g)),
            h * (easy * w - hard * g),
            -w * (easy * (g + h) + hard * g),
        ]
    )


def slope(g: float, h: float, s: float, weight: Weight) -> float:
    """d ln(g/h)/dt of `strategies`; below 0 the general strategy recedes.

    >>> g, h, s = 0.3, 0.5, 0.8
    >>> bool(np.isclose(slope(g, h, s, WEIGHTS["pass_rate"]), g * (1 - g - h * s) - h * (s - g - h * s)))
    True
    """
    return slope_of_kin(g, h, s, weight, kin=0.0)


def slope_of_kin(g: float, h: float, s: float, weight: Weight, kin: float) -> float:
    """The same where logits share weights: a push on the wrong answers' logit moves ln(g/h) by `kin`, where one on the general logit moves it by 1 and one on the rule's by -1. Below 0 wrong
    answers are akin to the rule, and what teaches against them teaches against it.
    """
    of_general, of_rule, of_wrong = strategies(g, h, s, weight)
    return float(of_general - of_rule + kin * of_wrong)


def kinship(g: float, h: float, ratio: float, weight: Weight) -> float:
    """The `kin` at which the slope at s = 1 is `ratio` times that at s = 0."""
    easy, hard = ([slope_of_kin(g, h, s, weight, kin) for kin in (0.0, 1.0)] for s in (1.0, 0.0))
    return (easy[0] - ratio * hard[0]) / (ratio * (hard[1] - hard[0]) - (easy[1] - easy[0]))


def slope_apart(g: float, h: float, s: float, weight: Weight, length: int) -> float:
    """The slope where the verdict is on an episode of `length` problems and each answer chooses its strategy anew. Where one choice stands for all of them it is `slope` at s^length.

    >>> g, h, s, weight = 0.1, 0.6, 0.8, WEIGHTS["pass_rate"]
    >>> bool(np.isclose(slope_apart(g, h, s, weight, 4), (g + h * s) ** 3 * slope(g, h, s, weight)))
    True
    """
    num_hard = np.arange(length)
    others = g**num_hard * (g + h) ** (length - 1 - num_hard)  # the chance that the other problems pass
    chances = binom.pmf(num_hard, length - 1, 1 - s)
    return slope(g, h, s, lambda p: float(sum(c * weight(p * other) * other for c, other in zip(chances, others, strict=True))))


def slope_by_digits(g: float, h: float, s: float, weight: Weight) -> float:
    """The same of `digits`: problems on which the rule is right do not touch the second gate, so that the general strategy never recedes."""
    return float(2 * (1 - s) * weight(g) * g * h / (g + h))


def crossing(h: float, s: float, weight: Weight) -> float | None:
    """The least g at which the slope is not negative; None where it is positive for every g."""
    grid = np.geomspace(1e-4, (1 - h) * (1 - 1e-4), 400)
    slopes = [slope(g, h, s, weight) for g in grid]
    negative = [index for index, value in enumerate(slopes) if value < 0]
    if not negative:
        return None
    last = negative[-1]
    if last == len(grid) - 1:
        return float(1 - h)
    return float(brentq(lambda g: slope(g, h, s, weight), grid[last], grid[last + 1]))


def share_at_crossing(g: float, h: float, weight: Weight) -> float:
    """The share s at which the slope is 0: a slope is linear in s. 1 where it is positive for every share."""
    start, end = slope(g, h, 0.0, weight), slope(g, h, 1.0, weight)
    return 1.0 if end >= 0 else float(start / (start - end))


def path(g: float, h: float, s: float, weight: Weight, times: Sequence[float]) -> np.ndarray:
    """g and h at the given times under gradient flow of the logits, a row per time. The unit of time is arbitrary: a network has a scale of its own."""

    def flow(_, logits):
        odds = np.exp(logits - logits.max())
        g, h, _ = np.clip(odds / odds.sum(), 1e-12, 1 - 1e-12)
        return strategies(g, h, s, weight)

    start = np.log([g, h, max(1 - g - h, 1e-9)])
    found = solve_ivp(flow, (0, times[-1]), start, t_eval=times, method="LSODA", rtol=1e-7, atol=1e-9)
    odds = np.exp(found.y - found.y.max(axis=0))
    return (odds / odds.sum(axis=0))[:2].T
