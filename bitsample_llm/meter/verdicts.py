"""What passes, and how probably? Verdicts of a task on sampled token ids, and the exact probability of the answer, for reward
functions, the meter and measurements alike.

TRL decodes completions without their special tokens, so a completion with one in its middle could pass. Here the verdict is on all
that was sampled.
"""

from collections.abc import Sequence

import numpy as np
from accelerate.utils import gather_object

from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import (
    AnswerScore,
    Spelling,
    answer_scores,
    answer_spellings,
    scoring_plan,
    spelling_logprobs,
)
from bitsample_llm.scoring.prompt_states import PromptStates
from bitsample_llm.tasks import Problem, Verdict


def shared_answer_scores(
    trainer, problems: Sequence[Problem], end: AnswerEnd, prompt_states: PromptStates | None = None
) -> list[AnswerScore]:
    """Scores of the answers by the trainer's model, in order, on every process.

    What `prompt_states` knows the prompt of is scored by the process that does; of the rest each scores a share of the spellings with as many
    forward passes as the others, which sharded models need.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    spelled = answer_spellings(trainer.processing_class, list(problems), end)
    known = {}
    if prompt_states is not None:
        for part in gather_object([prompt_states.logprobs(model, spelled)]):
            known |= part
    if unknown := [index for index in range(len(spelled)) if index not in known]:
        known |= zip(unknown, _shared_logprobs(trainer, model, [spelled[index] for index in unknown]), strict=True)
    return answer_scores(spelled, [known[index] for index in range(len(spelled))])


def _shared_logprobs(trainer, model, spelled: list[Spelling]) -> list[np.ndarray]:
    accelerator = trainer.accelerator
    num_shares = accelerator.num_processes
    filled = spelled + spelled[-1:] * (-len(spelled) % num_shares)
    plan = scoring_plan(model, spelled)
    share = spelling_logprobs(model, trainer.processing_class, filled[accelerator.process_index :: num_shares], plan)
    by_process = gather_object(share)
    per_share = len(filled) // num_shares
    return [by_process[index % num_shares * per_share + index // num_shares] for index in range(len(spelled))]


class RolloutVerifier:
    """Verdicts of a task on sampled token ids; completions end as `end` says, by default with the tokenizer's end of sequence."""

    def __init__(self, task, problems: Sequence[Problem], tokenizer, end: AnswerEnd | None = None):
        self.task = task
        self.tokenizer = tokenizer
        self.end = end or AnswerEnd.of(None, tokenizer)
        self.problem_by_id = {problem.problem_id: problem for problem in problems}
        self._last_asked: tuple = ()
        self._last_judged: list[tuple[str, bool, Verdict]] = []

    def problem_ids(self, examples: Sequence[dict]) -> list[str | None]:
        """Of the rows that a trainer generates for."""
        return [example.get("problem_id") for example in examples]

    def judged(self, problem_ids: Sequence[str], completion_ids: Sequence[list[int]]) -> list[tuple[str, bool, Verdict]]:
        """Text, whether it stopped by itself, and verdict of each completion; a KeyError for a problem that is not known. A reward
        function and the meter ask for the same completions one after the other: they are judged once.
        """
        asked = (list(problem_ids), list(completion_ids))
        if asked != self._last_asked:
            texts_and_ends = self.end.texts_and_ends(completion_ids)
            self._last_judged = [
                (text, ended, self.task.verify(self.problem_by_id[problem_id], text, ended))
                for problem_id, (text, ended) in zip(problem_ids, texts_and_ends, strict=True)
            ]
            self._last_asked = asked
        return self._last_judged

    def rows(self, problem_ids: Sequence[str], completion_ids: Sequence[list[int]]) -> list[dict]:
        """Rows of the table `rollouts`, as far as text and verdict go."""
        return [
            {
                "problem_id": problem_id,
                "num_tokens": len(ids),
                "text": text,
                "ended": ended,
                "passed": verdict.passed,
                "reason": verdict.reason,
                "num_steps": len(verdict.steps),
                "num_correct_before_first_error": verdict.num_correct_before_first_error,
            }
            for problem_id, ids, (text, ended, verdict) in zip(
                problem_ids, completion_ids, self.judged(problem_ids, completion_ids), strict=True
            )
        ]

    def most_tokens_before_end(self, trainer, examples: Sequence[dict], end: AnswerEnd) -> int:
        """Of the answers to rows that a trainer generates for, in all their spellings."""
        problems = [self.problem_by_id[problem_id] for problem_id in dict.fromkeys(self.problem_ids(examples))]
        return max(len(spelling.answer_ids) for spelling in answer_spellings(trainer.processing_class, problems, end)) - 1

    def exact_pass_rates(
        self, trainer, problem_ids: Sequence[str], end: AnswerEnd, prompt_states: PromptStates | None = None
    ) -> list[dict]:
        """`AnswerScore.pass_rates` of each problem under the trainer's model."""
        distinct = [self.problem_by_id[problem_id] for problem_id in dict.fromkeys(problem_ids)]
        scores = shared_answer_scores(trainer, distinct, end, prompt_states)
        by_id = {problem.problem_id: score.pass_rates(problem) for problem, score in zip(distinct, scores, strict=True)}
        return [by_id[problem_id] for problem_id in problem_ids]
