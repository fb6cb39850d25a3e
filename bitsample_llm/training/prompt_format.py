"""How do problems reach a model: as text or as a conversation, after solved ones, in its context, in answers that its tokenizer can
write?
"""

import dataclasses
from collections.abc import Sequence

from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import encode_answer, encode_prompt
from bitsample_llm.scoring.spellings import MAX_SPELLINGS, decoded
from bitsample_llm.tasks import Problem
from bitsample_llm.tasks.dataset_rows import SYSTEM_ROLES, Faults
from bitsample_llm.training.arguments import RunArguments
from bitsample_llm.training.processes import say

IGNORED = -100  # the label of a token that carries no loss


def is_chat(prompt_format: str, tokenizer) -> bool:
    """Whether text prompts become messages; a ValueError for `chat` without a chat template."""
    if prompt_format == "chat" and not tokenizer.chat_template:
        raise ValueError("prompt_format chat needs a tokenizer with a chat template: pass --prompt_format text")
    return prompt_format == "chat" or (prompt_format == "auto" and bool(tokenizer.chat_template))


def as_messages(problem: Problem) -> Problem:
    """The problem with its text, and the one that rollouts are drawn under, as the user's message; a conversation stays as it is."""
    texts = {name: text for name in ("prompt", "rollout_prompt") if isinstance(text := getattr(problem, name), str)}
    return dataclasses.replace(problem, **{name: [{"role": "user", "content": text}] for name, text in texts.items()})


def can_write(tokenizer, text: str) -> bool:
    """Whether a text, in the middle of another, is the same once it was tokens."""
    inside = f"0{text}0"
    return decoded(tokenizer, [tokenizer(inside, add_special_tokens=False)["input_ids"]])[0] == inside


def check_shots(option: str, num: int, problems: Sequence[Problem]) -> None:
    """Refuse to take `num` of the problems as solved examples where that leaves none, or where one has no reference completion: a
    ValueError names the option.
    """
    if num >= len(problems):
        raise ValueError(f"{option} {num} needs more than {num} training problems, got {len(problems)}")
    if not all(problem.completion for problem in problems):
        raise ValueError(f"{option} needs a solved answer with every problem")


def after_shots(problem: Problem, shots: Sequence[Problem], separator: str) -> Problem:
    """The problem after solved ones: in a text each with its answer and the separator, in a conversation as earlier turns after the
    problem's own system messages. A ValueError where some are texts and some conversations.
    """
    if any(isinstance(shot.prompt, str) != isinstance(problem.prompt, str) for shot in shots):
        raise ValueError("shots need prompts of one kind, and some are texts, some conversations: pass --prompt_format chat")
    if not shots:
        return problem
    if isinstance(problem.prompt, str):
        shown = "".join(f"{shot.prompt}{shot.completion}{separator}" for shot in shots)
        return dataclasses.replace(problem, prompt=shown + problem.prompt)
    turns = [message for shot in shots for message in [*shot.prompt, {"role": "assistant", "content": shot.completion}]]
    system = [message for message in problem.prompt if message["role"] in SYSTEM_ROLES]
    said = [message for message in [*turns, *problem.prompt] if message["role"] not in SYSTEM_ROLES]
    return dataclasses.replace(problem, prompt=system + said)


def run_shots(train: Sequence[Problem], study: RunArguments, tokenizer) -> list[Problem]:
    """The solved problems that a run shows: the last of its training problems, whose order the problem seed decides. A ValueError
    for too many, or for a separator that the tokenizer cannot write.
    """
    check_shots("--shots", study.shots, train)
    if not can_write(tokenizer, study.shot_separator):
        raise ValueError(f"the tokenizer cannot write the separator {study.shot_separator!r}: name another, --shot_separator TEXT")
    return list(train[-study.shots :])


