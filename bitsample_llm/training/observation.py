"""What if the environment tells more of a rollout than a verdict? Labels made of what it tells, in the place of the reward.

A rollout is drawn and charged as in GRPO, and its verdict is recorded. What is trained on is a label after a context:

- `first_error`: where the rollout first went wrong and what is right there: one token, after the rollout's own beginning; a pass has none.
- `answer`: the right answer, after the prompt.
- `reply_answer`, `reply_verdict`: the environment's reply as text, the right answer or one token for the verdict, after prompt and rollout: a world model.
  The rollout itself is not trained on.

The loss is GRPO's own: with an advantage of 1 its gradient is that of the log-probability of the label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.options import option
from bitsample_llm.scoring.likelihood import encode_answer, padded_batch
from bitsample_llm.training.objectives import SkipsDeadRows

TOLD = ("first_error", "answer", "reply_answer", "reply_verdict")
VERDICT_TEXTS = {True: "1", False: "0"}


@dataclass
class ObservationArguments:
    """What the environment tells of a rollout."""

    told: str | None = option(
        None,
        "Learn from a label in the place of the reward. first_error: the token that is right where the rollout first went wrong, after the rollout's own "
        "beginning. answer: the right answer, after the prompt. reply_answer, reply_verdict: the right answer, or 1 or 0, after the whole rollout, as the "
        "reply of a world that is to be predicted.",
        choices=list(TOLD),
    )


def label_of(
    told: str, completion_ids: Sequence[int], passed: bool, answer_ids: Sequence[int], verdict_ids: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Tokens of the rollout that stand between prompt and label, and those of the label, none where there is nothing to learn.

    >>> label_of("first_error", [4, 9, 5, 1], False, [4, 7, 5, 1], [])
    ([4], [7])
    >>> label_of("first_error", [4, 7, 5, 1], True, [4, 7, 5, 1], [])
    ([], [])
    """
    rollout, answer = list(completion_ids), list(answer_ids)
    if told == "answer":
        return [], answer
    if told.startswith("reply"):
        return rollout, answer if told == "reply_answer" else list(verdict_ids)
    if passed:
        return [], []
    # a rollout that was cut off went wrong where it should have gone on
    num_right = next((n for n, pair in enumerate(zip(rollout, answer, strict=False)) if pair[0] != pair[1]), len(rollout))
    return rollout[:num_right], answer[num_right : num_right + 1]


class LearnsFromObservation:
    """Mixin for GRPO that trains on labels; a ValueError where what is right is not one text, or for an option of GRPO that compares rollouts with
    another policy.
    """

    trains_on_other_tokens = True  # the meter asks: the surprisal of what is trained on is not the rollout's

    def __init__(self, *args, told: str, verifier: RolloutVerifier, **kwargs):
        super().__init__(*args, **kwargs)
        if told != "reply_verdict" and not verifier.task.has_one_accepted_string:
            raise ValueError(f"--told {told} needs one right answer per problem, and several pass here: use --told reply_verdict")
        if self.beta != 0.0 or self.use_vllm:
            raise ValueError("--told trains on labels, not on rollouts: pass --beta 0 and --use_vllm false")
        self.told = told
        self.verifier = verifier

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return output
        masks, problem_ids = output["completion_mask"].bool(), [example["problem_id"] for example in inputs]
        rollouts = [ids[mask].tolist() for ids, mask in zip(output["completion_ids"], masks, strict=True)]
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(output["prompt_ids"], output["prompt_mask"], strict=True)]
        judged = self.verifier.judged(problem_ids, rollouts)
        contexts, labels = [], []
        for prompt, problem_id, rollout, (_, _, verdict) in zip(prompts, problem_ids, rollouts, judged, strict=True):
            problem = self.verifier.problem_by_id[problem_id]
            _, answer_ids = encode_answer(self._tokenizer, problem, self.verifier.end)
            verdict_ids = self._tokenizer(VERDICT_TEXTS[verdict.passed], add_special_tokens=False)["input_ids"]
            between, label = label_of(self.told, rollout, verdict.passed, answer_ids, verdict_ids)
            contexts.append(prompt + between)
            labels.append(label)
        pad, device = self._tokenizer.pad_token_id, output["advantages"].device
        output["advantages"] = output["advantages"].new_tensor([float(bool(label)) for label in labels])
        for name, rows, on_left in (("prompt", contexts, True), ("completion", [label or [pad] for label in labels], False)):
            batch = padded_batch(rows, pad, on_left)
            output |= {f"{name}_ids": batch["input_ids"].to(device), f"{name}_mask": batch["attention_mask"].to(device)}
        output["completion_mask"] *= output["advantages"].long()[:, None]
        output["num_items_in_batch"] = self.accelerator.gather(output["completion_mask"].sum()).sum()
        output.pop("old_per_token_logps", None)  # of the rollouts
        return output


@cache
def learning_from_observation(trainer_class: type) -> type:
    """The trainer that is told more, `Observing` before its name."""
    return type(f"Observing{trainer_class.__name__}", (LearnsFromObservation, SkipsDeadRows, trainer_class), {})
