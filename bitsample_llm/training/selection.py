"""Which problems are asked next? Curricula: by level, by the verdicts on earlier rollouts, or by pass rates found out before.

`Selector` decides, from numbers alone. The two mixins put its choice in place of what TRL's sampler drew, for trainers that generate and for
SFT; every process makes the same choice, and a checkpoint holds what the next one depends on.
"""

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from accelerate.utils import gather_object

from bitsample_llm.meter.rollouts import sampling_settings
from bitsample_llm.meter.verdicts import RolloutVerifier, shared_answer_scores
from bitsample_llm.options import option
from bitsample_llm.records import RecordError
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.tasks import Problem
from bitsample_llm.training.checkpoint_state import KeepsState
from bitsample_llm.training.drawn_before import drawn_rollouts
from bitsample_llm.training.prompt_format import labelled_rows
from bitsample_llm.training.rewards import passed_rollouts

STATE_FILE = "selection.json"  # in a checkpoint
# Verdicts of so many generations ago weigh 1/e of those of today: the policy learns, and what was learned of one level moves others.
MEMORY_GENERATIONS = 64
BANDIT_RATE = 0.3  # by which a reward above the mean moves the log-odds of its level
SELECTIONS = ("shuffled", "easy_to_hard", "thompson", "bandit", "probe", "exact_variance", "exact_half")


