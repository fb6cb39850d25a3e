"""What do records cost at the scale of a large run? Prints rows per second, bytes, and what a summary and a report take.

    python tests/benchmark_scale.py --rollouts 1000000

A stand-in for a trainer writes rollouts of 100,000 problems, groups of eight, a thousand rollouts a step: the meter's own rows and step lines, with random numbers where
a model would have made them. Then `bitsample RUN` and `bitsample report RUN` run on it, each in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bitsample_llm.records.glossary import PHASES
from bitsample_llm.records.writer import RunWriter

GROUP, ROLLOUTS_PER_STEP, NUM_PROBLEMS, STEPS_PER_SEGMENT = 8, 1000, 100_000, 20
MB = 2**20


def written_run(folder: Path, num_rollouts: int, text_length: int) -> float:
    """Write a run; the seconds that the writer took."""
    rng, seconds = np.random.default_rng(0), 0.0
    writer = RunWriter.create(folder, {"trainer": "GRPOTrainer", "regime": "rl", "seed": 0, "device": "none"})
    for step in range(1, num_rollouts // ROLLOUTS_PER_STEP + 1):
        problems = rng.integers(NUM_PROBLEMS, size=ROLLOUTS_PER_STEP // GROUP)
        passed, bits = rng.random(ROLLOUTS_PER_STEP) < 0.3, rng.gamma(2.0, 200.0, ROLLOUTS_PER_STEP)
        letters = rng.integers(97, 123, size=(ROLLOUTS_PER_STEP, text_length), dtype=np.uint8)
        place = {"step": step, "generation_step": step}
        rollouts = [
            place
            | {"problem_id": f"problem-{problems[row // GROUP]:06d}", "sample": row % GROUP, "ended": True, "num_tokens": 900 + row}
            | {"rewards": [("accuracy", float(passed[row]))], "reward": float(passed[row]), "passed": bool(passed[row])}
            | {"reason": "right" if passed[row] else "wrong", "surprisal_bits": float(bits[row])}
            | ({"text": letters[row].tobytes().decode()} if text_length else {})
            for row in range(ROLLOUTS_PER_STEP)
        ]
        counts = passed.reshape(-1, GROUP).sum(axis=1)
        prompts = [
            place
            | {"problem_id": f"problem-{problem:06d}", "group_size": GROUP, "num_passed": int(num)}
            | {"offered_bits": float(rng.random()), "offered_bits_estimator": "jackknife"}
            for problem, num in zip(problems, counts, strict=True)
        ]
        line = place | {"samples/total": step * ROLLOUTS_PER_STEP, "bits/offered_total": 500.0 * step}
        line |= {f"{kind}/{phase}": 1e15 * step for kind in ("flops", "flops_useful", "seconds") for phase in PHASES}
        line |= {"flops/total": 7e15 * step, "flops/lost": 0.0, "seconds/total": 60.0 * step, "group/pass_rate_estimate": 0.3}
        began = time.perf_counter()
        writer.add_rows("rollouts", rollouts)
        writer.add_rows("prompts", prompts)
        writer.add_step(line)
        if step % STEPS_PER_SEGMENT == 0:
            writer.flush()
        seconds += time.perf_counter() - began
    began = time.perf_counter()
    writer.close("finished")
    return seconds + time.perf_counter() - began


def cost_of(*words: str) -> tuple[float, float]:
    """Seconds and peak megabytes of a command."""
    program = (
        "import json, resource, subprocess, sys, time\n"
        "began = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(json.dumps([time.perf_counter() - began, peak]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True, text=True)
    seconds, kilobytes = json.loads(done.stdout)
    return seconds, kilobytes / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--text_length", type=int, default=0, help="characters of each completion; 0: without text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        seconds = written_run(run, options.rollouts, options.text_length)
        sizes = {name: sum(path.stat().st_size for path in run.glob(f"{name}*")) for name in ("rollouts", "prompts", "steps")}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{options.rollouts} rollouts, {options.text_length} characters each: {options.rollouts / seconds:.0f} rows per second"
        )
        print(f"bytes per rollout: {sizes['rollouts'] / options.rollouts:.1f}; files: ", end="")
        print(", ".join(f"{name} {size / MB:.1f} MB" for name, size in sizes.items()), f"; peak of the writer {memory:.0f} MB")
        commands = {"summary": [str(run)], "report": ["report", str(run), "--output_dir", str(Path(folder) / "page")]}
        for name, words in commands.items():
            took, peak = cost_of(sys.executable, "-m", "bitsample_llm", *words)
            print(f"{name}: {took:.1f} s, peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
