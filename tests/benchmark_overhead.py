"""What does the meter cost? Prints the median ratio of step times with and without it, over paired runs.

    python tests/benchmark_overhead.py --pairs 20

GRPO with 256 completions a step on the embedded model. A pair is three short runs from the same seed in random order:
without the meter; with it and all records, exact pass rates aside; and with exact pass rates too. A run's step time is the
median over its steps after the first few.
"""

import argparse
import contextlib
import io
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bitsample_llm import InformationMeter
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.tasks import load_task
from bitsample_llm.training.rewards import VerdictReward

BASE = Path(__file__).resolve().parent.parent / "data" / "base"
WARM_UP_STEPS = 3
VARIANTS = {"without": None, "with all records": {"exact_pass_rates": False}, "and exact pass rates": {"exact_pass_rates": True}}


class StepClock(TrainerCallback):
    """Times between the ends of steps."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        """Take the time."""
        self.ends.append(time.perf_counter())


def median_step_seconds(options: dict | None, num_steps: int, seed: int, folder: str) -> float:
    """Median seconds of a step of one run."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")
    task = load_task("addition", "reversed", difficulty=2, mark="C")
    problems = task.problems("train", 512, seed=0)
    verifier = RolloutVerifier(task, problems, tokenizer)
    args = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=256,
        num_generations=8,
        max_completion_length=4,
        max_steps=num_steps,
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
    if options is not None:
        trainer.add_callback(InformationMeter(trainer, Path(folder) / "run", verifier=verifier, strict=True, **options))
    clock = StepClock()
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    steps = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    return statistics.median(steps[WARM_UP_STEPS:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=24)
    choices = parser.parse_args()
    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    order, rng = list(VARIANTS), random.Random(0)
    ratios: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for pair in range(choices.pairs):
        rng.shuffle(order)
        seconds = {}
        for name in order:
            with tempfile.TemporaryDirectory() as folder:
                seconds[name] = median_step_seconds(VARIANTS[name], choices.steps, pair, folder)
        for name in VARIANTS:
            ratios[name].append(seconds[name] / seconds["without"])
        print(f"pair {pair}: " + ", ".join(f"{name} {seconds[name] * 1e3:.1f} ms" for name in VARIANTS), flush=True)
    print(
        f"step time over the same without the meter, {choices.pairs} pairs of {choices.steps} steps, {torch.get_num_threads()} threads"
    )
    for name in list(VARIANTS)[1:]:
        low, median, high = statistics.quantiles(ratios[name], n=4)
        print(f"{name:<22} median {median:.3f}, quartiles {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
