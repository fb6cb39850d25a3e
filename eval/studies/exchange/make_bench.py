"""One run on few labels, or on few rollouts with their verdicts, with TRL's trainers: what each arm learns from, and what it gains."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import datasets
import numpy as np
import torch
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.report.gains import TUNED_AS_LABELS
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import answer_logprobs
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import Problem, load_task
from bitsample_llm.tasks.authors import uniform_wrong_answer
from bitsample_llm.tasks.dataset_rows import DataArguments, Faults, open_dataset, problems_of_rows, random_subset
from bitsample_llm.tasks.dataset_task import DatasetTask
from bitsample_llm.training.objectives import VerdictLikelihoodTrainer
from bitsample_llm.training.prompt_format import after_shots, labelled_rows
from bitsample_llm.training.rewards import VerdictReward

GROUP_SIZE = 8
BATCH_SIZE = 16
NUM_HELDOUT = 256
NUM_HELDOUT_OF_FILE = 64
LINE_END = "\n"  # ends an answer of a file, and parts solved problems
LEARN_FROM_LABELS = ("labels", "wrong_labels", "passes", "as_many_labels", "passes_of_groups", "passes_in_rounds")  # by SFT
IN_GROUPS = ("passes_of_groups", "dpo", "verdict_likelihood", "grpo")


@dataclass(frozen=True)
class Start:
    """A model and the problems it is asked: its place in the study, and where the model is.

    Attributes:
        accepted_digits: an answer passes whose first digits are right, so many; None: the whole answer, and nothing else.
        dataset: a JSONL file of prompts and answers in place of the arithmetic task; what is held out of it is in a file beside it.
        shots: solved problems of that file before every prompt.
    """

    rung: str
    model: str
    reason: str
    folder: str
    mark: str
    difficulty: int
    accepted_digits: int | None = None
    dataset: str | None = None
    shots: int = 0

    @property
    def name(self) -> str:
        return f"{self.rung}-{self.model}".replace(" ", "_")


@dataclass(frozen=True)
class Cell:
    """One run: what it learns from, how many of it, and how.

    Attributes:
        labels_per_pass: of `as_many_labels`, how many labels stand for a rollout that passed; None for other arms.
        rounds: of `passes_in_rounds`, how often rollouts are drawn; None for other arms.
        most_updates: where it ends; held-out scores before that do not depend on it.
    """

    arm: str
    n: int
    seed: int
    learning_rate: float
    is_tuning: bool
    labels_per_pass: float | None = None
    rounds: int | None = None
    most_updates: int = field(default=1, compare=False)


class Scores(TrainerCallback):
    """Held-out state after 1, 2, 4, ... updates: [updates, mean log2 p, mean p], and log2 p of each problem at the last of them."""

    def __init__(self, tokenizer, problems: list[Problem], accepted_digits: int | None, end: AnswerEnd):
        self.tokenizer, self.problems, self.accepted_digits, self.rows, self.end = tokenizer, problems, accepted_digits, [], end
        self.log2_p = np.empty(0)

    def add(self, model, updates: int) -> None:
        logps = answer_logprobs(model, self.tokenizer, self.problems, end=self.end)  # a digit is a token
        self.log2_p = np.array([logps_T[: self.accepted_digits].sum() for logps_T in logps]) / math.log(2)
        self.rows.append([updates, float(self.log2_p.mean()), float(np.exp2(self.log2_p).mean())])

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step & (state.global_step - 1) == 0:
            self.add(model, state.global_step)


def rollout_seed(start: Start, seed: int) -> int:
    """Of the sampling of rollouts, another at each start: else a seed that is lucky at one is lucky at all."""
    return int(np.random.SeedSequence([seed, *start.name.encode()]).generate_state(1)[0])


class FileProblems:
    """The problems of a start that come from a file, in the pools that the arithmetic tasks have; the last of the file are for tuning, those
    before them are shown.
    """

    def __init__(self, file: str, shots: int):
        path, columns, faults = Path(file), DataArguments(), Faults()
        read = [path, path.with_name(f"{path.stem}_heldout.jsonl")]
        train, heldout = (problems_of_rows(open_dataset(str(part), None, "train"), part.name, columns, faults) for part in read)
        self.task = DatasetTask(file, train + heldout, {})
        num_tuning = min(NUM_HELDOUT_OF_FILE, len(train) // 3)
        train, tuning = train[:-num_tuning], train[-num_tuning:]
        shown = train[len(train) - shots :]
        parts = {"train": train[: len(train) - shots], "tuning": tuning, "heldout": heldout}
        self._parts = {name: [after_shots(problem, shown, LINE_END) for problem in part] for name, part in parts.items()}

    def num_problems(self, pool: str) -> int:
        return len(self._parts[pool])

    def problems(self, pool: str, num: int, seed: int) -> list[Problem]:
        """At most `num` problems of a pool, in an order that `seed` decides."""
        return random_subset(self._parts[pool], num, seed)


@cache
def training_problems(task, seed: int) -> list[Problem]:
    """All training problems that a seed may use, in its order."""
    return task.problems("train", int(min(task.num_problems("train"), 4096)), seed)


class Bench:
    """A start with its problems and rollouts, on which cells are run."""

    def __init__(self, start: Start, config: dict):
        self.start = start
        of_rung = config.get("rungs", {}).get(start.rung, {})
        self.num_rollouts = of_rung.get("num_rollouts", config["num_rollouts"])  # all of a seed are drawn at once
        self.source = self.task = load_task("addition", "reversed", difficulty=start.difficulty, mark=start.mark)
        if start.dataset is not None:
            self.source = FileProblems(start.dataset, start.shots)
            self.task = self.source.task
        self.tokenizer = AutoTokenizer.from_pretrained(start.folder)
        model = self.fresh_model()
        self.end = AnswerEnd.of(model, self.tokenizer, None if start.dataset is None else LINE_END)
        self.heldout = {
            False: self.source.problems("heldout", NUM_HELDOUT, seed=0),
            True: self.source.problems("tuning", NUM_HELDOUT, seed=0),
        }
        self.before = {}
        for is_tuning in self.heldout:
            self.before[is_tuning] = self.scores(is_tuning)
            self.before[is_tuning].add(model, 0)
        self._sampled: dict[tuple, list] = {}
        self._passed_in_rounds: dict[Cell, list[Problem]] = {}

    def scores(self, is_tuning: bool) -> Scores:
        """Of a run, before it begins."""
        return Scores(self.tokenizer, self.heldout[is_tuning], self.start.accepted_digits, self.end)

    def fresh_model(self):
        """The model as it is before training."""
        return AutoModelForCausalLM.from_pretrained(self.start.folder, dtype=torch.float32, attn_implementation="eager")

    def problems(self, num: int, seed: int) -> list[Problem]:
        """The first `num` training problems of a seed; of few digits there are no more than there are."""
        return training_problems(self.source, seed)[:num]

    def rollouts(self, cell: Cell) -> list[tuple[Problem, str, bool]]:
        """The cell's rollouts: problem, completion, whether it passed. A smaller set is the beginning of a larger one."""
        group_size = GROUP_SIZE if cell.arm in IN_GROUPS else 1
        most = max(self.num_rollouts)
        key = cell.seed, group_size
        if key not in self._sampled:
            problems = self.problems(most // group_size, cell.seed)
            torch.manual_seed(rollout_seed(self.start, cell.seed))
            repeated = [problem for problem in problems for _ in range(group_size)]
            self._sampled[key] = self.judged_rollouts(self.fresh_model(), repeated)
        return self._sampled[key][: cell.n]

    def judged_rollouts(self, model, problems: list[Problem]) -> list[tuple[Problem, str, bool]]:
        """A rollout of each problem with its verdict."""
        completions = sampled_completions(model.eval(), self.tokenizer, problems, self.start.difficulty + 2, end=self.end)
        verifier = RolloutVerifier(self.task, problems, self.tokenizer, self.end)
        judged = verifier.judged([problem.problem_id for problem in problems], completions)
        num = self.start.accepted_digits
        passed = [
            verdict.passed if num is None else text[:num] == p.answer[:num]
            for p, (text, _, verdict) in zip(problems, judged, strict=True)
        ]
        return [(problem, text, passes) for problem, (text, *_), passes in zip(problems, judged, passed, strict=True)]

    def with_rounds_run(self, cell: Cell, setting_of: Callable[[int], tuple[float, int]]) -> Cell:
        """The cell with the setting that its passes ask for, after all rounds of drawing: each round's rollouts are of the start trained
        on the passes of all rounds before. `setting_of` gives rate and updates for a number of passes.
        """
        problems, size, model, passed = self.problems(cell.n, cell.seed), cell.n // cell.rounds, self.fresh_model(), []
        torch.manual_seed(rollout_seed(self.start, cell.seed))
        for first in range(0, cell.n, size):
            if passed:
                rate, updates = setting_of(len(passed))
                model = self.fresh_model()
                in_between = replace(cell, learning_rate=rate, most_updates=updates)
                self._passed_in_rounds[in_between] = passed
                self.train(model, in_between, [])
            passed = passed + self.as_labels(self.judged_rollouts(model, problems[first : first + size]))
        rate, updates = setting_of(len(passed))
        cell = replace(cell, learning_rate=rate, most_updates=updates)
        self._passed_in_rounds[cell] = passed
        return cell

    @staticmethod
    def as_labels(rollouts: list[tuple[Problem, str, bool]]) -> list[Problem]:
        """What passed, as answers to learn from: the rollout's own, of the several that may pass."""
        return [replace(problem, answer=text) for problem, text, passed in rollouts if passed]

    def num_passed(self, cell: Cell) -> int:
        """How many of the cell's rollouts passed."""
        if cell.rounds:
            return len(self._passed_in_rounds[cell])
        return sum(passed for _, _, passed in self.rollouts(cell))

    def labelled(self, cell: Cell) -> list[Problem]:
        """The problems with the answers that an SFT arm learns from."""
        if cell.rounds:
            return self._passed_in_rounds[cell]
        if cell.arm.startswith("passes"):
            return self.as_labels(self.rollouts(cell))
        if cell.arm == "as_many_labels":  # as rollouts passed, for problems drawn blindly; fewer are the beginning of more
            num = round(cell.labels_per_pass * self.num_passed(cell))
            problems = self.problems(max(num, cell.n), cell.seed)
            return [problems[index] for index in np.random.default_rng(cell.seed).permutation(len(problems))[:num]]
        problems = self.problems(cell.n, cell.seed)
        if cell.arm == "labels":
            return problems
        rng = np.random.default_rng(cell.seed)
        return [replace(problem, answer=self.wrong_answer(problem, rng)) for problem in problems]

    def wrong_answer(self, problem: Problem, rng: np.random.Generator) -> str:
        """A wrong answer in the form of a right one: another number, or in problems from a file another problem's answer."""
        if self.start.dataset is None:
            return uniform_wrong_answer(problem.answer[::-1], self.start.difficulty, rng)[::-1]
        answers = sorted({other.answer for other in training_problems(self.source, 0)} - {problem.answer})
        return answers[rng.integers(len(answers))]

    def run(self, cell: Cell) -> dict:
        """The line of a run: `num_trained` labels, rollouts or pairs, 0 where there was nothing to learn from; of the arms that take their
        number from rollouts `num_passed`; of reported runs `log2_p`, each held-out problem's in the end.
        """
        scores, before = self.scores(cell.is_tuning), self.before[cell.is_tuning]
        scores.rows, scores.log2_p = [*before.rows], before.log2_p
        num_trained = self.train(self.fresh_model(), cell, [scores])
        counted = {"num_trained": num_trained, "num_passed": self.num_passed(cell) if cell.arm in TUNED_AS_LABELS else None}
        in_the_end = {} if cell.is_tuning else {"log2_p": scores.log2_p.round(3).tolist()}
        return asdict(self.start) | asdict(cell) | counted | {"evaluations": scores.rows} | in_the_end

    def train(self, model, cell: Cell, callbacks: list[TrainerCallback]) -> int:
        """Train the model as the cell says; how many labels, rollouts or pairs there were to learn from."""
        with tempfile.TemporaryDirectory() as folder:
            shared = {
                "output_dir": folder,
                "max_steps": cell.most_updates,
                "learning_rate": cell.learning_rate,
                "lr_scheduler_type": "constant",
                "seed": cell.seed,
                **dict.fromkeys(("logging_strategy", "save_strategy"), "no"),
                "report_to": "none",
                "disable_tqdm": True,
                "use_cpu": True,
                "bf16": False,
                "activation_checkpointing": False,
            }
            num_trained, make = getattr(self, f"_{cell.arm}" if cell.arm not in LEARN_FROM_LABELS else "_sft")(cell, shared)
            if num_trained:
                trainer = make(model=model, processing_class=self.tokenizer, callbacks=callbacks)
                trainer.remove_callback(PrinterCallback)
                trainer.train()
        return num_trained

    def _sft(self, cell: Cell, shared: dict):
        problems = self.labelled(cell)
        args = trl.SFTConfig(**shared, per_device_train_batch_size=min(max(len(problems), 1), BATCH_SIZE), max_length=None)
        rows = labelled_rows(problems, self.tokenizer, self.end)
        return len(problems), lambda **how: trl.SFTTrainer(args=args, train_dataset=datasets.Dataset.from_list(rows), **how)

    def _kto(self, cell: Cell, shared: dict):
        rows = [{"prompt": problem.prompt, "completion": text, "label": passed} for problem, text, passed in self.rollouts(cell)]
        num_passed = sum(row["label"] for row in rows)
        # TRL asks for weights under which passes and fails count about alike
        weight = max((len(rows) - num_passed) / num_passed, 1.0) if num_passed else 1.0
        args = trl.KTOConfig(**shared, per_device_train_batch_size=BATCH_SIZE, desirable_weight=weight)
        return len(rows), lambda **how: trl.KTOTrainer(args=args, train_dataset=datasets.Dataset.from_list(rows), **how)

    def _dpo(self, cell: Cell, shared: dict):
        rollouts, rows = self.rollouts(cell), []
        for first in range(0, cell.n, GROUP_SIZE):
            group = rollouts[first : first + GROUP_SIZE]
            passes, fails = ([text for _, text, passed in group if passed == which] for which in (True, False))
            # each rollout in one pair at least, as long as its group has both kinds
            for index in range(max(len(passes), len(fails)) if passes and fails else 0):
                chosen, rejected = passes[index % len(passes)], fails[index % len(fails)]
                rows.append({"prompt": group[0][0].prompt, "chosen": chosen, "rejected": rejected})
        args = trl.DPOConfig(**shared, per_device_train_batch_size=min(max(len(rows), 1), BATCH_SIZE))
        return len(rows), lambda **how: trl.DPOTrainer(args=args, train_dataset=datasets.Dataset.from_list(rows), **how)

    def _grpo(self, cell: Cell, shared: dict, trainer_class=trl.GRPOTrainer):
        problems = self.problems(cell.n // GROUP_SIZE, cell.seed)
        verifier = RolloutVerifier(self.task, problems, self.tokenizer, self.end)
        steps = cell.n // BATCH_SIZE
        args = trl.GRPOConfig(
            **shared,
            per_device_train_batch_size=BATCH_SIZE,
            steps_per_generation=steps,
            num_iterations=math.ceil(cell.most_updates / steps),  # so that there is one generation
            num_generations=GROUP_SIZE,
            max_completion_length=self.start.difficulty + 2,
            beta=0.0,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
        )
        rows = [{"prompt": problem.prompt, "problem_id": problem.problem_id} for problem in problems]
        extra = {"verifier": verifier} if trainer_class is VerdictLikelihoodTrainer else {}
        data = datasets.Dataset.from_list(rows)
        return cell.n, lambda **how: trainer_class(
            args=args, reward_funcs=[VerdictReward(verifier)], train_dataset=data, **extra, **how
        )

    def _verdict_likelihood(self, cell: Cell, shared: dict):
        return self._grpo(cell, shared, VerdictLikelihoodTrainer)
