"""Run directories whose numbers are known, for tests of what is made of them."""

from pathlib import Path

import numpy as np

from bitsample_llm.records import read_run
from bitsample_llm.records.glossary import PHASES
from bitsample_llm.records.writer import RunWriter
from bitsample_llm.report.runs import Arm, MeasuredRun, arms_of, measured_run

PROBLEMS = [f"problem {n}" for n in range(4)]
MANIFEST = {
    "trainer": "SFTTrainer",
    "device": "cpu",
    "git_commit": "0" * 40,
    "git_dirty": False,
    "packages": {"trl": "1.16.0"},
    "heldout_problems_sha256": "x",
}


def make_run(
    folder,
    start,
    arm,
    regime,
    seed,
    gain_per_step,
    steps=4,
    samples_per_step=10,
    log2_start=-4.0,
    choices=None,
    splits=None,
    facts=None,
    tags=None,
    counts=None,
) -> MeasuredRun:
    """A run of `steps` steps in which every held-out problem starts at 2^log2_start and gains `gain_per_step` bits a step; in
    another split of `splits` it starts at a value of its own and gains that many times as much. `counts`, passes of each held-out
    problem at each evaluation and the number of rollouts of each, stand in place of pass rates."""
    flops_per_step = 1e12
    manifest = MANIFEST | {"start": start, "arm": arm, "regime": regime, "seed": seed, "tags": tags or {}}
    manifest["config"] = {"choices": choices or {}}
    manifest |= facts or {}
    splits = {"heldout": (log2_start, 1.0), "train": (log2_start, 1.0)} | (splits or {})
    column = "log2_pass_rate" if counts is None else "reference_log2_probability"
    run_dir = folder / f"{start}-{arm}-{seed}"
    writer = RunWriter.create(run_dir, manifest)
    for step in range(steps + 1):
        flops = step * flops_per_step
        for split, (first, factor) in splits.items():
            for number, problem in enumerate(PROBLEMS):
                row = {"step": step, "split": split, "problem_id": problem, column: first + factor * gain_per_step * step}
                if counts is not None:
                    row |= {"num_passed": counts[0][step][number], "num_rollouts": counts[1]}
                row |= {"update_norm": float(step), "total_flops": flops, "total_seconds": 2.0 * step}
                writer.add_rows("evals", [row])
        if step == 0:
            continue
        line = {"step": step, "generation_step": step if regime == "rl" else None, "samples/total": samples_per_step * step}
        line |= {f"flops/{phase}": 0.0 for phase in PHASES} | {f"flops_useful/{phase}": 0.0 for phase in PHASES}
        line |= {"flops/train_forward": flops, "flops_useful/train_forward": flops / 2, "flops/total": flops, "flops/lost": 0.0}
        line |= {"seconds/total": 2.0 * step, "bits/offered_total": 30.0 * step, "bits/offered_per_sample": 3.0}
        if regime == "rl":
            line |= {"bits/first_error_per_sample": 12.0}
            rollout = {"step": step, "num_tokens": 4, "num_steps": 4, "num_correct_before_first_error": step % 4, "passed": False}
            writer.add_rows("rollouts", [rollout | {"problem_id": p} for p in PROBLEMS])
            line |= {"group/pass_rate": 0.1, "bits/surprisal_per_sample": 2.0, "bits/believed_per_sample": 0.5}
            line |= {
                "group/informative_fraction": 0.5,
                "group/informative_fraction_predicted": 0.4,
                "flops/dead_group_fraction": 0.5,
            }
            row = {"step": step, "group_size": 8, "pass_rate": 0.1, "offered_bits": 0.469}
            writer.add_rows("prompts", [row | {"problem_id": p} for p in PROBLEMS])
        else:
            writer.add_rows("prompts", [{"step": step, "problem_id": p, "offered_bits": 3.0} for p in PROBLEMS])
        writer.add_step(line)
    writer.close("finished")
    return measured_run(read_run(run_dir))


def meter_only(folder, name, seed=42, trainer="GRPOTrainer", state="finished", **facts) -> Path:
    """A run of the meter on a plain script: no evaluations, no arm, no start, no configuration."""
    writer = RunWriter.create(folder / name, {"trainer": trainer, "regime": "rl", "seed": seed, "device": "cpu"} | facts)
    for step in range(1, 21):
        line = {"step": step, "generation_step": step, "samples/total": 10 * step, "bits/offered_total": 5.0 * step}
        line |= {f"{kind}/{phase}": 0.0 for kind in ("flops", "flops_useful") for phase in PHASES}
        line |= {"flops/decode": 1e12 * step, "flops/total": 1e12 * step, "flops/lost": 0.0, "seconds/total": 2.0 * step}
        writer.add_step(line | {"group/pass_rate_estimate": step / 20})
    writer.close(state, None if state == "finished" else "OutOfMemoryError: no room")
    return folder / name


def two_starts(folder) -> list[Arm]:
    """Two starts, two arms, three seeds: a label gains 1 bit in one step of 10 samples, a rollout in four."""
    runs = []
    for start, rl_gain in (("latent", 0.25), ("unacquired", 0.0)):
        for seed in (1, 2, 3):
            tags = {"reason": start}
            runs.append(make_run(folder, start, "sft", "sft", seed, 1.0, tags=tags))
            noise = 0.0 if rl_gain == 0 else 0.001 * seed
            runs.append(make_run(folder, start, "grpo", "rl", seed, rl_gain + noise, steps=8, tags=tags))
    return arms_of(runs)


HALF = 16
COSTS = {"rollout_prefill": 1e6, "rollout_decode": 1e6, "rollout_training": 6e6, "label_training": 4e6}
MEASUREMENT = {
    "regime": "measure",
    "trainer": "measure",
    "git_commit": "0" * 40,
    "config": {"model": {"model_name_or_path": "data/base"}},
    "probes": {"prefix": "a prefix", "mark": "a mark", "shots": "some shots", "updates": "some updates"},
    "flops_per_sample": COSTS,
    "updates_moved_bits": 1.0,
}


def make_measurement(folder, pass_rates, probed=None, rng=None, is_exact=False, half=HALF, state="finished", **manifest):
    """A measurement of prompts of these pass rates, and of the same prompts under probes: name -> pass rates."""
    rng = rng or np.random.default_rng(0)
    writer = RunWriter.create(Path(folder), MEASUREMENT | manifest)
    conditions = [(None, pass_rates), (None, pass_rates), *(probed or {}).items()]
    for step, (probe, rates) in enumerate(conditions, start=1):
        for number, rate in enumerate(rates):
            row = {"step": step, "generation_step": step, "problem_id": f"p{number}", "probe": probe, "group_size": half}
            row |= {"num_passed": int(rng.binomial(half, rate)), "pass_rate": float(rate) if is_exact else None}
            writer.add_rows("prompts", [row])
            if step == 1:
                text = {"prompt": f"{number}+0=", "answer": str(number), "label_surprisal_bits": 3.0}
                writer.add_rows("problems", [{"step": 1, "problem_id": f"p{number}", **text}])
        line = {"step": step, "generation_step": step, "samples/total": step * half * len(rates), "flops/lost": 0.0}
        writer.add_step(line | {f"flops/{phase}": 0.0 for phase in PHASES} | {"flops/total": 1e12, "seconds/total": 1.0})
    writer.close(state, None if state == "finished" else "Trouble: it broke")
    return read_run(folder)
