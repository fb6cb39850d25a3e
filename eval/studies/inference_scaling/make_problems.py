"""Writes problems by author G with better prompts beside them: `python -m eval.studies.inference_scaling.make_problems FOLDER`.

For each kind of run (`tuning` for the search, `reported`): `train` has the same problem by G, and by A and C as other prompts for its rollouts; `easier` asks the same by C; `heldout` is what is evaluated, by G. The pairs are
those of the task itself, so runs by `--task addition --mark G` train on the same problems and are held out from the same.
"""

import json
import sys
from pathlib import Path

from bitsample_llm.tasks import load_task

SPLITS = {"reported": ("train", "heldout", 1024, 128, 0), "tuning": ("tuning", "tuning_heldout", 512, 48, 1)}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    by_mark = {mark: load_task("addition", "reversed", difficulty=3, mark=mark) for mark in "ACG"}
    for kind, (train, heldout, num_train, num_heldout, seed) in SPLITS.items():
        of_g, of_a, of_c = (by_mark[mark].problems(train, num_train, seed) for mark in "GAC")
        asked = zip(of_g, of_a, of_c, strict=True)
        files = {
            "train": [{"prompt": g.prompt, "answer": g.answer, "by_A": a.prompt, "by_C": c.prompt} for g, a, c in asked],
            "easier": [{"prompt": problem.prompt, "answer": problem.answer} for problem in of_c],
            "heldout": [
                {"prompt": problem.prompt, "answer": problem.answer}
                for problem in by_mark["G"].problems(heldout, num_heldout, seed)
            ],
        }
        for name, rows in files.items():
            (folder / f"{kind}-{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{folder}: problems by author G, and by A and C")


if __name__ == "__main__":
    main()
