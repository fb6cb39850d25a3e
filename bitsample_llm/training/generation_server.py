"""What does a run say when the vLLM server that generates for it goes away?"""

from bitsample_llm.meter.hooks import wrap


class GenerationServerError(OSError):
    """The server that generates does not answer any more; the run can go on with another one."""


def name_lost_server(trainer) -> None:
    """Make the trainer raise a `GenerationServerError` that names the address, once TRL's own attempts (a minute) have failed.

    Nothing is done where no server generates, and on processes that do not talk to it. What answers nothing and keeps the
    connection, and a transfer of weights that has begun over NCCL, wait as long as TRL does.
    """
    generation = getattr(trainer, "vllm_generation", None)
    client = getattr(generation, "vllm_client", None)
    if client is None:
        return

    def around(original, *args, **kwargs):
        try:
            return original(*args, **kwargs)
        except OSError as error:  # those of requests are
            raise GenerationServerError(
                f"the vLLM server at {client.base_url} does not answer any more ({type(error).__name__}): start it again, then "
                "this command with --resume_from_checkpoint last; the records up to here are kept"
            ) from error

    for name in ("sync_weights", "generate"):
        wrap(generation, name, around)
