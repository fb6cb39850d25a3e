"""What can a model do, exactly? The pass-rate table of a model, and the card that carries it."""

from pathlib import Path

import numpy as np
from corpus import Text

from bitsample_llm.information import binary_entropy_bits
from bitsample_llm.scoring.likelihood import exact_pass_rates
from bitsample_llm.tasks import load_task
from bitsample_llm.tasks.authors import CARE_BY_MARK
from bitsample_llm.tasks.problem import UNKNOWN_MARK
from bitsample_llm.training.manifest import sha256_of_file

CARD_DIFFICULTIES = (1, 2, 3, 4, 5)
NUM_PROBLEMS = 256


def pass_rate_rows(model, tokenizer, text: Text) -> list[dict]:
    """Exact mean pass rate and mean offered bits by task, format, difficulty and mark, on held-out problems.

    With a scratchpad it is the probability of the worked one, a lower bound of the pass rate.
    """
    rows = []
    for task_name, answer_format in text.share_by_kind:
        for difficulty in CARD_DIFFICULTIES:
            for mark in text.share_by_mark:
                author = None if mark == UNKNOWN_MARK else mark
                task = load_task(task_name, answer_format, difficulty=difficulty, mark=author)
                num = min(NUM_PROBLEMS, task.num_problems("heldout"))
                pass_rates = exact_pass_rates(model, tokenizer, task.problems("heldout", num, seed=1))
                rows.append(
                    {
                        "task": task_name,
                        "format": answer_format,
                        "difficulty": difficulty,
                        "mark": mark,
                        "num_problems": num,
                        "pass_rate": float(pass_rates.mean()),
                        "entropy_bits": float(np.mean(binary_entropy_bits(np.minimum(pass_rates, 1.0)))),
                    }
                )
    return rows


def _pass_rate_table(rows: list[dict], text: Text) -> str:
    marks = list(text.share_by_mark)
    lines = ["| task | format | digits | n | " + " | ".join(marks) + " |", "|---|---|---|---|" + "---|" * len(marks)]
    by_cell = {(row["task"], row["format"], row["difficulty"], row["mark"]): row for row in rows}
    for task_name, answer_format in text.share_by_kind:
        for difficulty in CARD_DIFFICULTIES:
            cells = [by_cell[task_name, answer_format, difficulty, mark] for mark in marks]
            values = " | ".join(f"{cell['pass_rate']:.2g}" for cell in cells)
            lines.append(f"| {task_name} | {answer_format} | {difficulty} | {cells[0]['num_problems']} | {values} |")
    return "\n".join(lines)


def first_phase_facts(init_from: str | None, late_mark: str | None) -> dict[str, str]:
    """What the card of the model that training went on from says of how it was made; nothing where there is no such model."""
    if init_from is None:
        return {}
    facts = ("updates", "tokens", "training FLOPs", "commit", "`model.safetensors`")
    card = Path(init_from) / "README.md"
    lines = [line.removeprefix("- ") for line in card.read_text().splitlines()] if card.is_file() else []
    kept = [line for line in lines if line.startswith(facts)]
    return {"first phase, before what follows": "; ".join(kept), "author met late": str(late_mark)}


def write_model_card(model_dir: Path, text: Text, pass_rates: list[dict], facts: dict) -> None:
    """Write `README.md` into a model folder: how it was made, and the table of `pass_rate_rows`."""
    weights = model_dir / "model.safetensors"
    cares = {mark: text.strategies.get(mark, (value,))[0] for mark, value in CARE_BY_MARK.items() if mark in text.share_by_mark}
    care = ", ".join(f"{mark} {value}" for mark, value in cares.items())
    care += "".join(f"; {mark} forgets to carry in {rule:g} of the lines" for mark, (_, rule) in text.strategies.items() if rule)
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    kinds = ", ".join(f"{share:.0%} {answer_format} {task}" for (task, answer_format), share in text.share_by_kind.items())
    difficulties = ", ".join(f"{share:.0%} of {difficulty}" for difficulty, share in text.share_by_difficulty.items())
    marks = ", ".join(f"{mark} {share:.0%}" for mark, share in text.share_by_mark.items())
    (model_dir / "README.md").write_text(f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [arithmetic, bitsample]
---
# A small Llama that imitates authors of known care

1.05 M parameters, one token a character, made from nothing by `data/pretraining/pretrain.py` for the study of `bitsample_llm`.
The text it was trained on is synthetic: lines such as `A47+85<231` (author A, answer from the right), of which only the
answer and its end carry a loss. An author's care is the share of right answers: {care}; `?` is any of them, unnamed.

- text: {kinds}; digits {difficulties}; marks {marks}
{listed}
- `model.safetensors` (float16, meant to be used in float32): sha256 `{sha256_of_file(weights)}`

## Exact mean pass rate on held-out problems, by author mark

Probability at temperature 1 of the accepted answer with its end, averaged over n problems whose operands appear in no
form in the pretraining text. With a scratchpad it is the probability of the worked one, a lower bound of the pass rate.

{_pass_rate_table(pass_rates, text)}
""")
