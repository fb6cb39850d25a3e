"""What does the meter cost? Prints CPU time and peak memory with and without it, over paired runs.

    python tests/benchmark_overhead.py --pairs 20
    python tests/benchmark_overhead.py --pairs 20 --mark H
    python tests/benchmark_overhead.py --pairs 20 --steps 4 --block 1 --model FOLDER_OF_SMOLLM2 --stop "\\n" --completions 32

GRPO on sums of two digits. A pair is three short runs from the same seed: without the meter; with it and all records, exact pass
rates aside; and with exact pass rates too. The three are threads of one process and take turns, a step each in random order, each with random
numbers of its own: so they compute the same samples, in the same memory. (Runs in processes of their own differ by 3 % from pair to pair, by
where their memory lies.) A step does the same work in all three, so blocks of steps are compared one by one, and the overhead of a
pair is the median of its blocks: neighbours on a machine stretch some blocks by a tenth. Where they do so more than the meter costs, `own code`
tells more: CPU time from where the trainer calls the meter to where it returns, without what the meter calls of the trainer; the caches
that it leaves cold for others are not in it. Four steps at 256 completions fill a part of the
records' tables once; where a step takes seconds and fills none, blocks of one step (`--block 1`) are better pairs. The interval of the median of the pairs is between order statistics (sign test), and assumes nothing of the noise but that
pairs are independent.

The C library is told to keep freed memory (`KEEPS_MEMORY`). Else it gives large buffers back after every step and takes them again, which
is a seventh of a step here, and less of it with the meter, whose own small allocations are in the way: it then seems to save 5 %. Peak memory
(`--memory_runs`) is of processes of their own, and of a C library as it is.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from scipy.stats import binom
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bitsample_llm import InformationMeter
from bitsample_llm.meter.hooks import wrap
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.tasks import load_task
from bitsample_llm.training.rewards import VerdictReward

BASE = Path(__file__).resolve().parent.parent / "data" / "base"
VARIANTS = {"without": None, "all records": {"exact_pass_rates": False}, "exact pass rates too": {"exact_pass_rates": True}}
GROUP = 8
KEEPS_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1),
    "MALLOC_MMAP_THRESHOLD_": str(2**32 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
}


class OwnCode:
    """CPU seconds in the meter's own code."""

    def __init__(self, trainer, meter):
        self.seconds = 0.0
        self._entered: float | None = None
        for name in (name for name in dir(meter) if name.startswith("on_")):
            setattr(meter, name, self._timed(getattr(meter, name)))
        for wrapped in (value for value in vars(trainer).values() if getattr(value, "__module__", "") == wrap.__module__):
            cells = dict(zip(wrapped.__code__.co_freevars, wrapped.__closure__, strict=True))
            cells["around"].cell_contents = self._timed(cells["around"].cell_contents)
            cells["original"].cell_contents = self._timed(cells["original"].cell_contents, of_meter=False)
        for module in trainer.model.modules():
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                for key, hook in hooks.items():
                    if (hook.__module__ or "").startswith("bitsample_llm"):
                        hooks[key] = self._timed(hook)

    def _timed(self, function, of_meter: bool = True):
        def timed(*args, **kwargs):
            if (self._entered is not None) is of_meter:  # no border is crossed
                return function(*args, **kwargs)
            self._cross()
            try:
                return function(*args, **kwargs)
            finally:
                self._cross()

        return timed

    def _cross(self) -> None:
        now = time.process_time()
        if self._entered is not None:
            self.seconds += now - self._entered
        self._entered = now if self._entered is None else None


class Turn(TrainerCallback):
    """Runs in a thread until the end of each step, and goes on when it is told to; random numbers are its own."""

    def __init__(self, warm_up_steps: int):
        self._may_run, self._has_paused = threading.Semaphore(0), threading.Semaphore(0)
        self._warm_up_steps = warm_up_steps
        self.seconds: list[float] = []  # CPU seconds of each step but the first ones
        self.own_seconds: list[float] = []  # of them, in the meter's own code
        self.own_code: OwnCode | None = None

    def begin(self, function, *arguments) -> None:
        def run() -> None:
            self._may_run.acquire()
            try:
                function(*arguments)
            finally:
                self.failure = sys.exception()
                self._has_paused.release()

        self.failure = None
        threading.Thread(target=run, daemon=True).start()

    def run_to_next_pause(self) -> None:
        self._may_run.release()
        self._has_paused.acquire()
        if self.failure is not None:
            raise self.failure

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step > self._warm_up_steps:
            self.seconds.append(time.process_time() - self._started)
            if self.own_code is not None:
                self.own_seconds.append(self.own_code.seconds - self._own_before)
        states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        self._has_paused.release()
        self._may_run.acquire()
        for setter, own in zip((torch.set_rng_state, np.random.set_state, random.setstate), states, strict=True):
            setter(own)
        self._own_before = self.own_code and self.own_code.seconds
        self._started = time.process_time()


