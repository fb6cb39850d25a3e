"""What a problem and a verdict are, and the rule that assigns operand pairs to splits.

A split owns *operand pairs*, not prompts: a pair belongs to exactly one pool in whichever order, task, format or mark it
appears, so no problem is seen in training and in evaluation, pretraining included.
"""

import hashlib
from dataclasses import dataclass

UNKNOWN_MARK = "?"
NO_MARK = "none"  # in place of a mark: prompts begin with the question, for models that know no authors

# Cumulative upper bounds of a pair's hash in [0, 1). Learning rates are tuned on the `tuning` pools, which no reported run
# touches. `pretrain` and `seen` are what the base model was trained on, `seen` by the always-right author only.
POOL_BOUNDS = {
    "heldout": 0.10,
    "shifted": 0.20,
    "train": 0.34,
    "tuning": 0.38,
    "tuning_heldout": 0.40,
    "seen": 0.45,
    "pretrain": 1.00,
}


@dataclass(frozen=True)
class Problem:
    """One draw of a task: what the model is given and the answer that passes, after the worked `lines` of a scratchpad.

    The prompt is a text, or a conversation as TRL has it: a list of messages with `role` and `content`. `verifier` names what
    judges a completion; `exact` accepts the answer and nothing else. Data may say of which `level` a problem is, and under which
    other prompt (`rollout_prompt`) rollouts are drawn.
    """

    problem_id: str
    prompt: str | list[dict[str, str]]
    answer: str
    difficulty: int
    mark: str | None = None
    lines: tuple[str, ...] = ()
    verifier: str = "exact"
    level: str | None = None
    rollout_prompt: str | list[dict[str, str]] | None = None

    @property
    def has_one_accepted_string(self) -> bool:
        """Whether a single completion passes, so that its probability is the pass rate."""
        return self.verifier == "exact" and not self.lines

    @property
    def completion(self) -> str:
        """What an author who is right writes: the answer, after the worked lines if there are any."""
        return "".join(self.lines) + self.answer

    @property
    def num_steps(self) -> int:
        """Steps of the verdict on the right completion, its end included."""
        return len(self.lines) + 2 if self.lines else len(self.answer) + 1


@dataclass(frozen=True)
class Step:
    """A judged piece of a completion: characters [start, end); the end of the answer is a step of width zero."""

    start: int
    end: int
    correct: bool


@dataclass(frozen=True)
class Verdict:
    """`passed`, the kind of the first error as `reason` (``correct`` if there is none), and a `Step` per digit and for the end."""

    passed: bool
    reason: str
    steps: tuple[Step, ...]

    @property
    def num_correct_before_first_error(self) -> int:
        """Steps that are right before the first wrong one; equals ``len(steps)`` for a pass."""
        for index, step in enumerate(self.steps):
            if not step.correct:
                return index
        return len(self.steps)


def pool_of(key: str, bounds: dict[str, float]) -> str:
    """Name of the pool that owns what a key stands for; `bounds` are cumulative upper bounds of the key's hash in [0, 1)."""
    fraction = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
    return next(pool for pool, bound in bounds.items() if fraction < bound)


def pool_of_pair(first: int, second: int) -> str:
    """Name of the pool that owns an unordered operand pair."""
    return pool_of(f"{min(first, second)},{max(first, second)}", POOL_BOUNDS)


def verdict_on_string(answer: str, completion: str, ended: bool) -> Verdict:
    """Verdict that accepts exactly the string `answer`, stopped by its author (`ended`).

    The step k is judged on the character k alone, against the right answer. At most ``len(answer)`` characters are looked
    at, so a completion of a megabyte costs no more than a short one. Nothing is parsed, stripped or normalised: what
    passes is what the likelihood scores.

    >>> verdict_on_string("231", "241", True).reason
    'wrong_digit'
    >>> [(s.start, s.end, s.correct) for s in verdict_on_string("23", "23", True).steps]
    [(0, 1, True), (1, 2, True), (2, 2, True)]
    """
    ended = bool(ended)
    digits = tuple(
        Step(index, index + 1, written == right)
        for index, (written, right) in enumerate(zip(completion[: len(answer)], answer, strict=False))
    )
    position = len(digits)
    passed = ended and completion == answer
    steps = digits + (Step(position, position, passed or (ended and len(completion) == len(answer))),)
    if passed:
        return Verdict(True, "correct", steps)
    wrong = next((step.start for step in digits if not step.correct), None)
    if wrong is not None:
        reason = "wrong_digit" if completion[wrong] in "0123456789" else "not_a_digit"
    elif len(completion) > len(answer):
        reason = "too_long"
    elif not ended:
        reason = "not_ended"
    else:
        reason = "too_short" if completion else "empty"
    return Verdict(False, reason, steps)
