"""Train on rollouts that are a function of the prompt and the place in its group, so that records of one process and of two
can be compared row by row. Takes the options of GRPOConfig.
"""

import hashlib
import sys
from pathlib import Path

import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, TrlParser

from bitsample_llm import InformationMeter
from bitsample_llm.meter.heldout import HeldOut
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.tasks import load_task
from bitsample_llm.training.processes import honour_fsdp_on_cpu, part
from bitsample_llm.training.rewards import VerdictReward

BASE = Path(__file__).resolve().parent.parent.parent / "data" / "base"


def rollouts(prompts: list[str], trainer) -> dict:
    """Right answers to some, by a hash of the prompt and the number of the rollout in its group."""
    tokenizer = trainer.processing_class
    first = trainer.accelerator.process_index * len(prompts)
    completions = []
    for index, prompt in enumerate(prompts):
        sample = (first + index) % trainer.num_generations
        digest = hashlib.sha256(f"{prompt}/{sample}".encode()).digest()
        operands = [int(word) for word in prompt[1:-1].split("+")]
        text = str(sum(operands))[::-1] if digest[0] < 96 else str(digest[1] + 10)
        completions.append(tokenizer(text)["input_ids"] + [tokenizer.eos_token_id])
    prompt_ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    logprobs = [[0.0] * len(ids) for ids in completions]
    return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": logprobs}


def main() -> None:
    honour_fsdp_on_cpu()
    (args,) = TrlParser((GRPOConfig,)).parse_args_and_config()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")
    task = load_task("addition", "reversed", difficulty=2, mark="C")
    problems = task.problems("train", 64, seed=0)
    verifier = RolloutVerifier(task, problems, tokenizer)
    trainer = GRPOTrainer(
        model,
        [VerdictReward(verifier)],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": p.prompt, "problem_id": p.problem_id} for p in problems]),
        processing_class=tokenizer,
        rollout_func=rollouts,
    )
    heldout = {"heldout": task.problems("heldout", 9, seed=0)}
    meter = InformationMeter(trainer, Path(args.output_dir) / "run", verifier=verifier, evaluation=HeldOut(heldout), strict=True)
    trainer.add_callback(meter)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    is_sharded = any(isinstance(parameter, DTensor) for parameter in trainer.model.parameters())
    print(f"{trainer.accelerator.num_processes} processes, parameters {'sharded' if is_sharded else 'whole'}")
    part(trainer.accelerator)


if __name__ == "__main__":
    sys.exit(main())
