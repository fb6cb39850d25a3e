"""What does the meter cost? Prints CPU time and peak memory with and without it, over paired runs.

    python tests/benchmark_overhead.py --pairs 20
    python tests/benchmark_overhead.py --pairs 20 --mark H
    python tests/benchmark_overhead.py --pairs 20 --steps 4 --model FOLDER_OF_SMOLLM2 --stop "\\n" --completions 32

GRPO on sums of two digits. A pair is three short runs from the same seed: without the meter; with it and all records, exact pass
rates aside; and with exact pass rates too. Each run is a process of its own with one thread, forked before torch has run. The three
take turns, a step each in random order, because what else a machine does changes CPU time too. A step does the same work in all three,
so blocks of four steps are compared one by one, and the overhead of a pair is the median of its blocks: neighbours on a machine
stretch some blocks by a tenth. Four steps at 256 completions fill a part of the records' tables once. The interval of the median of
the pairs is between order statistics (sign test), and assumes nothing of the noise but that pairs are independent.

The C library is told to keep freed memory (`KEEPS_MEMORY`). Else it gives large buffers back after every step and takes them again, which
is a seventh of a step here, and less of it with the meter, whose own small allocations are in the way: it then seems to save 5 %.
"""

import argparse
import contextlib
import io
import itertools
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
from datasets import Dataset, disable_progress_bars
from scipy.stats import binom
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bitsample_llm import InformationMeter
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.tasks import load_task
from bitsample_llm.training.rewards import VerdictReward

BASE = Path(__file__).resolve().parent.parent / "data" / "base"
VARIANTS = {"without": None, "all records": {"exact_pass_rates": False}, "exact pass rates too": {"exact_pass_rates": True}}
GROUP = 8
BLOCK = 4  # steps that are compared as one
KEEPS_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**32 - 1), "MALLOC_MMAP_THRESHOLD_": str(2**32 - 1), "MALLOC_TOP_PAD_": str(2**26)}


class Turns(TrainerCallback):
    """Waits for its turn at the end of each step."""

    def __init__(self, turns, warm_up_steps: int):
        self._turns, self._warm_up_steps = turns, warm_up_steps
        self.ends: list[float] = []  # CPU seconds of the process so far, at the end of each step from the last of the first ones on

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self._warm_up_steps:
            self.ends.append(time.process_time())
        if state.global_step < args.max_steps:
            self._turns.send(None)
            self._turns.recv()


