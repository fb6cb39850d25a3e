"""How do the rollouts of a measurement end? Shares that ended, were cut off and passed, for which reasons, and some to read."""

import numpy as np

from bitsample_llm.records import Run

NUM_SAMPLES = 6  # to read; half of them passing, where there are as many
MAX_SHOWN = 64  # characters of a completion in a table


def completions_of(run: Run, rng: np.random.Generator) -> dict | None:
    """Shares of the rollouts drawn as asked, the reasons of their verdicts with their shares, and samples; None without rollouts."""
    rows = [row for row in run.table("rollouts").to_pylist() if row["probe"] is None]
    if not rows:
        return None
    answers = {row["problem_id"]: row["answer"] for row in run.table("problems").to_pylist()}
    reasons = [row["reason"] for row in rows]
    counts = {reason: reasons.count(reason) for reason in set(reasons)}
    config = run.manifest["config"]
    return {
        "num_rollouts": len(rows),
        "ended": sum(row["ended"] for row in rows) / len(rows),
        "cut_off": sum(not row["ended"] for row in rows) / len(rows),
        "passed": sum(row["passed"] for row in rows) / len(rows),
        "reasons": {reason: counts[reason] / len(rows) for reason in sorted(counts, key=lambda name: (-counts[name], name))},
        "max_completion_length": config.get("training", {}).get("max_completion_length"),
        "stop": config.get("study", {}).get("stop"),
        "samples": [
            {key: row[key] for key in ("problem_id", "passed", "ended", "reason", "text")} | {"answer": answers[row["problem_id"]]}
            for row in _sampled(rows, rng)
        ],
    }


def _sampled(rows: list[dict], rng: np.random.Generator) -> list[dict]:
    """Rows at random: half of them passing and half failing, or what there is; passing ones first. A text that was there
    already comes only where there are no others.
    """
    shuffled = [rows[index] for index in rng.permutation(len(rows))]
    new = {row["text"]: index for index, row in reversed(list(enumerate(shuffled)))}
    shuffled = [row for _, row in sorted(enumerate(shuffled), key=lambda pair: (new[pair[1]["text"]] != pair[0], pair[0]))]
    passing, failing = ([row for row in shuffled if row["passed"] is verdict] for verdict in (True, False))
    num_passing = min(len(passing), max(NUM_SAMPLES // 2, NUM_SAMPLES - len(failing)))
    return passing[:num_passing] + failing[: NUM_SAMPLES - num_passing]


def percent(share: float) -> str:
    """A share in per cent, to three digits."""
    return f"{100 * share:.3g}%"


def reasons_told(completions: dict) -> str:
    """The five commonest reasons of the verdicts, with their shares."""
    told = [f"{reason} {percent(share)}" for reason, share in completions["reasons"].items()]
    return ", ".join(told[:5] + ["..."] * (len(told) > 5))


def cut_off_told(completions: dict) -> str:
    """How many rollouts were cut off, and where."""
    length = completions["max_completion_length"]
    return f"{percent(completions['cut_off'])} were cut off" + ("" if length is None else f" at {length} tokens")


def completions_sentence(completions: dict) -> str:
    """How the rollouts end, in words."""
    stop = "" if completions["stop"] is None else f" (end of sequence or the stop {completions['stop']!r})"
    ended = f"{percent(completions['ended'])} of {completions['num_rollouts']:,} rollouts ended by themselves{stop}"
    return f"{ended}, {cut_off_told(completions)}, {percent(completions['passed'])} passed. Verdicts: {reasons_told(completions)}."


def shortened(text: str) -> str:
    """A text as Python writes it, without its middle where it is long."""
    shown = repr(text)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[: MAX_SHOWN - 20]} ... {shown[-15:]}"


def completion_rows(completions: dict) -> list[list[str]]:
    """Samples as a table, heading first."""
    rows = [["passed", "ended", "reason", "answer", "completion"]]
    for sample in completions["samples"]:
        said = ["yes" if sample[key] else "no" for key in ("passed", "ended")]
        rows.append([*said, str(sample["reason"]), shortened(sample["answer"] or ""), shortened(sample["text"])])
    return rows
