"""Trains from every start on few labels, or on few rollouts with their verdicts, and writes down what each run gained.

    python eval/studies/exchange/make_data_limited.py --output_dir runs/exchange/data_limited

README.md says what is compared and how settings are chosen, data_limited.yaml which starts and sizes. One process per start, as many at a
time as `--jobs` says. One line per run in `<rung>-<model>.jsonl`; the same command goes on where it stopped.
"""

import argparse
import json
import math
import os
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
import trl
import yaml
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import answer_logprobs
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import Problem, load_task
from bitsample_llm.tasks.authors import uniform_wrong_answer
from bitsample_llm.training.objectives import VerdictLikelihoodTrainer
from bitsample_llm.training.prompt_format import labelled_rows
from bitsample_llm.training.rewards import OutcomeReward

FOLDER = Path(__file__).resolve().parent
GROUP_SIZE = 8
BATCH_SIZE = 16
NUM_HELDOUT = 128
LEARN_FROM_LABELS = ("labels", "wrong_labels", "passes", "passes_of_groups")  # by SFT
TUNED_AS_LABELS = ("passes", "passes_of_groups")  # with as many labels as passed: chance sets that number, not n
IN_GROUPS = ("passes_of_groups", "dpo", "verdict_likelihood", "grpo")


@dataclass(frozen=True)
class Start:
    """A model and the problems it is asked: its place in the study, and where the model is."""

    rung: str
    model: str
    reason: str
    folder: str
    mark: str
    difficulty: int

    @property
    def name(self) -> str:
        return f"{self.rung}-{self.model}".replace(" ", "_")


@dataclass(frozen=True)
class Cell:
    """One run: what it learns from, how many of it, and how."""

    arm: str
    n: int
    seed: int
    learning_rate: float
    is_tuning: bool


def starts_of(config: dict) -> list[Start]:
    """All starts, those of the rungs that come first first."""
    starts = []
    for rung, facts in config["rungs"].items():
        models = config["models"][facts["reason"]]
        for model in facts.get("models", models):
            latent = facts["reason"] == "latent"
            folder = models[model] if latent else f"{models[model]}/ladder/{facts['checkpoint']}"
            starts.append(Start(rung, model, facts["reason"], folder, facts.get("mark", "E"), 3 if latent else 2))
    return starts


class Scores(TrainerCallback):
    """Held-out state after 1, 2, 4, ... updates: [updates, mean log2 p, mean p]."""

    def __init__(self, tokenizer, problems: list[Problem]):
        self.tokenizer, self.problems, self.rows = tokenizer, problems, []

    def add(self, model, updates: int) -> None:
        log2_p = np.array([logps.sum() for logps in answer_logprobs(model, self.tokenizer, self.problems)]) / math.log(2)
        self.rows.append([updates, float(log2_p.mean()), float(np.exp2(log2_p).mean())])

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step & (state.global_step - 1) == 0:
            self.add(model, state.global_step)


@cache
def training_problems(task, seed: int) -> list[Problem]:
    """All training problems that a seed may use, in its order."""
    return task.problems("train", int(min(task.num_problems("train"), 4096)), seed)


