"""How do problems reach a model: as text or as a conversation, in its context, in answers that its tokenizer can write?"""

import dataclasses
from collections.abc import Sequence

from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import encode_answer
from bitsample_llm.scoring.spellings import MAX_SPELLINGS, decoded
from bitsample_llm.tasks import Problem
from bitsample_llm.tasks.dataset_rows import Faults
from bitsample_llm.training.processes import say

IGNORED = -100  # the label of a token that carries no loss


def is_chat(prompt_format: str, tokenizer) -> bool:
    """Whether text prompts become messages; a ValueError for `chat` without a chat template."""
    if prompt_format == "chat" and not tokenizer.chat_template:
        raise ValueError("prompt_format chat needs a tokenizer with a chat template: pass --prompt_format text")
    return prompt_format == "chat" or (prompt_format == "auto" and bool(tokenizer.chat_template))


def as_messages(problem: Problem) -> Problem:
    """The problem with its text as the user's message; a conversation stays as it is."""
    if isinstance(problem.prompt, str):
        return dataclasses.replace(problem, prompt=[{"role": "user", "content": problem.prompt}])
    return problem


def fault_of(problem: Problem, end: AnswerEnd, context: int | None, reserved: int) -> str | None:
    """Why a model cannot be given a problem; None if it can. `context` is how many tokens the model, or a limit of the trainer, has
    room for (None: no limit), `reserved` how many a completion may take.
    """
    prompt_ids, answer_ids = encode_answer(end.tokenizer, problem, end)
    if end.stop is not None and end.stop in problem.completion:
        return f"the answer holds the stop {end.stop!r}, at which sampling ends"
    if context is not None and len(prompt_ids) + max(len(answer_ids), reserved) > context:
        return f"prompt and answer are longer than {context} tokens"
    if problem.has_one_accepted_string and decoded(end.tokenizer, [answer_ids[:-1]])[0] != problem.completion:
        return "the tokenizer cannot write the answer"
    return None


def fitted(problems: Sequence[Problem], end: AnswerEnd, prompt_format: str, context: int | None, reserved: int, faults: Faults):
    """The problems as the model takes them, others noted in `faults`; a ValueError for a conversation without a chat template."""
    tokenizer = end.tokenizer
    if not tokenizer.chat_template and any(not isinstance(problem.prompt, str) for problem in problems):
        raise ValueError("the prompts are conversations, and the tokenizer has no chat template: name a model with one")
    if is_chat(prompt_format, tokenizer):
        problems = [as_messages(problem) for problem in problems]
    kept = []
    for problem in problems:
        if fault := fault_of(problem, end, context, reserved):
            if problem.problem_id not in faults.rows_by_fault.get(fault, ()):
                faults.add(fault, problem.problem_id)
        else:
            kept.append(problem)
    return kept


def problems_for_model(
    problems, model, tokenizer, prompt_format: str, *, end: AnswerEnd, reserved: int = 0, max_length: int | None = None
):
    """A run's problems (`problems.RunProblems`) as its model takes them, with what was left out, and how many have no exact pass
    rate, said in `data` and told. A completion may take `reserved` tokens, prompt and answer the trainer's `max_length`.

    A ValueError if nothing is left to train on or to evaluate, or for a conversation without a chat template.
    """
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None), max_length]
    context = min((limit for limit in limits if limit), default=None)
    faults = Faults()
    options = {"prompt_format": prompt_format, "context": context, "reserved": reserved, "faults": faults}
    train = fitted(problems.train, end, **options)
    sets = {name: fitted(part, end, **options) for name, part in problems.evaluation_sets.items()}
    for line in faults.lines():
        say(line)
    for name, part in {"to train on": train, **sets}.items():
        if not part:
            why = "; ".join(faults.lines())
            raise ValueError(f"no problem is left {name if name == 'to train on' else f'in the set {name}'}: {why}")
    data = dict(problems.data)
    data["left_out"] = {**data.get("left_out", {}), **faults.rows_by_fault}
    data["prompt_format"] = "chat" if is_chat(prompt_format, tokenizer) else "text"
    data["pass_rates"] = told = pass_rates_said(sets["heldout"], end)
    if not told.startswith("exact"):
        say(f"held-out pass rates: {told}")
    return dataclasses.replace(problems, train=train, evaluation_sets=sets, data=data)


def pass_rates_said(problems: Sequence[Problem], end: AnswerEnd) -> str:
    """What the recorded pass rates of problems are."""
    if not all(problem.has_one_accepted_string for problem in problems):
        return (
            "not exact: several answers pass, so they come from rollouts; the probability of the reference answer is recorded too"
        )
    too_many = sum(end.spellings(problem.completion) is None for problem in problems)
    if too_many:
        return f"null for {too_many} of {len(problems)} answers, which have more than {MAX_SPELLINGS} spellings in tokens"
    return "exact"


def labelled_rows(problems: Sequence[Problem], tokenizer, end: AnswerEnd | None = None) -> list[dict]:
    """Rows for TRL's SFTTrainer, tokens and all: the prompt as a sampler is given it, then the answer with its end.

    TRL would tokenize prompt and answer in one, where a token may reach over their border, and train on what a chat template
    writes after the end; here the label is what a rollout has to write to pass.
    """
    rows = []
    for problem in problems:
        prompt_ids, answer_ids = encode_answer(tokenizer, problem, end)
        labels = [IGNORED] * len(prompt_ids) + answer_ids
        rows.append({"input_ids": prompt_ids + answer_ids, "labels": labels, "problem_id": problem.problem_id})
    return rows
