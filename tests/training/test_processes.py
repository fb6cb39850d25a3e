"""Two processes, with copies of the model or with shards of it, leave the record that one process leaves; and the launcher is
held to what it was asked for.
"""

import dataclasses
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from conftest import BASE, REPOSITORY
from peft import AutoPeftModelForCausalLM
from test_real_models import ran
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, ModelConfig

from bitsample_llm.records import read_run
from bitsample_llm.scoring.likelihood import exact_pass_rates
from bitsample_llm.tasks import load_task
from bitsample_llm.training.arguments import RunArguments
from bitsample_llm.training.processes import choose_num_threads, processes_asked_for

ACCELERATE = str(Path(sys.executable).parent / "accelerate")
OPTIONS = {
    "answer_format": "reversed",
    "difficulty": 2,
    "mark": "C",
    "num_train_problems": 64,
    "num_heldout_problems": 16,
    "max_steps": 3,
    "save_strategy": "steps",
    "save_steps": 3,
    "disable_tqdm": "true",
}
BATCH = {"sft": 16, "grpo": 64}
LORA = {"use_peft": "true", "lora_dropout": 0.0}
HOW = {  # launch file -> what the recipe says of it
    "one_cpu": "1 on cpu (no sharing)",
    "two_cpus": "2 on cpu (DDP)",
    "fsdp2_cpus": "2 on cpu (FSDP2)",
    "ddp_gpus": "2 on cpu (DDP)",
    "fsdp2_gpus": "2 on cpu (FSDP2)",
    "zero2_gpus": "2 on cpu (DeepSpeed ZeRO-2)",
    "zero3_gpus": "2 on cpu (DeepSpeed ZeRO-3)",
}
DEEPSPEED = Path(sys.prefix) / "deepspeed"  # `make test-long` installs it there, out of the sight of every other test
ON_TWO_CPUS = ["--num_processes", "2", "--mixed_precision", "no"]  # what a file for GPUs is launched with here


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def ended(recipe: str, config: str, output_dir: Path, **options) -> subprocess.CompletedProcess:
    """A recipe on the processes of a launch file, one or two, which share the batch."""
    batch = BATCH[recipe] // (1 if config == "one_cpu" else 2)
    environment, default = dict(os.environ), OPTIONS
    if config.startswith("zero"):
        if not DEEPSPEED.is_dir():
            pytest.skip(f"needs DeepSpeed in {DEEPSPEED}: make .venv/deepspeed")
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] = os.pathsep.join([str(DEEPSPEED), *filter(None, [os.environ.get("PYTHONPATH")])])
        default = OPTIONS | {"use_cpu": "false", "ddp_backend": "gloo"}  # accelerate leaves DeepSpeed out where it is told of a CPU
    options = default | options | {"per_device_train_batch_size": batch, "output_dir": output_dir}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [ACCELERATE, "launch", "--config_file", f"recipes/accelerate/{config}.yaml", "--main_process_port", str(free_port())]
    command += ON_TWO_CPUS if config.endswith("_gpus") else []
    command += [f"recipes/{recipe}.py", "--config", f"recipes/configs/{recipe}.yaml"]
    return subprocess.run([*command, *words], capture_output=True, text=True, cwd=REPOSITORY, timeout=600, env=environment)