def measured_run(choices: argparse.Namespace, name: str, seed: int, folder: str, turns) -> dict:
    """CPU seconds of each block of steps of one run, and its peak memory."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(choices.model)
    model = AutoModelForCausalLM.from_pretrained(choices.model, dtype=torch.float32, attn_implementation="eager")
    end = AnswerEnd.of(model, tokenizer, choices.stop)
    end.declare(model)
    mark = choices.mark if choices.model == BASE else "none"
    task = load_task("addition", "reversed" if choices.model == BASE else "plain", difficulty=2, mark=mark)
    problems = task.problems("train", 512, seed=0)
    verifier = RolloutVerifier(task, problems, tokenizer, end)
    args = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=choices.completions,
        num_generations=GROUP,
        max_completion_length=choices.tokens,
        max_steps=choices.steps + choices.warm_up,
        learning_rate=1e-5,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10**6,
        seed=seed,
    )
    rows = Dataset.from_list([{"prompt": p.prompt, "problem_id": p.problem_id} for p in problems])
    trainer = GRPOTrainer(model, [VerdictReward(verifier)], args=args, train_dataset=rows, processing_class=tokenizer)
    run_dir = Path(folder) / "run"
    if (options := VARIANTS[name]) is not None:
        trainer.add_callback(InformationMeter(trainer, run_dir, verifier=verifier, strict=True, **options))
    clock = Turns(turns, choices.warm_up)
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return {
        "seconds": [end - start for start, end in itertools.pairwise(clock.ends[::BLOCK])],
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run_apart(choices: argparse.Namespace, name: str, seed: int, turns) -> None:
    """Make one run in this process and send what was measured."""
    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    turns.recv()
    with tempfile.TemporaryDirectory() as folder:
        turns.send(measured_run(choices, name, seed, folder, turns))


def measured_pair(choices: argparse.Namespace, seed: int, rng: random.Random) -> dict[str, dict]:
    """What a run of each variant took, made in turns."""
    context, turns, processes, measured = multiprocessing.get_context("fork"), {}, [], {}
    for name in VARIANTS:
        turns[name], theirs = context.Pipe()
        processes.append(context.Process(target=run_apart, args=(choices, name, seed, theirs)))
        processes[-1].start()
        theirs.close()  # so that a run that fails ends this program
    for _ in range(choices.warm_up + choices.steps):
        for name in rng.sample(list(VARIANTS), len(VARIANTS)):
            turns[name].send(None)
            measured[name] = turns[name].recv()
    for process in processes:
        process.join()
    return measured


def percent_over(run: dict, bare: dict) -> tuple[float, float]:
    """How much more CPU time, as the median over blocks, and peak memory a run took than another."""
    blocks = [mine / other for mine, other in zip(run["seconds"], bare["seconds"], strict=True)]
    return 100 * (statistics.median(blocks) - 1), 100 * (run["peak"] / bare["peak"] - 1)


def median_interval(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the median: the innermost pair of order statistics that covers it with this probability."""
    ordered, num = sorted(values), len(values)
    low = max(int(binom.ppf((1 - confidence) / 2, num, 0.5)) - 1, 0)
    while low > 0 and 2 * binom.cdf(low - 1, num, 0.5) > 1 - confidence:
        low -= 1
    return ordered[low], ordered[num - 1 - low]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20, help="measured in each run, a multiple of four")
    parser.add_argument("--warm_up", type=int, default=3, help="steps before them")
    parser.add_argument("--model", type=Path, default=BASE, help="folder of a model; by default the embedded one")
    parser.add_argument("--mark", default="C", help="author of the embedded model's problems, whose answers set the pass rate")
    parser.add_argument("--stop", default=None, help="text that ends an answer")
    parser.add_argument("--completions", type=int, default=256, help="per step")
    parser.add_argument("--tokens", type=int, default=4, help="at most, of a completion")
    choices = parser.parse_args()
    if not KEEPS_MEMORY.items() <= os.environ.items():  # read as a process begins
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEPS_MEMORY)
    choices.stop = choices.stop and choices.stop.replace("\\n", "\n")
    rng = random.Random(0)
    if choices.steps < BLOCK or choices.steps % BLOCK:
        parser.error(f"--steps must be a multiple of {BLOCK}, got {choices.steps}")
    pairs: list[dict[str, dict]] = []
    for number in range(choices.pairs):
        pairs.append(measured_pair(choices, number, rng))
        over = ", ".join(f"{name} {percent_over(run, pairs[-1]['without'])[0]:+.2f} %" for name, run in pairs[-1].items())
        print(f"pair {number}: {over}", flush=True)
    print(f"\n{choices.pairs} pairs of runs of {choices.steps} steps, {choices.completions} completions per step, one thread")
    print(f"{'':<22}{'CPU per step':>14}{'over without':>14}{'95 % interval':>20}{'peak memory':>14}{'over without':>14}")
    for name in VARIANTS:
        runs = [pair[name] for pair in pairs]
        per_step = statistics.median(statistics.median(run["seconds"]) for run in runs) / BLOCK
        line = f"{name:<22}{per_step * 1e3:>11.1f} ms"
        peak = f"{statistics.median(run['peak'] for run in runs):>11.0f} MB"
        if name == "without":
            print(line + " " * 34 + peak)
            continue
        seconds, peaks = zip(*(percent_over(pair[name], pair["without"]) for pair in pairs), strict=True)
        low, high = median_interval(seconds)
        interval = f"[{low:.2f}, {high:.2f}] %"
        print(f"{line}{statistics.median(seconds):>12.2f} %{interval:>20}{peak}{statistics.median(peaks):>12.2f} %")


if __name__ == "__main__":
    main()
