"""What a choice among separate skills can save, by exact pass rates before any run: `python -m eval.studies.curriculum.make_by_first_digit NAME=MODEL... [--output_file FILE]`.

Skills are the first digits of author E's problems (data/pretraining/pretrain_graded_gates.yaml). The forms are those of README.md.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitsample_llm.information import informative_group_probability
from bitsample_llm.report.prices import HALF
from bitsample_llm.scoring.likelihood import exact_pass_rates
from bitsample_llm.tasks import Problem
from eval.studies.curriculum.claims import saving_on_the_way
from eval.studies.curriculum.make_pools import LEVELS, NUM_HELDOUT, NUM_TARGET, problems_of


def forms(q: np.ndarray) -> dict[str, float]:
    """Groups that are drawn without a choice over groups with one, if q is the chance of each skill that a group informs."""
    return {"largest q over mean q": float(q.max() / q.mean()), "largest 1/q over mean 1/q": float((1 / q).max() / (1 / q).mean())}


def facts(rates: np.ndarray, problems: Sequence[Problem], heldout_rates: np.ndarray) -> dict:
    """Pass rates by first digit, and what the forms make of them."""
    digit = np.array([int(problem.prompt[1]) for problem in problems])  # after the author's mark
    of_digit = {int(one): rates[digit == one] for one in np.unique(digit)}
    found = {"p": float(rates.mean()), "p_by_first_digit": {one: float(values.mean()) for one, values in of_digit.items()}}
    for size in (2, 8):
        q = np.array([informative_group_probability(values, size).mean() for values in of_digit.values()])
        found[f"groups of {size}"] = {"q_by_first_digit": q.tolist(), **forms(q)}
        found[f"groups of {size}"]["FLOPs to half of the bits"] = saving_on_the_way(heldout_rates, size, size, HALF.share)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--output_file", type=Path, help="a JSON line per model")
    options = parser.parse_args()
    level = LEVELS["gates"][0]
    pool, heldout = problems_of(level, "train", NUM_TARGET, 0), problems_of(level, "heldout", NUM_HELDOUT, 0)
    lines = []
    for name, folder in (model.split("=", 1) for model in options.models):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with torch.no_grad():
            rates, heldout_rates = (exact_pass_rates(model, tokenizer, problems) for problems in (pool, heldout))
        lines.append({"model": name, **facts(rates, pool, heldout_rates)})
        print(json.dumps(lines[-1], indent=1))
    if options.output_file:
        options.output_file.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
