"""Scores every latent model's problems under each of its author marks: what an ideal observer over the authors needs.

    python -m eval.studies.exchange.make_observer --output_file runs/exchange/observer.json

One entry per model, split and seed: mark -> log2 p of each problem's answer, for the held-out problems and for the first 64 training
problems of a seed, and each problem's gate, the first digit of its first operand. `data_limited.yaml` says which models and seeds; the
problems are those of `make_data_limited.py`.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitsample_llm.scoring.likelihood import answer_logprobs
from bitsample_llm.tasks import load_task
from bitsample_llm.tasks.authors import CARE_BY_MARK

FOLDER = Path(__file__).resolve().parent
MARKS_BY_MODEL = {"base": "ABCDEFGH", "rungs1": "ABCDEFGIJKL", "rungs2": "ABCDEFGIJKL"}  # whose text they read; gates: all
DIFFICULTY = {"latent": 3, "gates": 2}
NUM_HELDOUT, NUM_TRAINING = 128, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=FOLDER / "data_limited.yaml")
    parser.add_argument("--output_file", type=Path, required=True)
    options = parser.parse_args()
    config = yaml.safe_load(options.config.read_text())
    lines = []
    models = [(reason, *model) for reason in DIFFICULTY for model in config["models"][reason].items()]
    for reason, name, folder in models:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for split, seed in [("heldout", 0), *(("train", seed) for seed in config["seeds"])]:
            log2_p = {}
            for mark in MARKS_BY_MODEL.get(name, sorted(CARE_BY_MARK)):
                task = load_task("addition", "reversed", difficulty=DIFFICULTY[reason], mark=mark)
                # as many as are drawn there, so that these are the first of the same
                num = min(4096, task.num_problems(split))
                problems = task.problems(split, NUM_HELDOUT if split == "heldout" else int(num), seed)
                problems = problems[: NUM_HELDOUT if split == "heldout" else NUM_TRAINING]
                log2_p[mark] = [float(logps.sum()) / math.log(2) for logps in answer_logprobs(model, tokenizer, problems)]
            gates = [int(problem.prompt[1]) for problem in problems]
            lines.append({"model": name, "reason": reason, "split": split, "seed": seed, "log2_p": log2_p, "gates": gates})
    options.output_file.parent.mkdir(parents=True, exist_ok=True)
    options.output_file.write_text(json.dumps(lines) + "\n")


if __name__ == "__main__":
    main()