@dataclass
class SelectionArguments:
    """Which problems are trained on when."""

    selection: str = option(
        "shuffled",
        "Which problem is asked next. shuffled: TRL's order. easy_to_hard: level after level (--level_column). thompson: one of the level that has the "
        "largest p(1 - p), for p drawn from a Beta distribution of its verdicts, old ones counting less. bandit: one of a level that is drawn from a softmax, which learns by "
        "policy gradient from the reward 1 - 2|p - 1/2| of each group, p being the share of its rollouts that passed. probe: of some random candidates the one nearest to "
        "p = .5, by rollouts that are drawn for that and charged. exact_half: the same by exact pass rates, whose cost is not counted: a bound, "
        "not a method. exact_variance: one of the candidates, with odds in proportion to their exact p(1 - p).",
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
        self._check()
        # without a level every problem stands for itself
        names = [problem.problem_id if problem.level is None else problem.level for problem in problems]
        if how.selection == "easy_to_hard":
            names = [_as_number(name) for name in names]
        self.levels = sorted(set(names))
        place = {level: index for index, level in enumerate(self.levels)}
        self.level_of_row = np.array([place[name] for name in names])
        self.rows_by_level = [np.flatnonzero(self.level_of_row == index) for index in range(len(self.levels))]
        self.passes_L, self.fails_L = np.zeros(len(self.levels)), np.zeros(len(self.levels))
        self.logits_L, self.mean_reward = np.zeros(len(self.levels)), 0.0  # of a bandit
        self.rng = np.random.default_rng([seed, 0x5E1EC7])

    def _check(self) -> None:
        """A ValueError where there is nothing to choose by."""
        name, is_exact = self.how.selection, self.how.selection.startswith("exact")
        if self.verifier is None and name in ("thompson", "bandit", "probe"):
            raise ValueError(
                f"--selection {name} chooses by rollouts, and SFT has none: use easy_to_hard, exact_half or exact_variance"
            )
        others = "easy_to_hard" if self.verifier is None else "thompson, bandit or probe"
        if is_exact and not all(problem.has_one_accepted_string for problem in self.problems):
            raise ValueError(f"--selection {name} needs exact pass rates, and several answers pass: use {others}")
        if is_exact and any(self.end.spellings(problem.completion) is None for problem in self.problems):
            raise ValueError(
                f"--selection {name} needs exact pass rates, and an answer has too many spellings in tokens: use {others}"
            )

    def chosen(
        self, num: int, step: int, pass_rates_of: Callable[[list[int]], Sequence[float]]
    ) -> tuple[list[int], list[float | None]]:
        """Rows of `num` problems for the update `step`, and the pass rate that each was chosen for; None of easy_to_hard and bandit, which ask for none.
        `pass_rates_of` gives the pass rates of rows.
        """
        if self.how.selection == "easy_to_hard":
            level = min(step * len(self.levels) // self.how.easy_to_hard_steps, len(self.levels) - 1)
            return self._rows_of_level(level, num), [None] * num
        if self.how.selection == "thompson":
            return self._by_counts(num)
        if self.how.selection == "bandit":
            levels = self.rng.choice(len(self.levels), size=num, p=self._odds_L())
            return [row for level in levels for row in self._rows_of_level(level, 1)], [None] * num
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
        """Rows of the levels whose drawn pass rates are nearest to a half, each by a draw of its own, and these draws."""
        rows, pass_rates = [], []
        for _ in range(num):
            drawn_L = self.rng.beta(1 + self.passes_L, 1 + self.fails_L)
            level = int(np.argmax(drawn_L * (1 - drawn_L)))
            rows += self._rows_of_level(level, 1)
            pass_rates.append(float(drawn_L[level]))
        return rows, pass_rates

    def _odds_L(self) -> np.ndarray:
        weights_L = np.exp(self.logits_L - self.logits_L.max())
        return weights_L / weights_L.sum()

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
        for level, reward in zip(levels, 1 - 2 * np.abs(np.asarray(num_passed) / group_size - 0.5), strict=True):
            step_L = -self._odds_L()
            step_L[level] += 1
            self.logits_L += BANDIT_RATE * (reward - self.mean_reward) * step_L
            self.mean_reward += (reward - self.mean_reward) / MEMORY_GENERATIONS

    def save(self, folder: Path) -> None:
        """Write what the next choice depends on into a checkpoint."""
        counts = {"passes": self.passes_L.tolist(), "fails": self.fails_L.tolist()}
        counts |= {"logits": self.logits_L.tolist(), "mean_reward": self.mean_reward}
        state = {"selection": self.how.selection, "levels": self.levels, **counts, "rng": self.rng.bit_generator.state}
        (folder / STATE_FILE).write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint; a RecordError if it is one of another selection, or of other levels."""
        if not (path := folder / STATE_FILE).is_file():
            raise RecordError(f"{folder} has no {STATE_FILE}: it is of a run without --selection, resume it without")
        state = json.loads(path.read_text())
        if (state["selection"], state["levels"]) != (self.how.selection, self.levels):
            raise RecordError(f"{folder} is of another --selection or of data with other levels: resume with the same options")
        self.passes_L, self.fails_L = np.array(state["passes"]), np.array(state["fails"])
        self.logits_L, self.mean_reward = np.array(state["logits"]), state["mean_reward"]
        self.rng.bit_generator.state = state["rng"]


def _as_number(level: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(number := float(level)):
            return number
    raise ValueError(f"--selection easy_to_hard needs levels that are numbers, got {level!r}: pass --level_column")


class Selects(KeepsState):
    """Mixin of `SelectsPrompts` and `SelectsLabels`: the selector, and exact pass rates of rows."""

    def __init__(self, *args, selector: Selector, **kwargs):
        super().__init__(*args, **kwargs)
        self.selector = selector
        self.kept.append(selector)

    def _exact_pass_rates(self, rows: list[int]) -> list[float]:
        asked = [self.selector.problems[row] for row in rows]
        scores = shared_answer_scores(self, asked, self.selector.end)
        # a model that has diverged has none
        return [score.pass_rates(problem).get("pass_rate", 0.0) for score, problem in zip(scores, asked, strict=True)]


class SelectsPrompts(Selects):
    """GRPO, RLOO and what is made of them, whose prompts the selector chooses, and whose verdicts it is told."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        selection = self.selector.how.selection
        if selection == "probe" and self.use_vllm:
            raise ValueError("--selection probe needs generation by transformers: set use_vllm to false")
        if selection.startswith("exact") and not sampling_settings(self)["is_own_distribution"]:
            raise ValueError(
                f"--selection {selection} needs rollouts of the model's own distribution: temperature 1, no truncation"
            )

    def _generate_and_score_completions(self, inputs):
        if self.model.training:
            num = len(inputs) * self.accelerator.num_processes // self.num_generations
            # by group; the record reads what each was chosen for
            self.selected_rows, self.selected_pass_rates = self.selector.chosen(num, self.state.global_step, self._pass_rates)
            examples = [self.train_dataset[row] for row in self.selected_rows for _ in range(self.num_generations)]
            first = self.accelerator.process_index * len(inputs)
            inputs[:] = examples[first : first + len(inputs)]  # in place: who watches this method has the list already
        return super()._generate_and_score_completions(inputs)

    def _calculate_rewards(self, *args, **kwargs):
        rewards_BF = super()._calculate_rewards(*args, **kwargs)  # of all processes
        if self.model.training:
            passed_B = passed_rollouts(rewards_BF).double()
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
        completion_ids = drawn_rollouts(self, [example["prompt"] for example in share])
        judged = self.selector.verifier.judged([example["problem_id"] for example in share], completion_ids)
        passed = gather_object([verdict.passed for _, _, verdict in judged])[: len(asked)]
        return np.reshape(passed, (len(rows), size)).mean(axis=1).tolist()


class SelectsLabels(Selects):
    """SFT whose labels the selector chooses, in place of those that the sampler drew."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.packing or self.args.padding_free:
            name = self.selector.how.selection
            raise ValueError(f"--selection {name} needs one sample a row: set packing and padding_free to false")
        # TRL shuffles its own rows, which are then not in the order of the problems
        self.labelled_rows = labelled_rows(self.selector.problems, self.processing_class, self.selector.end)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """TRL's batches, each with as many labels of the selector's choice."""
        return super().get_batch_samples(map(self._chosen_batch, epoch_iterator), num_batches, device)

    def _chosen_batch(self, batch):
        num = len(batch["input_ids"])
        rows, _ = self.selector.chosen(num * self.accelerator.num_processes, self.state.global_step, self._exact_pass_rates)
        first = self.accelerator.process_index * num
        examples = [self.labelled_rows[row] for row in rows[first : first + num]]
        return self.data_collator([{key: example[key] for key in ("input_ids", "labels")} for example in examples])


@cache
def selecting(trainer_class: type, mixin: type) -> type:
    """The trainer with a curriculum, `Selecting` before its name."""
    return type(f"Selecting{trainer_class.__name__}", (mixin, trainer_class), {})
