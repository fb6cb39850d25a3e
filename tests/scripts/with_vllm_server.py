"""Run a program with a stand-in for the package vllm, whose client side of a weight transfer is a socket and not NCCL:
`with_vllm_server.py recipes/grpo.py ...`. HTTP, the rendezvous and the order of calls are TRL's own.
"""

import runpy
import sys
from importlib.machinery import ModuleSpec
from multiprocessing.connection import Connection, Listener
from types import ModuleType, SimpleNamespace

from urllib3.util.retry import Retry

VERSION = "0.30.0"  # whose calls these are


def get_ip() -> str:
    """The address at which the server finds the trainer."""
    return "127.0.0.1"


def trainer_init(init_info: dict) -> SimpleNamespace:
    """The trainer's end of the transfer: waits for the server, which TRL asks to come at the same time."""
    with Listener((init_info["master_address"], init_info["master_port"])) as listener:
        return SimpleNamespace(connection=listener.accept(), group=SimpleNamespace(store=None, socket=None))


def packed_nccl_broadcast_producer(iterator, group: SimpleNamespace, src: int, post_iter_func) -> None:
    """Send each tensor."""
    connection: Connection = group.connection
    for item in iterator:
        connection.send_bytes(post_iter_func(item).detach().contiguous().numpy().tobytes())


def module(name: str, **attributes) -> None:
    """Make a module that `import` finds."""
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None, is_package=True)
    made.__path__ = []
    vars(made).update(attributes)
    sys.modules[name] = made


def stand_in() -> None:
    """What TRL imports of vllm, and a client that believes to be on a GPU while it joins the transfer."""
    module("vllm", __version__=VERSION, LLM=None, RequestOutput=None, SamplingParams=None)
    module("vllm.sampling_params", StructuredOutputsParams=None)
    module("vllm.utils")
    module("vllm.utils.network_utils", get_ip=get_ip)
    module("vllm.distributed")
    module("vllm.distributed.weight_transfer")
    module("vllm.distributed.weight_transfer.nccl_common", trainer_init=trainer_init)
    module("vllm.distributed.weight_transfer.packed_tensor", packed_nccl_broadcast_producer=packed_nccl_broadcast_producer)
    from trl.generation.vllm_client import VLLMClient  # noqa: PLC0415 - looks for vllm as it is imported

    original = VLLMClient.init_communicator
    VLLMClient.init_communicator = lambda self, device: original(self, device="cuda")  # refuses a CPU, and does no more with it
    Retry.get_backoff_time = lambda self: 0.1  # in place of a minute in all


if __name__ == "__main__":
    stand_in()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