def launched(recipe: str, config: str, output_dir: Path, **options):
    """The record that it leaves, and what it printed."""
    done = ended(recipe, config, output_dir, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    return read_run(output_dir), done.stdout


@pytest.fixture(scope="module")
def of_one_process(tmp_path_factory):
    """The record of a recipe on one process, made when first asked for."""
    made = {}

    def record(recipe: str, **options):
        key = (recipe, *options)
        if key not in made:
            folder = tmp_path_factory.mktemp(recipe) / "run"
            with pytest.MonkeyPatch.context() as patch:
                options = OPTIONS | options | {"per_device_train_batch_size": BATCH[recipe]}
                made[key] = ran(patch, recipe, BASE, folder, **options)
        return made[key]

    return record


def by_problem(run, table: str, column: str) -> dict:
    """(step, split, problem) -> a column; fails where a row is there twice."""
    rows = run.table(table).to_pylist()
    found = {(row["step"], row.get("split"), row["problem_id"]): row[column] for row in rows}
    assert len(found) == len(rows)
    return found


# Every recipe, every launch file and every way to train: four combinations in CI; `make test-long` has the others.
WAYS = {"sft": ("sft", {}), "grpo": ("grpo", {}), "sft with LoRA": ("sft", LORA), "grpo with LoRA": ("grpo", LORA)}
IN_CI = {("sft", "two_cpus"), ("grpo", "fsdp2_cpus"), ("sft with LoRA", "fsdp2_cpus"), ("grpo with LoRA", "two_cpus")}
COMBINATIONS = [
    pytest.param(*WAYS[way], config, id=f"{way}-{config}", marks=pytest.mark.slow if (way, config) in IN_CI else pytest.mark.long)
    for way in WAYS
    for config in HOW
]


@pytest.mark.parametrize(("recipe", "options", "config"), COMBINATIONS)
def test_every_launch_file_leaves_the_record_of_one_process_up_to_sampling(of_one_process, tmp_path, recipe, options, config):
    one = of_one_process(recipe, **options)
    two, printed = launched(recipe, config, tmp_path / "run", **options)
    assert f"processes: {HOW[config]}" in printed and printed.count("processes:") == 1
    assert (one.manifest["world_size"], two.manifest["world_size"]) == (1, 1 if config == "one_cpu" else 2)
    steps = [run.steps for run in (one, two)]
    assert [len(lines) for lines in steps] == [3, 3]
    for ours, theirs in zip(*steps, strict=True):
        assert {key: ours[key] for key in ("samples/total", "tokens/prompt")} == {
            key: theirs[key] for key in ("samples/total", "tokens/prompt")
        }
    # before the first update nothing was sampled that matters: the same prompts, with the same numbers
    column = "offered_bits" if recipe == "sft" else "pass_rate"
    prompts = [by_problem(run, "prompts", column) for run in (one, two)]
    assert prompts[0].keys() == prompts[1].keys()
    for key, value in prompts[0].items():
        tolerance = 1e-5 if recipe == "sft" or key[0] == 1 else 0.02  # rollouts differ, hence updates, hence what follows
        assert prompts[1][key] == pytest.approx(value, abs=tolerance)
    evals = [by_problem(run, "evals", "log2_pass_rate") for run in (one, two)]
    assert evals[0].keys() == evals[1].keys()
    for key, value in evals[0].items():
        assert evals[1][key] == pytest.approx(value, abs=1e-4 if recipe == "sft" or key[0] == 0 else 0.2)
    is_scored_anew = recipe == "grpo" and any(way in config for way in ("fsdp", "zero"))  # prompts of a sharded model's rollouts
    for phase in ("train_forward", "train_backward", "total", *(() if is_scored_anew else ("evaluation",))):
        tolerance = 1e-9 if recipe == "sft" else 0.05
        assert two.steps[-1][f"flops/{phase}"] == pytest.approx(one.steps[-1][f"flops/{phase}"], rel=tolerance)
    # what was saved is the whole model, or the whole adapter, with the pass rates that were recorded last
    load = AutoPeftModelForCausalLM if options else AutoModelForCausalLM
    model, tokenizer = load.from_pretrained(two.run_dir / "model"), AutoTokenizer.from_pretrained(two.run_dir / "model")
    problems = load_task("addition", "reversed", difficulty=2, mark="C").problems("heldout", 16, seed=0)
    for problem, rate in zip(problems, exact_pass_rates(model, tokenizer, problems), strict=True):
        assert rate == pytest.approx(2 ** evals[1][3, "heldout", problem.problem_id], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["sft", "grpo"])
def test_solved_problems_before_every_prompt_are_scored_alike_by_two_processes(of_one_process, tmp_path, recipe):
    options = {"shots": 3, "shot_separator": ";", "prompt_format": "text", "stop": ";"}
    one = of_one_process(recipe, **options)
    two, _ = launched(recipe, "two_cpus", tmp_path / "run", **options)
    assert one.manifest["data"]["shots"] == two.manifest["data"]["shots"]
    for table, first_step in (("prompts", 1), ("evals", 0)):
        column = "log2_pass_rate" if table == "evals" else "offered_bits" if recipe == "sft" else "pass_rate"
        ours, theirs = ({key: v for key, v in by_problem(run, table, column).items() if key[0] == first_step} for run in (one, two))
        assert len(ours) >= 8 and theirs == pytest.approx(ours, abs=1e-4)
    # the shots are put in once per process and evaluation: two processes pay for them twice
    prefix = one.steps[-1]["flops/evaluation"], two.steps[-1]["flops/evaluation"]
    assert prefix[0] <= prefix[1] < 2 * prefix[0]


@pytest.mark.parametrize("recipe", [pytest.param("sft", marks=pytest.mark.long), pytest.param("grpo", marks=pytest.mark.slow)])
def test_a_launcher_that_starts_fewer_processes_than_asked_for_is_an_error(tmp_path, recipe):
    command = [ACCELERATE, "launch", "--cpu", "--num_processes", "2", f"recipes/{recipe}.py"]
    command += ["--config", f"recipes/configs/{recipe}.yaml", "--output_dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=600)
    assert done.returncode != 0 and not (tmp_path / "run").exists()
    assert "error: accelerate was asked for 2 processes and started 1: on CPUs use --config_file recipes/accelerate/" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("config", ["zero2_gpus", "zero3_gpus"])
def test_deepspeed_that_accelerate_leaves_out_is_an_error(tmp_path, config):
    done = ended("sft", config, tmp_path / "run", use_cpu="true")
    assert done.returncode != 0 and not (tmp_path / "run").exists()
    assert "error: the launch file asks for DeepSpeed, which accelerate leaves out" in done.stderr


COMMANDS = {
    "python recipes/sft.py --num_processes 3": None,
    "/bin/python /bin/accelerate launch --num_processes 4 recipes/sft.py --num_processes 7": 4,
    "/bin/python /bin/accelerate-launch --num_processes=2 --cpu recipes/sft.py": 2,
    "python -m accelerate.commands.launch --num_processes 2 train.py": 2,
    "/bin/python /bin/accelerate launch --config_file recipes/accelerate/two_cpus.yaml recipes/grpo.py": 2,
    "/bin/python /bin/accelerate launch --config_file recipes/accelerate/zero3_gpus.yaml --num_processes 16 recipes/grpo.py": 16,
    "bash launch accelerate": None,
    "": None,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_number_asked_for_is_read_off_the_launch_command(monkeypatch, command):
    monkeypatch.chdir(REPOSITORY)
    assert processes_asked_for(command.split()) == COMMANDS[command]


KINDS = {
    "one_cpu": "NO",
    "two_cpus": "MULTI_GPU",
    "fsdp2_cpus": "FSDP",
    "ddp_gpus": "MULTI_GPU",
    "fsdp2_gpus": "FSDP",
    "two_nodes_gpus": "MULTI_GPU",
    "zero2_gpus": "DEEPSPEED",
    "zero3_gpus": "DEEPSPEED",
}


def test_every_accelerate_file_is_read_by_accelerate():
    files = {path.stem: path for path in (REPOSITORY / "recipes" / "accelerate").glob("*.yaml")}
    assert files.keys() == KINDS.keys()
    for name, path in files.items():
        config = load_config_from_file(str(path))
        assert config.distributed_type.value == KINDS[name]
        assert config.use_cpu is ("cpu" in name)


# Two nodes that are one machine: what SLURM's own commands would do for a job
STAND_INS = {
    "srun": 'for rank in 0 1; do SLURM_NODEID=$rank "$@" & pids+=($!); done\nfor pid in "${pids[@]}"; do wait "$pid" || exit 1; done',
    "scontrol": "echo 127.0.0.1\necho second",
}


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.slow if way == "sft" else pytest.mark.long) for way in WAYS])
def test_a_job_on_two_nodes_leaves_the_record_of_one_process(of_one_process, tmp_path, way):
    recipe, options = WAYS[way]
    for name, lines in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    words = [str(word) for name, value in (OPTIONS | options).items() for word in (f"--{name}", value)]
    words += ["--per_device_train_batch_size", str(BATCH[recipe] // 2), "--output_dir", str(tmp_path / "run")]
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1"}
    job["MAIN_PROCESS_PORT"] = str(free_port())  # such jobs run beside each other
    path = f"{tmp_path}:{Path(ACCELERATE).parent}:{os.environ['PATH']}"
    command = ["bash", "recipes/accelerate/slurm.sh", f"recipes/{recipe}.py", "--config", f"recipes/configs/{recipe}.yaml", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, timeout=600, env=os.environ | job | {"PATH": path}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = of_one_process(recipe, **options), read_run(tmp_path / "run")
    assert (one.manifest["world_size"], two.manifest["world_size"]) == (1, 2)
    prompts = [by_problem(run, "prompts", "offered_bits" if recipe == "sft" else "pass_rate") for run in (one, two)]
    assert prompts[1] == pytest.approx(prompts[0], abs=1e-4 if recipe == "sft" else 0.02)
    assert two.steps[-1]["flops/total"] == pytest.approx(one.steps[-1]["flops/total"], rel=1e-9 if recipe == "sft" else 0.05)


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_vllm_files_name_options_that_exist(mode):
    options = yaml.safe_load((REPOSITORY / "recipes" / "configs" / f"grpo_vllm_{mode}.yaml").read_text())
    known = {field.name for kind in (GRPOConfig, ModelConfig, RunArguments) for field in dataclasses.fields(kind)}
    assert set(options) <= known and options["use_vllm"] is True and options["vllm_mode"] == mode


@pytest.mark.parametrize(
    ("load", "environment", "line"),
    [
        (0.3, {}, "2 of 2 cores are free (load 0.3): 2 threads; set OMP_NUM_THREADS to choose"),
        (1.2, {}, "1 of 2 cores are free (load 1.2): 1 thread; set OMP_NUM_THREADS to choose"),
        (7.5, {}, "0 of 2 cores are free (load 7.5): 1 thread; set OMP_NUM_THREADS to choose"),
        (0.3, {"LOCAL_WORLD_SIZE": "2"}, "2 of 2 cores are free (load 0.3): 1 thread per process; set OMP_NUM_THREADS to choose"),
        (0.3, {"OMP_NUM_THREADS": "2"}, None),
    ],
)
def test_threads_are_the_free_cores_unless_somebody_chose(monkeypatch, capsys, load, environment, line):
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    choose_num_threads()
    assert capsys.readouterr().out.splitlines() == ([] if line is None else [line])
    assert given == ([] if line is None else [int(re.search(r"(\d+) thread", line)[1])])
