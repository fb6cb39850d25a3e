"""Report on the ladder: `python -m eval.ladder_report LADDER` (the folder that `make ladder` fills).

Prints the claims table and writes one self-contained report.html, claims.md, results.json and the figures. Parts of the ladder
that were not run are left out, and the claims that rest on them say so.
"""

import argparse
import html
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from bitsample_llm.records import RecordError, read_run
from eval.arms import Arm, arms_of, run_result
from eval.claims import claims_table, pass_rates
from eval.findings import estimate, number
from eval.ladder import DECOMPOSITION, Cell, Ladder, cells_of, contrast, noise_by_start
from eval.ladder_figures import (
    absorbed_figure,
    decomposition_figure,
    exchange_figure,
    length_figure,
    noise_figure,
    pass_at_k_figure,
    push_figure,
    transfer_figure,
)
from eval.page import aligned_table, html_figure, html_page, html_table, markdown_table
from eval.predictors import bits_verdict, predictor_table
from eval.report import find_runs, provenance_sentence

PARTS = ("cells", "push", "long", "memorise", "length", "noise")
LIMITS = (
    "Read first: a price here is the first crossing of a gain, each arm at a learning rate of its own. With AdamW a gain follows learning rate x "
    "updates, whatever the samples say, so prices compare settings as much as samples, and at most starts they are the least that can be bought: "
    "one label, one group. Intervals are over training seeds; one pretraining seed a start."
)
TITLE = "What one label buys: labels, rollouts and FLOPs against exact pass rate"


def arms_in(folder: Path) -> list[Arm]:
    """Arms of the finished runs in a folder; none where it does not exist. An unfinished study is read as far as it got."""
    if not folder.is_dir():
        return []
    runs = [read_run(run_dir) for run_dir in find_runs([str(folder)])]
    return arms_of([run_result(run) for run in runs if run.manifest["state"] == "finished"])


def read_ladder(folder: Path) -> Ladder:
    """The ladder in a folder.

    Raises:
        RecordError: if its headline cells are not there.
    """
    found = {part: arms_in(folder / part) for part in PARTS if part != "noise"}
    noise = noise_by_start(folder / "noise")
    slow = [arm for arm in found["long"] if arm.name == "sft_slow"]
    return Ladder(
        cells=cells_of(found["cells"], noise),
        push=cells_of(found["push"], noise) if found["push"] else [],
        long=cells_of(found["long"], noise) if len(found["long"]) > len(slow) else [],
        memorised=found["memorise"],
        slow=slow,
        length=cells_of(found["length"], noise) if found["length"] else [],
    )


def claim_rows(claims: Sequence[dict]) -> list[list[str]]:
    """The claims table as text, heading first."""
    rows = [["claim", "verdict", "estimate", "n", "statistic", "the claim"]]
    return rows + [[str(c["claim"]), c["verdict"], estimate(c), str(c["n"]), c["statistic"], c["text"]] for c in claims]


def cell_rows(cells: Sequence[Cell]) -> list[list[str]]:
    """Every cell: how it stands before training, and what the gain costs each way, heading first."""
    rows = [["start", "reason", "p", "−log2 p", "H(p)", "coherence", "target", "labels", "GFLOP of sft"]]
    rows[0] += ["−log2 p / H(p)", "1/p", *(f"{arm} / sft, {what}" for arm in DECOMPOSITION[1:] for what in ("samples", "FLOPs"))]
    for cell in cells:
        sft = cell.arms["sft"]
        row = [cell.start, cell.reason, number(cell.pass_rate), number(cell.surprisal_bits), number(cell.entropy_bits)]
        row += [number(cell.coherence), number(sft.summary("target_bits")["mean"])]
        row += [estimate(sft.summary("samples_to_target")), estimate(sft.summary("flops_to_target"), 1e-9)]
        row += [number(cell.essay_ratio), number(cell.inverse_ratio)]
        for arm in DECOMPOSITION[1:]:
            for key in ("samples_to_target", "flops_to_target"):
                exchange = cell.exchange(arm, key)
                if exchange is None:
                    row.append("not run")
                    continue
                num = len(cell.arms[arm].results)
                short = "" if exchange["reached"] == num else f" ({exchange['reached']} of {num} seeds got there)"
                row.append(estimate(exchange) + short)
        rows.append(row)
    return rows


