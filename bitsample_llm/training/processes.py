"""How a run's processes start together, how many threads each takes, what is said of them, and how they end together."""

import os
from pathlib import Path

import psutil
import torch
from accelerate import PartialState
from accelerate.commands.config.config_args import default_config_file, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

LAUNCHERS = {"accelerate-launch", "launch.py", "accelerate.commands.launch"}  # whose name is followed by their options


def honour_fsdp_on_cpu() -> None:
    """Let an accelerate configuration of type FSDP shard models on CPU processes too.

    accelerate 1.15 keeps FSDP for accelerators: on the CPU it copies the model to every process (DDP) without a word.
    """
    if os.environ.get("ACCELERATE_USE_FSDP") != "true" or hasattr(AcceleratorState, "_honours_fsdp_on_cpu"):
        return
    original = AcceleratorState.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = kwargs.get("fsdp_plugin") or FullyShardedDataParallelPlugin()

    AcceleratorState.__init__ = init
    AcceleratorState._honours_fsdp_on_cpu = True


def say(line: str) -> None:
    """Print a line, on the first process only."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(line, flush=True)


def choose_num_threads() -> None:
    """Give torch a thread for every core that is free, shared between the processes of this machine, and say so.

    OMP_NUM_THREADS, set by the user or by the launcher, is left alone. Threads that wait for a busy core are many times slower
    than fewer threads.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0]  # what others computed on in the last minute
    num_free = max(0, round(num_cores - load))
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_threads = max(1, num_free // num_processes)
    torch.set_num_threads(num_threads)
    threads = f"{num_threads} thread{'s' * (num_threads > 1)}{' per process' * (num_processes > 1)}"
    say(f"{num_free} of {num_cores} cores are free (load {load:.1f}): {threads}; set OMP_NUM_THREADS to choose")


def processes_asked_for(command: list[str]) -> int | None:
    """Processes that a command asks accelerate for, or its configuration file does; None if it is no such command."""
    names = [Path(word).name for word in command]
    if "accelerate" in names[:3] and "launch" in command:
        options = command[command.index("launch") + 1 :]
    elif found := [index for index, name in enumerate(names[:4]) if name in LAUNCHERS]:
        options = command[found[0] + 1 :]
    else:
        return None
    asked, _ = launch_command_parser().parse_known_args(options)
    if asked.num_processes is not None:
        return asked.num_processes
    if asked.config_file is not None or (Path(default_config_file).is_file() and not asked.cpu):
        return load_config_from_file(asked.config_file).num_processes
    return None


def _launch_command() -> list[str]:
    """The command line of the process that started this one."""
    try:
        parent = psutil.Process().parent()
        return parent.cmdline() if parent is not None else []
    except psutil.Error:  # not ours to see
        return []


def report_processes() -> None:
    """Say how many processes there are and how they share the model; a ValueError if the launcher was asked for more, because
    accelerate starts a single one without a word for `--cpu` and for `MULTI_CPU`.
    """
    state = PartialState()
    asked = processes_asked_for(_launch_command())
    if asked is not None and asked > state.num_processes:
        raise ValueError(
            f"accelerate was asked for {asked} processes and started {state.num_processes}: on CPUs use --config_file "
            "recipes/accelerate/two_cpus.yaml or fsdp2_cpus.yaml with --num_processes, on GPUs see that there are as many"
        )
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        if state.distributed_type != DistributedType.DEEPSPEED:
            raise ValueError(
                "the launch file asks for DeepSpeed, which accelerate leaves out without a word where use_cpu is true: pass --use_cpu "
                "false (and without a GPU --ddp_backend gloo too, with DS_ACCELERATOR=cpu in the environment)"
            )
        how = f"DeepSpeed ZeRO-{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '2')}"
    elif os.environ.get("ACCELERATE_USE_FSDP") == "true":
        how = f"FSDP{os.environ.get('FSDP_VERSION', '1')}"
    else:
        how = "DDP" if state.num_processes > 1 else "no sharing"
    say(f"processes: {state.num_processes} on {state.device.type} ({how})")


def part(accelerator) -> None:
    """Take the process group down. CPU processes that do not wait for one another first abort now and then at exit."""
    if torch.distributed.is_initialized():
        accelerator.wait_for_everyone()
        torch.distributed.destroy_process_group()
