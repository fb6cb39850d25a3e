"""How far has pretraining come, and what has it cost? `python -m eval.studies.inference_scaling.make_ages FOLDER... FILE`.

FOLDER is an output folder of `data/pretraining/pretrain.py` (ages-seed0, ...) with what it printed in `log.txt`: pass rates every few updates, on 128 held-out problems of its own. One line for each of these, and one for each checkpoint that was kept.
Without a log the checkpoints are all that is known, each at the first crossing of its pass rate.
"""

import json
import re
import sys
from pathlib import Path

LOGGED = re.compile(r"'pass_rate/2/A': '([^']+)'.*?'num_input_tokens_seen': '?(\d+)")


def main() -> None:
    *folders, file = map(Path, sys.argv[1:])
    rows = []
    for folder in folders:
        name, per_token, log = folder.name.replace("ages-seed", "ages"), None, folder / "log.txt"
        for path in sorted(folder.glob("ladder/*/pretraining.json")):
            cost = json.loads(path.read_text())
            flops = cost["flops"]["train_forward"] + cost["flops"]["train_backward"]
            per_token = flops / cost["tokens"]
            age = path.parent.name.removeprefix("pass-rate-")
            rows.append({"model": name, "age": age, "flops": flops, "pass_rate": None})
            if not log.is_file():
                rows.append({"model": name, "age": None, "flops": flops, "pass_rate": float(age)})
        for rate, tokens in LOGGED.findall(log.read_text()) if log.is_file() else ():
            rows.append({"model": name, "age": None, "flops": int(tokens) * per_token, "pass_rate": float(rate)})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{file}: {len(rows)} states of {len(folders)} pretraining seeds")


if __name__ == "__main__":
    main()
