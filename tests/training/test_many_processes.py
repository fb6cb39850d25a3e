"""Eight processes that share groups between them, killed and resumed: one record, without a gap and without a duplicate."""

import itertools
import os
import signal
import subprocess
import time

import psutil
import pytest
from conftest import REPOSITORY
from test_meter_survives import num_lines
from test_processes import ACCELERATE, free_port

from bitsample_llm.records import read_run

NUM_PROCESSES, NUM_STEPS, BATCH, GROUP = 8, 12, 32, 8
OPTIONS = {
    "mark": "C",
    "num_train_problems": 64,
    "num_heldout_problems": 16,
    "max_steps": NUM_STEPS,
    "save_steps": 3,
    "per_device_train_batch_size": BATCH // NUM_PROCESSES,  # half a group
    "disable_tqdm": "true",
}


def launched(run_dir, *resume: str) -> subprocess.Popen:
    """grpo.py on eight processes of one machine."""
    command = [ACCELERATE, "launch", "--config_file", "recipes/accelerate/two_cpus.yaml", "--num_processes", str(NUM_PROCESSES)]
    command += ["--main_process_port", str(free_port()), "recipes/grpo.py", "--config", "recipes/configs/grpo.yaml"]
    command += [str(word) for name, value in OPTIONS.items() for word in (f"--{name}", value)]
    return subprocess.Popen([*command, "--output_dir", str(run_dir), *resume], cwd=REPOSITORY)


def workers_after(launcher: subprocess.Popen, run_dir, step: int) -> list[psutil.Process]:
    """The processes of a run that has written the line of a step, by rank."""
    deadline = time.monotonic() + 600
    while num_lines(run_dir) < step:
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    workers = psutil.Process(launcher.pid).children()
    assert len(workers) == NUM_PROCESSES
    return sorted(workers, key=lambda worker: int(worker.environ()["RANK"]))


@pytest.mark.long
def test_eight_processes_killed_twice_leave_one_record(tmp_path):
    run_dir = tmp_path / "run"
    launcher = launched(run_dir)
    workers_after(launcher, run_dir, 4)[5].send_signal(signal.SIGKILL)  # one of them: the launcher ends the others
    assert launcher.wait(600) != 0
    assert read_run(run_dir).manifest["state"] in ("running", "failed")
    resume = ("--resume_from_checkpoint", "last")
    launcher = launched(run_dir, *resume)
    for process in [psutil.Process(launcher.pid), *workers_after(launcher, run_dir, 8)]:  # all of them, as a machine that goes down
        os.kill(process.pid, signal.SIGKILL)
    launcher.wait()
    assert read_run(run_dir).manifest["state"] == "running"
    assert launched(run_dir, *resume).wait(600) == 0
    run = read_run(run_dir)
    assert run.manifest["state"] == "finished" and run.manifest["world_size"] == NUM_PROCESSES
    assert [line["step"] for line in run.steps] == list(range(1, NUM_STEPS + 1))
    totals = [line["flops/total"] for line in run.steps]
    assert all(after > before for before, after in itertools.pairwise(totals)) and run.steps[-1]["flops/lost"] > 0
    prompts, rollouts = run.table("prompts").to_pylist(), run.table("rollouts").to_pylist()
    keys = {(row["generation_step"], row["problem_id"], row["sample"]) for row in rollouts}
    assert len(keys) == len(rollouts) == run.steps[-1]["samples/total"] == NUM_STEPS * BATCH
    assert len({(row["generation_step"], row["problem_id"]) for row in prompts}) == len(prompts) == NUM_STEPS * BATCH // GROUP
    for row in prompts:
        group = [r for r in rollouts if (r["generation_step"], r["problem_id"]) == (row["generation_step"], row["problem_id"])]
        assert len(group) == row["group_size"] == GROUP and sum(r["passed"] for r in group) == row["num_passed"]
        assert all(r["surprisal_bits"] is not None for r in group)
