"""Which problems are asked next? Curricula: by level, by the verdicts on earlier rollouts, or by pass rates found out before.

`Selector` decides, from numbers alone. The two mixins put its choice in place of what TRL's sampler drew, for trainers that generate and for
SFT; every process makes the same choice, and a checkpoint holds what the next one depends on.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from accelerate.utils import gather_object

from bitsample_llm.meter.verdicts import RolloutVerifier, shared_answer_scores
from bitsample_llm.options import option
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.tasks import Problem

STATE_FILE = "selection.json"  # in a checkpoint
# Verdicts of so many generations ago weigh 1/e of those of today: the policy learns, and what was learned of one level moves others.
MEMORY_GENERATIONS = 64
SELECTIONS = ("shuffled", "easy_to_hard", "thompson", "probe", "exact_variance", "exact_half")


@dataclass
class SelectionArguments:
    """Which problems are trained on when."""

    selection: str = option(
        "shuffled",
        "Which problem is asked next. shuffled: all in turn. easy_to_hard: level after level (--level_column). thompson: of the level whose pass rate p, "
        "drawn from what its rollouts showed so far, has the largest p(1 - p). probe: of a few candidates the one nearest to p = .5 by some "
        "rollouts that are drawn for that and cost what they cost. exact_half: the same by exact pass rates, whose cost is not counted: a "
        "bound, not a method. exact_variance: a candidate with a probability in proportion to its exact p(1 - p).",
        choices=list(SELECTIONS),
    )
    selection_candidates: int = option(8, "Candidates per chosen problem: of probe, exact_half and exact_variance.")
    selection_rollouts: int = option(4, "Rollouts per candidate of probe.")
    easy_to_hard_steps: int = option(
        200, "Updates in which easy_to_hard goes through the levels, for equally long each; then the hardest stays."
    )


class Selector:
    """Chooses rows of the training problems; `verifier` and `end` are for those who have to find pass rates out."""

    def __init__(
        self,
        how: SelectionArguments,
        problems: Sequence[Problem],
        seed: int,
        end: AnswerEnd,
        verifier: RolloutVerifier | None = None,
    ):
        self.how, self.problems, self.end, self.verifier = how, problems, end, verifier
        if verifier is None and how.selection in ("thompson", "probe"):
            raise ValueError(
                f"--selection {how.selection} chooses by rollouts, and SFT has none: use easy_to_hard, exact_half or exact_variance"
            )
        if how.selection.startswith("exact") and not all(problem.has_one_accepted_string for problem in problems):
            raise ValueError(f"--selection {how.selection} needs exact pass rates, and several answers pass: use thompson or probe")
        # without a level every problem stands for itself
        names = [problem.problem_id if problem.level is None else problem.level for problem in problems]
        if how.selection == "easy_to_hard":
            names = [_as_number(name) for name in names]
        self.levels = sorted(set(names))
        place = {level: index for index, level in enumerate(self.levels)}
        self.level_of_row = np.array([place[name] for name in names])
        self.rows_by_level = [np.flatnonzero(self.level_of_row == index) for index in range(len(self.levels))]
        self.passes_L, self.fails_L = np.zeros(len(self.levels)), np.zeros(len(self.levels))
        self.rng = np.random.default_rng([seed, 0x5E1EC7])

    def chosen(
        self, num: int, step: int, pass_rates_of: Callable[[list[int]], Sequence[float]]
    ) -> tuple[list[int], list[float | None]]:
        """Rows of `num` problems for the update `step`, and the pass rate that each was chosen for; None where that was not asked. `pass_rates_of`
        gives the pass rates of rows.
        """
        if self.how.selection == "easy_to_hard":
            level = min(step * len(self.levels) // self.how.easy_to_hard_steps, len(self.levels) - 1)
            return self._rows_of_level(level, num), [None] * num
        if self.how.selection == "thompson":
            return self._by_counts(num)
        candidates = self.rng.choice(
            len(self.problems), size=min(num * self.how.selection_candidates, len(self.problems)), replace=False
        )
        pass_rates = np.asarray(pass_rates_of(candidates.tolist()))
        variance = pass_rates * (1 - pass_rates)
        if self.how.selection == "exact_variance" and np.count_nonzero(variance) >= num:
            picked = self.rng.choice(len(candidates), size=num, replace=False, p=variance / variance.sum())
        else:  # candidates stand in a random order, so that a stable sort draws among equals
            picked = np.argsort(-variance, kind="stable")[np.arange(num) % len(candidates)]
        return candidates[picked].tolist(), pass_rates[picked].tolist()

    def _by_counts(self, num: int) -> tuple[list[int], list[float]]:
        rows, pass_rates = [], []
        for _ in range(num):
            drawn_L = self.rng.beta(1 + self.passes_L, 1 + self.fails_L)
            level = int(np.argmax(drawn_L * (1 - drawn_L)))
            rows += self._rows_of_level(level, 1)
            pass_rates.append(float(drawn_L[level]))
        return rows, pass_rates

    def _rows_of_level(self, level: int, num: int) -> list[int]:
        rows = self.rows_by_level[level]
        return self.rng.choice(rows, size=num, replace=num > len(rows)).tolist()

    def tell(self, rows: Sequence[int], num_passed: Sequence[float], group_size: int) -> None:
        """Count the verdicts on a generation: how many of the `group_size` rollouts of each row passed."""
        for counts in (self.passes_L, self.fails_L):
            counts *= np.exp(-1 / MEMORY_GENERATIONS)
        levels = self.level_of_row[list(rows)]
        np.add.at(self.passes_L, levels, num_passed)
        np.add.at(self.fails_L, levels, group_size - np.asarray(num_passed))

    def state(self) -> dict:
        """What the next choice depends on, as JSON has it."""
        return {"passes": self.passes_L.tolist(), "fails": self.fails_L.tolist(), "rng": self.rng.bit_generator.state}

    def restore(self, state: dict) -> None:
        """Go on from a `state`; a ValueError if it is one of other levels."""
        if len(state["passes"]) != len(self.levels):
            raise ValueError(
                f"the checkpoint is of a run with {len(state['passes'])} levels, the data has {len(self.levels)}: resume with the same data"
            )
        self.passes_L, self.fails_L = np.array(state["passes"]), np.array(state["fails"])
        self.rng.bit_generator.state = state["rng"]


def _as_number(level: str) -> float:
    try:
        return float(level)
    except ValueError:
        raise ValueError(f"--selection easy_to_hard needs levels that are numbers, got {level!r}: pass --level_column") from None


class Selects:
    """Mixin of both: the state of the selector in checkpoints."""

    def __init__(self, *args, selector: Selector, **kwargs):
        super().__init__(*args, **kwargs)
        self.selector = selector

    def _exact_pass_rates(self, rows: list[int]) -> list[float]:
        asked = [self.selector.problems[row] for row in rows]
        scores = shared_answer_scores(self, asked, self.selector.end)
        return [score.pass_rates(problem)["pass_rate"] for score, problem in zip(scores, asked, strict=True)]

    def _save_checkpoint(self, *args, **kwargs):
        # first, because a checkpoint counts as whole once the trainer's own state is in it
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / STATE_FILE).write_text(json.dumps(self.selector.state()))
        return super()._save_checkpoint(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint, *args, **kwargs):
        self.selector.restore(json.loads((Path(resume_from_checkpoint) / STATE_FILE).read_text()))
        return super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)


class SelectsPrompts(Selects):
    """GRPO, RLOO and what is made of them, whose prompts the selector chooses, and whose verdicts it is told."""

    def _generate_and_score_completions(self, inputs):
        if self.model.training:
            num = len(inputs) * self.accelerator.num_processes // self.num_generations
            rows, pass_rates = self.selector.chosen(num, self.state.global_step, self._pass_rates)
            self.selected_rows = rows
            self.selected_pass_rates = {self.selector.problems[row].problem_id: p for row, p in zip(rows, pass_rates, strict=True)}
            examples = [self.train_dataset[row] for row in rows for _ in range(self.num_generations)]
            first = self.accelerator.process_index * len(inputs)
            inputs[:] = examples[first : first + len(inputs)]  # in place: who watches this method has the list already
        return super()._generate_and_score_completions(inputs)

    def _calculate_rewards(self, *args, **kwargs):
        rewards_BF = super()._calculate_rewards(*args, **kwargs)  # of all processes
        if self.model.training:
            passed_B = (rewards_BF.nansum(dim=1) > 0).double()
            num_passed = passed_B.view(-1, self.num_generations).sum(dim=1).tolist()
            self.selector.tell(self.selected_rows, num_passed, self.num_generations)
        return rewards_BF

    def _pass_rates(self, rows: list[int]) -> list[float]:
        if self.selector.how.selection != "probe":
            return self._exact_pass_rates(rows)
        return self._probed_pass_rates(rows)

    def _probed_pass_rates(self, rows: list[int]) -> list[float]:
        """Shares of passes among rollouts that are drawn for nothing else. Every process draws as many."""
        accelerator, size = self.accelerator, self.selector.how.selection_rollouts
        asked = [self.train_dataset[row] for row in rows for _ in range(size)]
        filled = asked + asked[-1:] * (-len(asked) % accelerator.num_processes)
        per_process = len(filled) // accelerator.num_processes
        share = filled[accelerator.process_index * per_process :][:per_process]
        completion_ids = self._generate([example["prompt"] for example in share])[1]
        problem_ids = [example["problem_id"] for example in share]
        judged = self.selector.verifier.judged(problem_ids, [list(map(int, ids)) for ids in completion_ids])
        passed = gather_object([verdict.passed for _, _, verdict in judged])[: len(asked)]
        return np.reshape(passed, (len(rows), size)).mean(axis=1).tolist()


class SelectsLabels(Selects):
    """SFT whose labels the selector chooses, in place of those that the sampler drew."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # TRL shuffles the data of SFT, so that its rows are not in the order of the problems
        self.label_by_id = {row["problem_id"]: {key: row[key] for key in ("input_ids", "labels")} for row in self.train_dataset}

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """TRL's batches, each with as many labels of the selector's choice."""
        return super().get_batch_samples(map(self._chosen_batch, epoch_iterator), num_batches, device)

    def _chosen_batch(self, batch):
        num = len(batch["input_ids"])
        rows, _ = self.selector.chosen(num * self.accelerator.num_processes, self.state.global_step, self._exact_pass_rates)
        first = self.accelerator.process_index * num
        asked = [self.selector.problems[row] for row in rows[first : first + num]]
        return self.data_collator([self.label_by_id[problem.problem_id] for problem in asked])


@cache
def selecting(trainer_class: type, mixin: type) -> type:
    """The trainer with a curriculum, `Selecting` before its name."""
    return type(f"Selecting{trainer_class.__name__}", (mixin, trainer_class), {})
