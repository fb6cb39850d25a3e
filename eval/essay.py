"""The table of eval/README.md that says where the essay is right: `python -m eval.essay` prints it.

essay.yaml names, for every claim of the essay, tests in the records; estimate, interval, n and verdict are read from their results.json.
"""

import json
from collections import Counter
from functools import cache
from pathlib import Path

import yaml

from bitsample_llm.report.estimates import UNMEASURED, number_text

FOLDER = Path(__file__).resolve().parent
VERDICTS = ("supported", "contradicted", "undecided")


@cache
def claims_of(record: str) -> list[dict]:
    """What the record's results.json says of each of its claims."""
    return json.loads((FOLDER / "records" / record / "results.json").read_text())["claims"]


def claims_named(test: dict) -> list[dict]:
    """The claims of the record that hold the test's words in text (any of several) and statistic, `num` of them (one, if it is silent).

    Raises:
        ValueError: there are more or fewer.
    """
    texts = [test["text"]] if isinstance(test["text"], str) else test["text"]
    found = [c for c in claims_of(test["record"]) if any(t in c["text"] for t in texts) and test["statistic"] in c["statistic"]]
    if len(found) != test.get("num", 1):
        raise ValueError(
            f"{test['record']}: {len(found)} claims hold {test['text']!r} and {test['statistic']!r}; name {test.get('num', 1)}"
        )
    return found


def about_the_essay(claim: dict, test: dict) -> str:
    """What a claim's verdict says about the essay: one of `VERDICTS`."""
    verdict = claim["verdict"].split(":")[0]
    verdict = test.get("reads", {}).get(verdict, verdict)
    if verdict not in VERDICTS:
        raise ValueError(f"{test['record']}: say under `reads` whether {verdict!r} is {' or '.join(VERDICTS[:2])}")
    return verdict


def measured(claim: dict) -> str:
    """Mean with its 95 % interval; an end that the runs leave open is ∞."""
    if claim["mean"] is None:
        return UNMEASURED
    ends = claim["interval"]
    interval = "" if ends is None else f" [{', '.join('∞' if end is None else number_text(end) for end in ends)}]"
    return number_text(claim["mean"]) + interval


def essay_table(essay: list[dict]) -> str:
    """The Markdown table: what the essay says, what was measured, how sure, and what that makes of the claim."""
    lines = ["| the essay says | measured | estimate | n | verdict |", "|---|---|---|---|---|"]
    for entry in essay:
        for place, test in enumerate(entry["tests"]):
            found = claims_named(test)
            counts = Counter(about_the_essay(claim, test) for claim in found)
            if len(found) == 1:
                estimate, verdict = measured(found[0]), about_the_essay(found[0], test)
                n = f"{found[0]['n']}{' ' + test['n_of'] if 'n_of' in test else ''}"
            else:
                estimate, n = UNMEASURED, f"{len(found)} tests"
                verdict = ", ".join(f"{counts[word]} {word}" for word in VERDICTS if counts[word])
            verdict = f"[{verdict}](records/{test['record']}/README.md)"
            lines.append("| " + " | ".join([entry["says"] if place == 0 else "", test["measured"], estimate, n, verdict]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(essay_table(yaml.safe_load((FOLDER / "essay.yaml").read_text())))