class Bench:
    """A start with its problems and rollouts, on which cells are run."""

    def __init__(self, start: Start, config: dict):
        self.start, self.config = start, config
        self.most_updates = config["most_updates"][start.reason]
        self.task = load_task("addition", "reversed", difficulty=start.difficulty, mark=start.mark)
        self.tokenizer = AutoTokenizer.from_pretrained(start.folder)
        model = self.fresh_model()
        self.end = AnswerEnd.of(model, self.tokenizer)
        self.heldout = {
            False: self.task.problems("heldout", NUM_HELDOUT, seed=0),
            True: self.task.problems("tuning", NUM_HELDOUT, seed=0),
        }
        self.before = {}
        for is_tuning, problems in self.heldout.items():
            scores = Scores(self.tokenizer, problems)
            scores.add(model, 0)
            self.before[is_tuning] = scores.rows[0]
        self._sampled: dict[tuple, list] = {}

    def fresh_model(self):
        """The model as it is before training."""
        return AutoModelForCausalLM.from_pretrained(self.start.folder, dtype=torch.float32, attn_implementation="eager")

    def problems(self, num: int, seed: int) -> list[Problem]:
        """The first `num` training problems of a seed; of few digits there are no more than there are."""
        return training_problems(self.task, seed)[:num]

    def rollouts(self, cell: Cell) -> list[tuple[Problem, str, bool]]:
        """The cell's rollouts: problem, completion, whether it passed. A smaller set is the beginning of a larger one."""
        group_size = GROUP_SIZE if cell.arm in IN_GROUPS else 1
        most = max(self.config["num_rollouts"])
        key = cell.seed, group_size
        if key not in self._sampled:
            problems = self.problems(most // group_size, cell.seed)
            repeated = [problem for problem in problems for _ in range(group_size)]
            torch.manual_seed(cell.seed)
            model = self.fresh_model().eval()
            completions = sampled_completions(model, self.tokenizer, repeated, self.start.difficulty + 2, end=self.end)
            verifier = RolloutVerifier(self.task, problems, self.tokenizer, self.end)
            judged = verifier.judged([problem.problem_id for problem in repeated], completions)
            self._sampled[key] = [
                (problem, text, verdict.passed) for problem, (text, _, verdict) in zip(repeated, judged, strict=True)
            ]
        return self._sampled[key][: cell.n]

    def labelled(self, cell: Cell) -> list[Problem]:
        """The problems with the answers that an SFT arm learns from."""
        if cell.arm.startswith("passes"):
            return [problem for problem, _, passed in self.rollouts(cell) if passed]
        problems = self.problems(cell.n, cell.seed)
        if cell.arm == "labels":
            return problems
        rng = np.random.default_rng(cell.seed)
        plain = [uniform_wrong_answer(problem.answer[::-1], self.start.difficulty, rng) for problem in problems]
        return [
            Problem(problem.problem_id, problem.prompt, wrong[::-1], problem.difficulty, problem.mark)
            for problem, wrong in zip(problems, plain, strict=True)
        ]

    def run(self, cell: Cell) -> dict:
        """The line of a run; `num_trained` labels, rollouts or pairs, 0 where there was nothing to learn from."""
        scores = Scores(self.tokenizer, self.heldout[cell.is_tuning])
        scores.rows.append(self.before[cell.is_tuning])
        with tempfile.TemporaryDirectory() as folder:
            shared = {
                "output_dir": folder,
                "max_steps": self.most_updates,
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
                trainer = make(model=self.fresh_model(), processing_class=self.tokenizer, callbacks=[scores])
                trainer.remove_callback(PrinterCallback)
                trainer.train()
        return asdict(self.start) | asdict(cell) | {"num_trained": num_trained, "evaluations": scores.rows}

    def _sft(self, cell: Cell, shared: dict):
        problems = self.labelled(cell)
        args = trl.SFTConfig(**shared, per_device_train_batch_size=min(max(len(problems), 1), BATCH_SIZE), max_length=64)
        rows = labelled_rows(problems, self.tokenizer, self.end)
        return len(problems), lambda **how: trl.SFTTrainer(args=args, train_dataset=datasets.Dataset.from_list(rows), **how)

    def _kto(self, cell: Cell, shared: dict):
        rows = [{"prompt": problem.prompt, "completion": text, "label": passed} for problem, text, passed in self.rollouts(cell)]
        args = trl.KTOConfig(**shared, per_device_train_batch_size=BATCH_SIZE)
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
            num_iterations=math.ceil(self.most_updates / steps),  # so that there is one generation
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
            args=args, reward_funcs=[OutcomeReward(verifier)], train_dataset=data, **extra, **how
        )

    def _verdict_likelihood(self, cell: Cell, shared: dict):
        return self._grpo(cell, shared, VerdictLikelihoodTrainer)


def sizes(start: Start, pass_rate: float, config: dict, is_wide: bool) -> list[tuple[str, int]]:
    """Arms and their n at a start: labels and passes, or the other arms."""
    if is_wide:
        wide = config["wide"]
        return [(arm, n) for n in wide["num_samples"] for arm in wide["arms"]] if start.rung in wide["starts"] else []
    labels = [("labels", n) for n in config["num_labels"][start.reason]]
    most_passes = 60 if start.reason == "latent" else 1000
    passes = [("passes", n) for n in config["num_rollouts"] if 0.2 <= n * pass_rate <= most_passes]
    return [*labels, *passes]


def chosen_rates(lines: list[dict]) -> dict[tuple[str, int], float]:
    """(arm, n) -> the learning rate with the best mean gain of the tuning seeds, at any number of updates; the lowest of equals."""
    gains: dict[tuple, dict[float, dict[int, list[float]]]] = {}
    for line in sorted(lines, key=lambda line: line["learning_rate"]):
        of_rate = gains.setdefault((line["arm"], line["n"]), {}).setdefault(line["learning_rate"], {})
        for updates, log2_p, _ in line["evaluations"]:
            of_rate.setdefault(updates, []).append(log2_p)
    return {
        cell: max(rates, key=lambda rate: max(float(np.mean(values)) for values in rates[rate].values()))
        for cell, rates in gains.items()
    }


def next_rates(lines: list[dict], config: dict) -> list[float]:
    """Learning rates that the search of one arm and n has to try next: the first ones, then the neighbour of a best at an edge."""
    grid, tried_by = config["learning_rates"], Counter(line["learning_rate"] for line in lines)
    tried = {rate for rate, num in tried_by.items() if num == len(config["tuning_seeds"])}
    if missing := [rate for rate in config["first_learning_rates"] if rate not in tried]:
        return missing
    (best,) = chosen_rates(lines).values()
    place = grid.index(best)
    return [rate for rate in grid[max(place - 1, 0) : place + 2] if rate not in tried]


def read_lines(path: Path) -> list[dict]:
    """Whole lines of a file; a kill may leave a torn last one, whose run is done again."""
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def run_start(start: Start, config: dict, output_dir: Path, is_tuning: bool, is_wide: bool) -> None:
    """Run the cells of a start that are missing."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    bench = Bench(start, config)
    path = output_dir / f"{start.name}.jsonl"
    lines = read_lines(path)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tuned_at = next(other for other in starts_of(config) if other.rung == start.rung)
    tuning_lines = lines if tuned_at == start else read_lines(output_dir / f"{tuned_at.name}.jsonl")
    for arm, n in sizes(start, bench.before[False][2], config, is_wide):
        done = {(line["seed"], line["learning_rate"]) for line in lines if (line["arm"], line["n"]) == (arm, n)}

        def run(cell: Cell) -> list[dict]:
            if (cell.seed, cell.learning_rate) in done:  # noqa: B023 - called in this turn of the loop only
                return []
            line = bench.run(cell)
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            return [line]

        if is_tuning and arm not in TUNED_AS_LABELS:
            searched = tuning_lines_of(tuning_lines, arm, n)
            while rates := next_rates(searched, config):
                cells = [Cell(arm, n, seed, rate, True) for rate in rates for seed in config["tuning_seeds"]]
                searched += [line for cell in cells for line in run(cell)]
        elif not is_tuning:
            for seed in config["seeds"]:
                cell = Cell(arm, n, seed, 0.0, False)
                tuned = (arm, n)
                if arm in TUNED_AS_LABELS:
                    num = max(len(bench.labelled(cell)), 1)
                    tuned = "labels", min(config["num_labels"][start.reason], key=lambda size: abs(math.log(size / num)))  # noqa: B023
                (rate,) = chosen_rates(tuning_lines_of(tuning_lines, *tuned)).values()
                run(replace(cell, learning_rate=rate))


def tuning_lines_of(lines: list[dict], arm: str, n: int) -> list[dict]:
    """The lines of the search for an arm and n."""
    return [line for line in lines if line["is_tuning"] and (line["arm"], line["n"]) == (arm, n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=FOLDER / "data_limited.yaml")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="starts at a time")
    parser.add_argument("--wide", action="store_true", help="the arms that run at few starts")
    parser.add_argument("--only", nargs="*", help="rungs to run, such as 'latent E'")
    options = parser.parse_args()
    config = yaml.safe_load(options.config.read_text())
    options.output_dir.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    starts = [start for start in starts_of(config) if options.only is None or start.rung in options.only]
    tuned = {start.rung: start for start in reversed(starts)}
    with ProcessPoolExecutor(options.jobs) as pool:
        for is_tuning, asked in ((True, [start for start in starts if tuned[start.rung] == start]), (False, starts)):
            run = partial(run_start, config=config, output_dir=options.output_dir, is_tuning=is_tuning, is_wide=options.wide)
            waiting = [pool.submit(run, start) for start in asked]
            for done in tqdm(as_completed(waiting), total=len(waiting), desc="tuning" if is_tuning else "runs", unit="start"):
                done.result()


if __name__ == "__main__":
    main()
