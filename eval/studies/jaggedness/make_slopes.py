"""Measures at a start, without training: which way do the odds of the general strategy over the rule go?

    python -m eval.studies.jaggedness.make_slopes runs/jaggedness/problems/reported slopes.json silent-base=FOLDER named-base=FOLDER

The held-out ln(p right / p rule) changes along a direction of the weights by the product of its gradient with that direction. The direction is the exact gradient of each
objective on problems without a carry and, apart, on those with one; a mixture's is their weighted mean. Parts of the training problems are kept apart, for an interval. `sign` is the first step of Adam.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitsample_llm.scoring.likelihood import padded_batch
from bitsample_llm.tasks.authors import STRATEGY_SIGNS
from eval.studies.jaggedness.bandit import GROUP, group_weight
from eval.studies.jaggedness.make_problems import MARKS, SHARES

NUM_PARTS = 8
OBJECTIVES = {  # functions of log p (B) whose gradient is the objective's
    "pass_rate": lambda logps: logps.exp(),
    "normalised_pass_rate": lambda logps: (logps.detach().exp() / -torch.expm1(logps.detach())).sqrt() * logps,
    "group of 8": lambda logps: torch.tensor([group_weight(GROUP)(p) * p for p in logps.detach().exp().tolist()]) * logps,
    "log_likelihood": lambda logps: logps,
}


def log_probabilities(model, tokenizer, rows: list[dict]) -> torch.Tensor:
    """Log-probabilities (B), in nats, of whole answers with their ends."""
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in rows]
    answers = [tokenizer(row["answer"])["input_ids"] + [tokenizer.eos_token_id] for row in rows]
    batch = padded_batch([asked + said for asked, said in zip(prompts, answers, strict=True)], tokenizer.pad_token_id)
    labels_BT = padded_batch([[-1] * len(asked) + said for asked, said in zip(prompts, answers, strict=True)], -1)["input_ids"][
        :, 1:
    ]
    logps_BTV = model(**batch).logits[:, :-1].log_softmax(-1)
    of_label_BT = logps_BTV.gather(-1, labels_BT.clamp(min=0)[..., None])[..., 0]
    return (of_label_BT * (labels_BT >= 0)).sum(dim=1)


def log_pass_rates(model, tokenizer, rows: list[dict]) -> torch.Tensor:
    """Log-probabilities (B) that an answer passes; where a sign names the strategy, any sign may stand before it."""
    if rows[0]["answer"][0] not in STRATEGY_SIGNS:
        return log_probabilities(model, tokenizer, rows)
    signed = [row | {"answer": sign + row["answer"][1:]} for sign in STRATEGY_SIGNS for row in rows]
    return log_probabilities(model, tokenizer, signed).reshape(len(STRATEGY_SIGNS), -1).logsumexp(dim=0)


def gradient(model, value: torch.Tensor) -> torch.Tensor:
    """Of a scalar, with respect to all weights, as one vector."""
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, list(model.parameters()), retain_graph=True)])


def gradients(model, tokenizer, rows: list[dict], objectives: list[str]) -> list[torch.Tensor]:
    """Of each objective's mean over the rows."""
    logps = log_pass_rates(model, tokenizer, rows)
    return [gradient(model, OBJECTIVES[name](logps).mean()) for name in objectives]


def of_start(model, tokenizer, problems: str, mark: str, objectives: list[str]) -> dict:
    """What an author's start holds, and the slopes of each objective on easy and on hard problems, a list over parts of them."""
    heldout, mixed, carrying = (
        [json.loads(line) for line in Path(f"{problems}-{mark}-{name}.jsonl").read_text().splitlines()]
        for name in ("heldout", "0.5", "0")
    )
    hard_prompts = {row["prompt"] for row in carrying}
    easy = [row for row in mixed if row["prompt"] not in hard_prompts]
    logps_KB = log_probabilities(model, tokenizer, heldout).reshape(3, -1)
    of_odds = gradient(model, (logps_KB[0] - logps_KB[1]).mean())
    logps_KB = logps_KB.detach()
    found = {
        "mark": mark,
        **dict(zip(("right", "rule", "easy"), logps_KB.exp().mean(dim=1).tolist(), strict=True)),
        "log_odds": float((logps_KB[0] - logps_KB[1]).mean()),
    }
    by_kind = {
        kind: [gradients(model, tokenizer, rows[start::NUM_PARTS], objectives) for start in range(NUM_PARTS)]
        for kind, rows in (("easy", easy), ("hard", carrying))
    }
    for place, name in enumerate(objectives):
        of_parts = {kind: torch.stack([part[place] for part in parts]) for kind, parts in by_kind.items()}
        found[name] = {kind: (of_kind @ of_odds).tolist() for kind, of_kind in of_parts.items()}
        whole = {kind: of_kind.mean(dim=0) for kind, of_kind in of_parts.items()}
        found[name]["sign"] = {
            f"{share:g}": float((share * whole["easy"] + (1 - share) * whole["hard"]).sign() @ of_odds) for share in SHARES
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems")
    parser.add_argument("output")
    parser.add_argument("models", nargs="+", metavar="START-MODEL=FOLDER")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    args = parser.parse_args()
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, folder in (words.split("=", 1) for words in args.models):
        start, of_seed = name.split("-")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows += [
            {
                "start": start,
                "model": of_seed,
                **of_start(
                    model, tokenizer, f"{args.problems}-{'silent' if start == 'silent' else 'named'}", mark, args.objectives
                ),
            }
            for mark in MARKS
        ]
    Path(args.output).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