def fault_of(problem: Problem, end: AnswerEnd, context: int | None, reserved: int) -> str | None:
    """Why a model cannot be given a problem; None if it can. `context` is how many tokens the model, or a limit of the trainer, has
    room for (None: no limit), `reserved` how many a completion may take.
    """
    prompt_ids, answer_ids = encode_answer(end.tokenizer, problem, end)
    if end.stop is not None and end.stop in problem.completion:
        return f"the answer holds the stop {end.stop!r}, at which sampling ends"
    longest = max(len(prompt_ids), len(encode_prompt(end.tokenizer, problem.rollout_prompt or "")))
    if context is not None and longest + max(len(answer_ids), reserved) > context:
        return f"prompt and answer are longer than {context} tokens"
    if problem.has_one_accepted_string and decoded(end.tokenizer, [answer_ids[:-1]])[0] != problem.completion:
        return "the tokenizer cannot write the answer"
    return None


def fitted(
    problems: Sequence[Problem],
    end: AnswerEnd,
    prompt_format: str,
    context: int | None,
    reserved: int,
    faults: Faults,
    shots: Sequence[Problem] = (),
    separator: str = "",
) -> list[Problem]:
    """The problems as the model takes them, after the `shots`, others noted in `faults`; a ValueError for a conversation without a
    chat template.
    """
    tokenizer = end.tokenizer
    if not tokenizer.chat_template and any(not isinstance(problem.prompt, str) for problem in problems):
        raise ValueError("the prompts are conversations, and the tokenizer has no chat template: name a model with one")
    if is_chat(prompt_format, tokenizer):
        problems = [as_messages(problem) for problem in problems]
    kept = []
    for problem in problems:
        problem = after_shots(problem, shots, separator)
        if fault := fault_of(problem, end, context, reserved):
            if problem.problem_id not in faults.rows_by_fault.get(fault, ()):
                faults.add(fault, problem.problem_id)
        else:
            kept.append(problem)
    return kept


def problems_for_model(
    problems, model, tokenizer, study: RunArguments, *, end: AnswerEnd, reserved: int = 0, max_length: int | None = None
):
    """A run's problems (`problems.RunProblems`) as its model takes them, with what was left out, what is shown before each of them
    (`--shots`), and how many have no exact pass rate, said in `data` and told. A completion may take `reserved` tokens, prompt and
    answer the trainer's `max_length`.

    A ValueError if nothing is left to train on or to evaluate, for a conversation without a chat template, or for shots that cannot
    be had.
    """
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None), max_length]
    context = min((limit for limit in limits if limit), default=None)
    faults = Faults()
    options = {"prompt_format": study.prompt_format, "context": context, "reserved": reserved, "faults": faults}
    data = dict(problems.data)
    shown = []
    if study.shots:
        shots = run_shots(fitted(problems.train, end, **options), study, tokenizer)
        shown = [shot.problem_id for shot in shots]
        options |= {"shots": shots, "separator": study.shot_separator}
        data["shots"] = {"separator": study.shot_separator, "problem_ids": shown}
    train, *parts = [
        fitted([problem for problem in part if problem.problem_id not in shown], end, **options)
        for part in (problems.train, *problems.evaluation_sets.values())
    ]
    sets = dict(zip(problems.evaluation_sets, parts, strict=True))
    as_they_stand = {"prompt_format": "text", "context": context, "reserved": 0, "faults": faults}
    texts = {name: fitted(part, end, **as_they_stand) for name, part in problems.texts.items()}
    for line in faults.lines():
        say(line)
    for name, part in {"to train on": train, **sets, **texts}.items():
        if not part:
            why = "; ".join(faults.lines())
            why += "; ask for fewer --shots" if shown else ""
            raise ValueError(f"no problem is left {name if name == 'to train on' else f'in the set {name}'}: {why}")
    data["left_out"] = {**data.get("left_out", {}), **faults.rows_by_fault}
    data["prompt_format"] = "chat" if is_chat(study.prompt_format, tokenizer) else "text"
    data["pass_rates"] = told = pass_rates_said(sets["heldout"], end)
    if not told.startswith("exact"):
        say(f"held-out pass rates: {told}")
    return dataclasses.replace(problems, train=train, evaluation_sets=sets, data=data, texts=texts)


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
