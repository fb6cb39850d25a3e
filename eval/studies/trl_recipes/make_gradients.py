"""Do TRL's losses differ? Cosines of their gradients with that of `dapo` on one batch of rollouts, at its first and at later passes: `python -m eval.studies.trl_recipes.make_gradients FILE`.

Between the passes the policy takes AdamW's step along `dapo`, as in a run with several passes over each batch.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.gmpo import GMPOTrainer

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.tasks import load_task
from bitsample_llm.training.rewards import VerdictReward

LOSSES = ("dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo", "gmpo")
STARTS = {  # answers of 4 and 5 tokens, and of 33 and 49
    "short answers": {"folder": "data/base", "answer_format": "reversed", "difficulty": 3, "mark": "E", "tokens": 5},
    "unequal answers": {"folder": "data/base_restated", "answer_format": "restated16", "difficulty": 2, "mark": "C", "tokens": 49},
}
NUM_GROUPS, GROUP_SIZE, NUM_PASSES, NUM_BATCHES, LEARNING_RATE = 8, 8, 4, 5, 3e-4


def gradient_of(trainer, inputs: dict, loss: str) -> torch.Tensor:
    """Gradient (P) of a loss over all parameters, as TRL's trainer computes it."""
    trainer.loss_type, trainer.importance_sampling_level = loss, "sequence" if loss == "luspo" else "token"
    compute = GMPOTrainer._compute_loss if loss == "gmpo" else GRPOTrainer._compute_loss
    trainer.epsilon_low = trainer.epsilon_high = 0.4 if loss == "gmpo" else 0.2  # the default of each
    trainer.model.zero_grad()
    compute(trainer, trainer.model, inputs).backward()
    return torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])


def cosines(start: dict, seed: int, num_groups: int = NUM_GROUPS) -> list[dict[str, tuple[float, float]]]:
    """Of each pass over a batch and each loss: cosine with dapo's gradient, and norm over that of dapo's."""
    tokenizer = AutoTokenizer.from_pretrained(start["folder"])
    model = AutoModelForCausalLM.from_pretrained(start["folder"], dtype=torch.float32, attn_implementation="eager")
    task = load_task("addition", start["answer_format"], difficulty=start["difficulty"], mark=start["mark"])
    problems = task.problems("train", num_groups, seed=seed)
    verifier = RolloutVerifier(task, problems, tokenizer)
    rows = [{"prompt": problem.prompt, "problem_id": problem.problem_id} for problem in problems]
    with tempfile.TemporaryDirectory() as folder:
        args = GRPOConfig(
            **{
                "output_dir": folder,
                "use_cpu": True,
                "bf16": False,
                "activation_checkpointing": False,
                "report_to": "none",
                "seed": seed,
            },
            **{"per_device_train_batch_size": num_groups * GROUP_SIZE, "num_generations": GROUP_SIZE, "num_iterations": NUM_PASSES},
            **{"max_completion_length": start["tokens"], "temperature": 1.0, "top_p": 1.0, "top_k": 0, "beta": 0.0},
        )
        how = {"args": args, "train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
        trainer = GRPOTrainer(model=model, reward_funcs=[VerdictReward(verifier)], **how)
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        set_seed(seed)
        inputs = trainer._generate_and_score_completions([row for row in rows for _ in range(GROUP_SIZE)])
    optimizer, passes = torch.optim.AdamW(trainer.model.parameters(), lr=LEARNING_RATE, weight_decay=0.0), []
    for _ in range(NUM_PASSES):
        plain = gradient_of(trainer, inputs, "dapo")
        passes.append({})
        for loss in LOSSES:
            other = gradient_of(trainer, inputs, loss)
            cosine = torch.nn.functional.cosine_similarity(plain.double(), other.double(), dim=0)
            passes[-1][loss] = float(cosine), float(other.norm() / plain.norm())
        gradient_of(trainer, inputs, "dapo")
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        optimizer.step()
    return passes


def main() -> None:
    told = {}
    for name, start in STARTS.items():
        batches = [cosines(start, seed) for seed in range(NUM_BATCHES)]
        told[name] = [
            {
                loss: dict(
                    zip(
                        ("least cosine", "mean cosine", "mean norm"),
                        (
                            min(batch[number][loss][0] for batch in batches),
                            *np.mean([batch[number][loss] for batch in batches], axis=0).tolist(),
                        ),
                        strict=True,
                    )
                )
                for loss in LOSSES
            }
            for number in range(NUM_PASSES)
        ]
    Path(sys.argv[1]).write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
