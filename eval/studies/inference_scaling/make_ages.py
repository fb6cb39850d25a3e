"""How far has pretraining come, and what has it cost? `python -m eval.studies.inference_scaling.make_ages LADDER... FILE` writes the exact pass rates of the checkpoints in the folders.

A ladder is a folder `SEED/ladder` of `data/pretraining/pretrain.py`. The problems are those on which the runs from these ages are evaluated. One line per checkpoint, by name of the pretraining seed (ages0, ...).
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitsample_llm.scoring.likelihood import exact_pass_rates
from bitsample_llm.tasks import load_task


def main() -> None:
    *ladders, file = map(Path, sys.argv[1:])
    problems = load_task("addition", "reversed", difficulty=2, mark="E").problems("heldout", 128, seed=0)
    rows = {}
    for folder in (path for ladder in ladders for path in sorted(ladder.iterdir())):
        cost = json.loads((folder / "pretraining.json").read_text())
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        rates = exact_pass_rates(model, AutoTokenizer.from_pretrained(folder), problems)
        name = folder.parts[-3].replace("ages-seed", "ages")
        flops = cost["flops"]["train_forward"] + cost["flops"]["train_backward"]
        state = {"pass_rate": float(rates.mean()), "flops": flops, "updates": cost["updates"]}
        rows[name, cost["updates"]] = {"model": name, "age": folder.name.removeprefix("pass-rate-"), **state}
    file.write_text("".join(json.dumps(rows[key]) + "\n" for key in sorted(rows)))
    print(f"{file}: {len(rows)} checkpoints")


if __name__ == "__main__":
    main()
