"""The meter on scripts that know nothing of this project: a chat model with a byte-level BPE tokenizer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, forked
from scripts.tiny_qwen2 import make

from bitsample_llm.records import read_run

ACCELERATE = str(Path(sys.executable).parent / "accelerate")


@pytest.fixture(scope="module")
def tiny_qwen2(tmp_path_factory) -> Path:
    """A folder with a random Qwen2, its tokenizer and chat template."""
    folder = tmp_path_factory.mktemp("model") / "tiny_qwen2"
    make(str(folder))
    return folder


OPTIONS = {
    "grpo": ["--num_generations", "4", "--per_device_train_batch_size", "16", "--max_completion_length", "12"],
    "sft": ["--assistant_only_loss", "false"],
    "dpo": [],
}


LAUNCHED = [
    pytest.param([], False, id="all parameters"),
    pytest.param([], True, id="all parameters, launched", marks=pytest.mark.slow),
    pytest.param(["--use_peft", "true"], True, id="LoRA, launched", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("peft", "is_launched"), LAUNCHED)
@pytest.mark.parametrize("name", ["grpo", "sft", "dpo"])
def test_one_line_in_a_plain_script_records_the_run(tiny_qwen2, tmp_path, name, peft, is_launched):
    run_dir = tmp_path / "run"
    script = f"tests/scripts/plain_{name}.py"
    words = ["--model_name_or_path", str(tiny_qwen2), "--output_dir", str(run_dir), "--max_steps", "4", "--use_cpu", "true"]
    words += ["--report_to", "none", "--logging_steps", "2", *OPTIONS[name], *peft]
    if is_launched:
        command = [ACCELERATE, "launch", "--cpu", script, *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=600)
    else:
        done = forked(REPOSITORY / script, words, tmp_path / "said")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "bits/PFLOP=" in done.stderr  # the trainer's own progress bar
    run = read_run(run_dir)
    assert run.manifest["state"] == "finished" and run.manifest["trainer"] == f"{name.upper()}Trainer"
    assert [line["step"] for line in run.steps] == [1, 2, 3, 4]
    assert run.steps[-1]["flops/total"] > 0
    prompts = run.table("prompts").to_pylist()
    if name == "dpo":
        assert len(prompts) == 4 * 8 and {row["offered_bits"] for row in prompts if row["step"] == 1} == {1.0}
    elif name == "sft":
        assert len(prompts) == 4 * 8 and all(row["offered_bits"] > 0 for row in prompts)
    else:
        rollouts = run.table("rollouts").to_pylist()
        assert len(prompts) == 4 * 4 and len(rollouts) == 4 * 16
        assert all(row["passed"] == row["text"][:1].isdigit() for row in rollouts)
        assert all(row["surprisal_bits"] > 0 for row in rollouts)
        assert {row["offered_bits_estimator"] for row in prompts} == {"jackknife"}
    history = json.loads((run_dir / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "bits/offered_per_petaflop" in entry] == [2, 4]
    summary = subprocess.run([sys.executable, "-m", "bitsample_llm", str(run_dir)], capture_output=True, text=True, cwd=tmp_path)
    assert summary.returncode == 0 and "bits/offered_per_petaflop" in summary.stdout
    assert f"{name.upper()}Trainer, finished, 4 steps" in summary.stdout


@pytest.mark.slow
def test_pairs_that_two_processes_share_have_one_record(tiny_qwen2, tmp_path):
    runs = []
    for num, how in ((1, ["--cpu"]), (2, ["--config_file", "recipes/accelerate/two_cpus.yaml"])):
        run_dir = tmp_path / f"on_{num}"
        words = f"--use_cpu true --bf16 false --max_steps 2 --learning_rate 1e-3 --report_to none --per_device_train_batch_size {8 // num}"
        command = [ACCELERATE, "launch", *how, "tests/scripts/plain_dpo.py", *words.split()]
        command += ["--model_name_or_path", str(tiny_qwen2), "--output_dir", str(run_dir)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
        runs.append(read_run(run_dir))
    one, two = (run.steps[-1] for run in runs)
    assert one["samples/total"] == two["samples/total"] == 16
    for key in ("bits/offered_total", "tokens/prompt", "tokens/completion", "flops/train_backward", "flops/score_reference"):
        assert two[key] == pytest.approx(one[key], rel=0.02), key  # padding differs
