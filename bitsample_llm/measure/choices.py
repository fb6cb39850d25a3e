"""How much is measured, and which probes ask if the skill is latent?"""

import dataclasses
import math
from dataclasses import dataclass

from bitsample_llm.measure.probes import PROBE_GROUP_SIZE, shot_separator, with_mark, with_prefix, with_shots
from bitsample_llm.options import check_output_dir, option
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.tasks import Problem


@dataclass
class MeasureChoices:
    """How much is measured, and which probes."""

    output_dir: str | None = option(None, "Run directory for the records.")
    num_generations: int = option(32, "Rollouts per training prompt; even, at least 4.")
    batch_size: int = option(256, "Rollouts that each process samples at once.")
    max_completion_length: int = option(256, "Most tokens per rollout.")
    seed: int = option(42, "Seed of the rollouts.")
    resume_from_checkpoint: str | None = option(None, "last: continue a stopped measurement after the last part that it recorded.")
    use_cpu: bool = option(False, "Stay on the CPU.")
    probe_mark: str | None = option(None, "Probe with a better prompt (arithmetic tasks only): the mark of another author.")
    probe_prompt_prefix: str | None = option(None, "Probe with a better prompt: this text before every prompt.")
    probe_shots: int = option(0, "Probe with this many solved training problems before every prompt.")
    probe_updates: int = option(
        0, "Probe with a short GRPO run of this many updates on the training problems, measured on the held-out ones."
    )
    probe_learning_rate: float = option(
        1e-5, "Learning rate of the short GRPO run; the plan says if it was too low to move anything."
    )
    probe_rollouts_per_update: int = option(32, "Rollouts per update of the short GRPO run, in groups of 8.")

    def to_dict(self) -> dict:
        """The choices as the manifest has them."""
        return dataclasses.asdict(self)


def check_choices(choices: MeasureChoices, num_processes: int, num_shots: int = 0) -> None:
    """Refuse what cannot be measured: a ValueError names the option. `num_shots` solved problems stand before every prompt already."""
    check_output_dir(choices.output_dir)
    if choices.resume_from_checkpoint not in (None, "last"):
        raise ValueError(f"--resume_from_checkpoint takes last, got {choices.resume_from_checkpoint!r}")
    if choices.num_generations < 4 or choices.num_generations % 2:
        raise ValueError(f"--num_generations must be even and at least 4, for two halves, got {choices.num_generations}")
    if num_shots and (choices.probe_shots or choices.probe_mark):
        raise ValueError("--shots takes neither --probe_shots nor --probe_mark beside it: set --probe_shots 0 --probe_mark ''")
    parts = math.lcm(PROBE_GROUP_SIZE, num_processes)
    if choices.probe_rollouts_per_update < 1 or choices.probe_rollouts_per_update % parts:
        raise ValueError(f"--probe_rollouts_per_update must be a multiple of {parts}, got {choices.probe_rollouts_per_update}")


def asked_otherwise(
    choices: MeasureChoices, problems: list[Problem], tokenizer, max_tokens: int | None, end: AnswerEnd
) -> dict[str, list[Problem]]:
    """The training problems under each prompt probe that was asked for."""
    probes = {}
    if choices.probe_prompt_prefix:
        probes["prefix"] = with_prefix(problems, choices.probe_prompt_prefix)
    if choices.probe_mark:
        probes["mark"] = with_mark(problems, choices.probe_mark)
    if choices.probe_shots:
        probes["shots"] = with_shots(problems, choices.probe_shots, tokenizer, max_tokens, end)
    return probes


def told_of_probes(choices: MeasureChoices, end: AnswerEnd) -> dict[str, str]:
    """What each probe did, in words for the plan."""
    updates = f"{choices.probe_updates} GRPO updates of {choices.probe_rollouts_per_update} rollouts"
    return {
        "prefix": f"prompt after {choices.probe_prompt_prefix!r}",
        "mark": f"prompt under author mark {choices.probe_mark!r}",
        "shots": f"{choices.probe_shots} solved problems before the prompt, parted by {shot_separator(end.tokenizer, end.stop)!r}",
        "updates": f"{updates} at learning rate {choices.probe_learning_rate:g}, on held-out prompts",
    }
