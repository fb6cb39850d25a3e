"""How a run's processes come together and part, where accelerate needs a hand with it."""

import os

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin


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


def part(accelerator) -> None:
    """Take the process group down. CPU processes that do not wait for one another first abort now and then at exit."""
    if torch.distributed.is_initialized():
        accelerator.wait_for_everyone()
        torch.distributed.destroy_process_group()