def control_rows(cells: Sequence[Cell]) -> list[list[str]]:
    """What the right mark in the prompt, norm scales alone and a random reward do, heading first."""
    rows = [
        [
            "start",
            "p",
            "under the right mark",
            "bits of the right mark",
            "labels, all weights",
            "labels, norms alone",
            "random reward, bits",
        ]
    ]
    for cell in cells:
        values, found = cell.arms["sft"].results[0].values, cell.arms
        marked = values["pass_rate_before_marked"]
        gain = None if marked is None else np.log2(marked / cell.pass_rate)
        norms, random = (found.get(name) for name in ("norms", "random"))
        row = [
            cell.start,
            number(cell.pass_rate),
            number(marked),
            number(gain),
            estimate(found["sft"].summary("samples_to_target")),
        ]
        row.append(estimate(norms.summary("samples_to_target")) if norms else "not run")
        row.append(estimate(random.summary("absorbed_bits")) if random else "not run")
        rows.append(row)
    return rows


def jagged_rows(ladder: Ladder) -> list[list[str]]:
    """Mean pass rates by type of problem before and after a whole budget, and their spread, heading first."""
    types = {"heldout, no carry": False, "heldout, carry": True}
    splits = ("shifted", "other_operation", "other_format")
    rows = [["start", "arm", *types, *(split.replace("_", " ") for split in splits), "spread over types"]]
    for cell in ladder.long:
        for name, arm in cell.arms.items():
            tables = [types_of_run(result.run, splits) for result in arm.results]
            if not tables:
                continue
            means = np.mean(tables, axis=0)  # (types, before and after)
            spread = np.std(means, axis=0)
            rows.append(
                [cell.start, name, *[f"{number(b)} → {number(a)}" for b, a in means], f"{number(spread[0])} → {number(spread[1])}"]
            )
    return rows


def has_carry(problem_id: str) -> bool:
    """Whether the units of a sum are ten or more.

    >>> has_carry("addition/reversed/E/47+85"), has_carry("addition/reversed/E/41+25")
    (True, False)
    """
    first, second = problem_id.rsplit("/", 1)[1].split("+")
    return any(int(a) + int(b) >= 10 for a, b in zip(first[::-1], second[::-1], strict=False))


def types_of_run(run, splits: Sequence[str]) -> np.ndarray:
    """(types, 2) mean pass rates before and after: held out without and with a carry, then the splits."""
    table = pass_rates(run, "heldout")
    problems = sorted({row["problem_id"] for row in run.table("evals").to_pylist() if row["split"] == "heldout"})
    carries = np.array([has_carry(problem_id) for problem_id in problems])
    means = [table[:, ~carries].mean(axis=1), table[:, carries].mean(axis=1)]
    return np.array(means + [pass_rates(run, split).mean(axis=1) for split in splits])


def figures_of(ladder: Ladder) -> list[tuple]:
    """(name, question, drawing, what was found) of the figures whose part was run."""
    found = [
        (
            "exchange",
            "How many rollouts buy what one label buys?",
            exchange_figure,
            "Samples to the same held-out gain, policy gradient over SFT, each at its own best batch, group size and learning rate: "
            "geometric mean over seeds with its 95 % t interval. A start where not every seed gained it has no point. "
            "Below, the same points against the coherence of the gradient.",
        ),
        (
            "absorbed",
            "What is offered, and what is absorbed, at a pass rate?",
            absorbed_figure,
            "Offered bits are the essay's two formulas (points are means over problems); absorbed bits are held-out, up to the gain, every "
            "seed a point. Seeds that did not gain it have none.",
        ),
        (
            "decomposition",
            "What is paid for on the way from a label to a sampled reward?",
            decomposition_figure,
            "FLOPs to the gain. From sft to pass_rate the objective changes, to verdict_likelihood the information, to grpo and rloo the "
            "estimator. Small points are seeds.",
        ),
    ]
    if any(cell.noise for cell in ladder.cells):
        sentence = (
            "Noise scale of one label and one rollout (groups of 8 averaged exactly over their passes), with the jackknife's 95 % interval "
            "over prompts. Missing points had a mean gradient that is not distinguishable from 0."
        )
        found.append(("noise", "When are gradients noisy?", noise_figure, sentence))
    if ladder.push:
        sentence = "Held-out gain over learning rate and updates of plain SGD, a point a seed, over that of SFT with the same seed."
        found.append(("push", "How hard does a rollout push, beside a label?", push_figure, sentence))
    if ladder.length:
        sentence = "The same skill, its answer written once to sixteen times over. Small points are seeds."
        found.append(("length", "What does a longer rollout cost?", length_figure, sentence))
    if any("grpo" in cell.arms for cell in ladder.cells):
        sentence = (
            "Bits absorbed where the problems are shifted, per bit absorbed in distribution, at the same gain; above the line GRPO's "
            "travel further."
        )
        found.append(("transfer", "Are RL's bits worth more elsewhere?", transfer_figure, sentence))
    if ladder.long:
        sentence = "Exact on held-out problems; bands span the seeds."
        found.append(("pass_at_k", "Does a whole budget raise pass@k, or only pass@1?", pass_at_k_figure, sentence))
    return found


