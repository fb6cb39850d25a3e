"""Rollouts by a vLLM server: a stand-in speaks its HTTP protocol with a small model, TRL's own client and recipe talk to it.

Left out, because they need CUDA: vLLM itself, and the transfer of weights by NCCL, which is a socket here.
"""

import contextlib
import json
import subprocess
import sys

import pytest
from conftest import BASE, REPOSITORY
from test_processes import ACCELERATE, free_port
from transformers import AutoConfig, AutoTokenizer

from bitsample_llm.flops import forward_flops
from bitsample_llm.records import read_run

OPTIONS = {
    "model_name_or_path": BASE,
    "attn_implementation": "eager",
    "answer_format": "reversed",
    "difficulty": 2,
    "mark": "E",
    "num_train_problems": 32,
    "num_heldout_problems": 8,
    "use_cpu": "true",
    "bf16": "false",
    "max_steps": 6,
    "save_steps": 2,
    "logging_steps": 1,
    "learning_rate": 1e-4,
    "max_completion_length": 4,
    "vllm_server_host": "127.0.0.1",
}
BATCH = 32
LORA = {"use_peft": "true", "lora_dropout": 0.0, "learning_rate": 1e-3}


@contextlib.contextmanager
def server(log, **options):
    """The address of a stand-in for `vllm serve`, and the process."""
    port = free_port()
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "tests/scripts/vllm_server.py", "--model", BASE, "--port", str(port), "--log", log, *words]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        yield {"vllm_server_port": port, "vllm_group_port": free_port()}, process
    finally:
        process.kill()
        process.wait()


def started(run_dir, num_processes: int, **options) -> subprocess.Popen:
    """grpo.py with the configuration for a server."""
    options = OPTIONS | options | {"per_device_train_batch_size": BATCH // num_processes, "output_dir": run_dir}
    launcher = [sys.executable]
    if num_processes > 1:
        launcher = [ACCELERATE, "launch", "--config_file", "recipes/accelerate/two_cpus.yaml"]
        launcher += ["--main_process_port", str(free_port())]
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [*launcher, "tests/scripts/with_vllm_server.py", "recipes/grpo.py"]
    command += ["--config", "recipes/configs/grpo_vllm_server.yaml", *words]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen) -> list[str]:
    """Lines of an ended process about what went wrong."""
    _, stderr = process.communicate(timeout=600)
    return stderr.splitlines()


def generated(log) -> list[list]:
    """[prompt, completion] in token ids, of each request in a list of its own."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def check_whole(run, requests: list[list]) -> None:
    """One record of what the server made, with its price by the tokens."""
    assert run.manifest["state"] == "finished" and [line["step"] for line in run.steps] == list(range(1, 7))
    rows = sorted(run.table("rollouts").to_pylist(), key=lambda row: row["generation_step"])
    assert len({(row["generation_step"], row["problem_id"], row["sample"]) for row in rows}) == len(rows) == 6 * BATCH
    tokenizer, config = AutoTokenizer.from_pretrained(BASE), AutoConfig.from_pretrained(BASE)
    made = [pair for request in requests for pair in request]
    texts = [tokenizer.decode([token for token in ids if token != tokenizer.eos_token_id]) for _, ids in made]
    assert [row["text"] for row in rows] == texts and [row["num_tokens"] for row in rows] == [len(ids) for _, ids in made]
    # groups of 8: a prompt once, then a pass for each further token, over a context that grows by one
    prefill = sum(forward_flops(config, len(ids), (len(ids) + 1) / 2, 1) for ids, _ in made[::8])
    decode = sum(forward_flops(config, 1, len(ids) + 1 + at, 1) for ids, sampled in made for at in range(len(sampled) - 1))
    last = run.steps[-1]
    assert last["flops/decode"] == pytest.approx(decode) and last["flops/prefill"] == pytest.approx(prefill)
    assert last["seconds/decode"] > 0
    # the server had the trainer's weights each time: what it sampled is as probable to one as to the other
    state = json.loads((run.run_dir / "checkpoints" / "checkpoint-6" / "trainer_state.json").read_text())
    apart = [entry["sampling/sampling_logp_difference/max"] for entry in state["log_history"] if "loss" in entry]
    assert len(apart) == 6 and max(apart) < 1e-4


# in which request the server dies, and how the trainer trains
ENDS = [
    pytest.param("completions", {}, 1, marks=pytest.mark.slow),
    pytest.param("start_weight_update", LORA, 1, marks=pytest.mark.slow),
    pytest.param("update_weights", {}, 1, marks=pytest.mark.long),
    pytest.param("completions", {}, 2, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("dies_in", "options", "num_processes"), ENDS)
def test_a_server_that_is_killed_is_named_in_one_line_and_a_new_one_goes_on(tmp_path, dies_in, options, num_processes):
    run_dir, logs = tmp_path / "run", [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    with server(logs[0], die_in=dies_in, die_at=4) as (address, process):
        training = started(run_dir, num_processes, **options, **address)
        lines = said(training)
        assert process.wait() == -9
    assert training.returncode == 1
    named = f"http://127.0.0.1:{address['vllm_server_port']}"
    message = f"the vLLM server at {named} does not answer any more (ConnectionError): start it again, then this command with "
    message += "--resume_from_checkpoint last"
    told = [line for line in lines if line.startswith("error: ")]
    assert len(told) == 1 and message in told[0]
    if num_processes == 1:  # the launcher of several says more
        assert lines[-1] == told[0] and not any("Traceback" in line for line in lines)
    failed = read_run(run_dir)
    assert failed.manifest["state"] == "failed" and message in failed.manifest["reason"]
    assert [line["step"] for line in failed.steps] == [1, 2, 3]
    assert failed.table("rollouts").num_rows == 3 * BATCH and failed.table("prompts").num_rows == 3 * BATCH // 8
    with server(logs[1], seed=1) as (address, _):
        training = started(run_dir, num_processes, **options, **address, resume_from_checkpoint="last")
        lines = said(training)
        assert training.returncode == 0, lines[-20:]
    run = read_run(run_dir)
    assert run.steps[-1]["flops/lost"] > 0 and run.manifest["world_size"] == num_processes
    check_whole(run, generated(logs[0])[:2] + generated(logs[1]))  # the checkpoint is of step 2


@pytest.mark.slow
def test_a_server_that_is_not_there_is_named_before_a_record_begins(tmp_path):
    address = {"vllm_server_port": free_port(), "vllm_group_port": free_port(), "vllm_server_timeout": 0}
    training = started(tmp_path / "run", 1, **address)
    lines = said(training)
    assert training.returncode == 1 and not (tmp_path / "run" / "manifest.json").exists()
    assert lines[-1].startswith(f"error: The vLLM server can't be reached at http://127.0.0.1:{address['vllm_server_port']}")