def run(choices: argparse.Namespace, name: str, seed: int, folder: str, turn: Turn | None = None) -> None:
    """One run, in turns with others or by itself."""
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
        meter = InformationMeter(trainer, run_dir, verifier=verifier, strict=True, **options)
        trainer.add_callback(meter)
        if turn is not None:
            turn.own_code = OwnCode(trainer, meter)
    if turn is not None:
        trainer.add_callback(turn)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def of_own_process(function, *arguments):
    """What a function gives in a process of its own, forked before torch has run."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()

    def send() -> None:
        disable_progress_bars()
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
            theirs.send(function(*arguments, folder))

    process = context.Process(target=send)
    process.start()
    theirs.close()  # so that a run that fails ends this program
    result = mine.recv()
    process.join()
    return result


def seconds_of_pair(choices: argparse.Namespace, seed: int, folder: str) -> dict[str, tuple[list[float], float]]:
    """CPU seconds of each block of steps, and the percentage of them in the meter's own code, of a run of each variant, made in turns."""
    turns, rng = {name: Turn(choices.warm_up) for name in VARIANTS}, random.Random(seed)
    for name, turn in turns.items():
        turn.begin(run, choices, name, seed, f"{folder}/{name}", turn)
    for _ in range(choices.warm_up + choices.steps + 1):  # the last time to the end of the training
        for name in rng.sample(list(VARIANTS), len(VARIANTS)):
            turns[name].run_to_next_pause()
    starts = range(0, choices.steps, choices.block)
    return {
        name: ([sum(turn.seconds[at : at + choices.block]) for at in starts], 100 * sum(turn.own_seconds) / sum(turn.seconds))
        for name, turn in turns.items()
    }


def peak_memory_mb(choices: argparse.Namespace, name: str, seed: int, folder: str) -> float:
    """Peak memory of a run."""
    run(choices, name, seed, folder)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def percent_over(values: list[float], bare: list[float]) -> float:
    """How much more than others, as the median of the ratios."""
    return 100 * (statistics.median(mine / other for mine, other in zip(values, bare, strict=True)) - 1)


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
    parser.add_argument("--steps", type=int, default=20, help="measured in each run, a multiple of --block")
    parser.add_argument("--block", type=int, default=4, help="steps that are compared as one")
    parser.add_argument("--warm_up", type=int, default=3, help="steps before them")
    parser.add_argument("--memory_runs", type=int, default=0, help="of each variant, by which peak memory is measured")
    parser.add_argument("--model", type=Path, default=BASE, help="folder of a model; by default the embedded one")
    parser.add_argument("--mark", default="C", help="author of the embedded model's problems, whose answers set the pass rate")
    parser.add_argument("--stop", default=None, help="text that ends an answer")
    parser.add_argument("--completions", type=int, default=256, help="per step")
    parser.add_argument("--tokens", type=int, default=4, help="at most, of a completion")
    choices = parser.parse_args()
    choices.stop = choices.stop and choices.stop.replace("\\n", "\n")
    if not 0 < choices.block <= choices.steps or choices.steps % choices.block:
        parser.error(f"--steps must be a multiple of --block, got {choices.steps} and {choices.block}")
    if choices.memory_runs:
        peaks = {name: [] for name in VARIANTS}
        for seed in range(choices.memory_runs):
            for name in VARIANTS:
                peaks[name].append(of_own_process(peak_memory_mb, choices, name, seed))
        for name, values in peaks.items():
            over = percent_over(values, peaks["without"])
            print(f"{name:<22}{statistics.median(values):>11.0f} MB at the peak{over:>12.2f} % over without")
        return
    if not KEEPS_MEMORY.items() <= os.environ.items():  # read as a process begins
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEPS_MEMORY)
    pairs: list[dict[str, tuple[list[float], float]]] = []
    for number in range(choices.pairs):
        pairs.append(of_own_process(seconds_of_pair, choices, number))
        bare = pairs[-1]["without"][0]
        over = ", ".join(f"{name} {percent_over(blocks, bare):+.2f} %" for name, (blocks, _) in pairs[-1].items())
        print(f"pair {number}: {over}", flush=True)
    print(f"\n{choices.pairs} pairs of runs of {choices.steps} steps, {choices.completions} completions per step, one thread")
    print(f"{'':<22}{'CPU per step':>14}{'over without':>14}{'95 % interval':>20}{'own code':>12}")
    for name in VARIANTS:
        per_step = statistics.median(statistics.median(pair[name][0]) for pair in pairs) / choices.block
        overs = [percent_over(pair[name][0], pair["without"][0]) for pair in pairs]
        low, high = median_interval(overs)
        own = statistics.median(pair[name][1] for pair in pairs)
        interval = f"[{low:.2f}, {high:.2f}] %"
        print(f"{name:<22}{per_step * 1e3:>11.1f} ms{statistics.median(overs):>12.2f} %{interval:>20}{own:>10.2f} %")


if __name__ == "__main__":
    main()