def contrast_rows(ladder: Ladder) -> list[list[str]]:
    """Matched cells, heading first."""
    rows = [["latent", "unacquired", "p of either", "gain, bits", "arm", "samples, unacquired over latent", "seeds that gained it"]]
    for row in contrast(ladder):
        rates = " and ".join(number(p) for p in row["pass_rates"])
        reached = f"{row['reached']['latent']} and {row['reached']['unacquired']}"
        rows.append(
            [row["latent"], row["unacquired"], rates, number(row["gain_bits"]), row["arm"], estimate(row["ratio"]), reached]
        )
    return rows


def write_report(ladder: Ladder, output_dir: Path) -> None:
    """Write report.html, claims.md, results.json and figures/*.png."""
    (output_dir / "figures").mkdir(parents=True, exist_ok=True)
    claims = claims_table(ladder)
    predictors = predictor_table(ladder.cells, DECOMPOSITION, np.random.default_rng(0))
    sentences = [LIMITS, *(bits_verdict(predictors, arm) for arm in ("sft", "grpo", "rloo"))]
    heading = ["arm", "predictor", "Spearman's rho", "cells", "error of left-out cells (ln)"]
    predictor_rows = [heading] + [
        [row["arm"], row["predictor"], estimate(row), str(row["n"]), number(row["left_out_error"])] for row in predictors
    ]
    sections = [
        ("The essay's claims", claim_rows(claims)),
        ("Cells of the ladder", cell_rows(ladder.cells)),
        ("The same pass rate for two reasons", contrast_rows(ladder)),
        ("Controls", control_rows(ladder.cells)),
        ("What predicts absorbed bits per FLOP?", predictor_rows),
    ]
    if ladder.long:
        sections.append(("Pass rates by type of problem, before and after a whole budget", jagged_rows(ladder)))
    arms = [arm for cell in ladder.cells for arm in cell.arms.values()]
    provenance = provenance_sentence(arms).replace("eval.report", "eval.ladder_report")
    body, markdown = (
        ["<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in sentences) + "</ul>"],
        [f"# {TITLE}", "", *[f"- {line}" for line in sentences], ""],
    )
    drawn = []
    for name, question, draw, sentence in figures_of(ladder):
        figure = draw(ladder)
        figure.savefig(output_dir / "figures" / f"{name}.png", dpi=120)
        drawn.append(html_figure(figure, question, sentence))
        markdown += [f"## {question}", "", f"![{question}](figures/{name}.png)", "", sentence, ""]
        plt.close(figure)
    first, *others = drawn
    body.append(first)
    for title, rows in sections:
        body.append(f"<h2>{title}</h2>" + html_table(rows))
        markdown += [f"## {title}", "", markdown_table(rows), ""]
    body += [*others, f"<p>{html.escape(provenance)}</p>"]
    markdown += [provenance, ""]
    (output_dir / "report.html").write_text(html_page(TITLE, "\n".join(body)))
    (output_dir / "claims.md").write_text("\n".join(markdown))
    results = {
        "claims": claims,
        "predictors": predictors,
        "contrast": contrast(ladder),
        "cells": [
            {
                "start": cell.start,
                "reason": cell.reason,
                "pass_rate": cell.pass_rate,
                "surprisal_bits": cell.surprisal_bits,
                "entropy_bits": cell.entropy_bits,
                "coherence": cell.coherence,
                "arms": {name: {key: arm.summary(key) for key in arm.results[0].values} for name, arm in cell.arms.items()},
            }
            for cell in ladder.cells
        ],
        "provenance": provenance,
    }
    (output_dir / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.ladder_report", description=__doc__.splitlines()[0])
    parser.add_argument("ladder", type=Path, help=f"folder with the studies {', '.join(PARTS)}")
    parser.add_argument("--output_dir", type=Path, help="where the report goes (default: report/ in the ladder)")
    options = parser.parse_args(arguments)
    output_dir = options.output_dir or options.ladder / "report"
    try:
        ladder = read_ladder(options.ladder)
        write_report(ladder, output_dir)
    except (RecordError, OSError) as error:
        sys.exit(f"error: {error}")
    shown = [row[:5] for row in claim_rows(claims_table(ladder))]
    print(aligned_table(shown))
    print(f"\nreport: {os.path.relpath(output_dir / 'report.html')}")


if __name__ == "__main__":
    main()
