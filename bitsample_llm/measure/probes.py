"""Is a skill latent: does the model have it, and show it seldom? Three probes: a better prompt, solved examples, a few updates of RL.

A pass rate cannot tell a skill that is seldom shown from one that is missing. Each probe raises the pass rate of the first kind
and leaves that of the second where it was. The first two train nothing.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from bitsample_llm.measure.measurement import Sampler
from bitsample_llm.meter.callback import InformationMeter
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import encode_answer
from bitsample_llm.tasks import Problem
from bitsample_llm.tasks.authors import CARE_BY_MARK
from bitsample_llm.tasks.problem import UNKNOWN_MARK
from bitsample_llm.training.prompt_format import after_shots, can_write, check_shots
from bitsample_llm.training.rewards import VerdictReward

PROBE_GROUP_SIZE = 8  # rollouts per group of the short GRPO run


def with_prefix(problems: Sequence[Problem], prefix: str) -> list[Problem]:
    """The problems, ids and all, with a text before every prompt; in a conversation, before the text of the last message."""
    return [dataclasses.replace(problem, prompt=_prefixed(problem.prompt, prefix)) for problem in problems]


def _prefixed(prompt: str | list[dict[str, str]], prefix: str) -> str | list[dict[str, str]]:
    if isinstance(prompt, str):
        return prefix + prompt
    *before, last = prompt
    return [*before, last | {"content": prefix + last["content"]}]


def with_mark(problems: Sequence[Problem], mark: str) -> list[Problem]:
    """The problems under another author's mark; a ValueError for one nobody knows, and for prompts that begin with none."""
    if mark not in CARE_BY_MARK:
        raise ValueError(f"unknown author mark {mark!r}; known: {', '.join(CARE_BY_MARK)}")
    if not all(isinstance(p.prompt, str) and p.prompt.startswith(p.mark or UNKNOWN_MARK) for p in problems):
        raise ValueError("--probe_mark is for the arithmetic tasks, whose prompts begin with an author's mark")
    return [dataclasses.replace(problem, prompt=mark + problem.prompt[1:]) for problem in problems]


def shot_separator(tokenizer, stop: str | None = None) -> str:
    """What separates solved examples: an empty line, or the end of sequence if the tokenizer has no line break; after the stop,
    where one is named, so that examples end as answers do.
    """
    separator = "\n\n" if can_write(tokenizer, "\n\n") else tokenizer.eos_token
    return separator if stop is None or separator.startswith(stop) else stop + separator


def with_shots(
    problems: Sequence[Problem], num_shots: int, tokenizer, max_tokens: int | None, end: AnswerEnd | None = None
) -> list[Problem]:
    """The problems, each with `num_shots` solved examples before it: the problems that follow it in the list.

    A ValueError for too few problems, one without a reference completion, or prompts and answers of more than `max_tokens`, which
    is what the model has positions for.
    """
    check_shots("--probe_shots", num_shots, problems)
    separator = shot_separator(tokenizer, None if end is None else end.stop)
    result = []
    for index, problem in enumerate(problems):
        shots = [problems[(index + distance) % len(problems)] for distance in range(1, num_shots + 1)]
        result.append(after_shots(problem, shots, separator))
    longest = max(sum(map(len, encode_answer(tokenizer, problem, end))) for problem in result)
    if max_tokens is not None and longest > max_tokens:
        raise ValueError(f"--probe_shots {num_shots} makes prompts of {longest} tokens, and the model reads {max_tokens}")
    return result


def train_briefly(
    sampler: Sampler,
    problems: Sequence[Problem],
    run_dir: Path,
    num_updates: int,
    learning_rate: float,
    rollouts_per_update: int,
) -> None:
    """Train the sampler's model in place by a few updates of GRPO, its records in `run_dir`; nothing of the model is saved.

    `rollouts_per_update`, of all processes together, is divisible by their number and by `PROBE_GROUP_SIZE`.
    """
    args = GRPOConfig(
        output_dir=str(run_dir / "checkpoints"),
        max_steps=num_updates,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        per_device_train_batch_size=rollouts_per_update // sampler.accelerator.num_processes,
        num_generations=PROBE_GROUP_SIZE,
        max_completion_length=sampler.max_completion_length,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        bf16=False,
        activation_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=num_updates,
        seed=sampler.seed,
        ddp_find_unused_parameters=False,
        use_cpu=sampler.accelerator.device.type == "cpu",
    )
    verifier = RolloutVerifier(sampler.task, problems, sampler.tokenizer, sampler.end)
    trainer = GRPOTrainer(
        model=sampler.model,
        reward_funcs=[VerdictReward(verifier)],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": p.prompt, "problem_id": p.problem_id} for p in problems]),
        processing_class=sampler.tokenizer,
    )
    trainer.add_callback(InformationMeter(trainer, output_dir=run_dir, verifier=verifier, strict=True))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
