"""Compare recorded runs: `python -m eval.report RUN...` (run directories, or folders of them).

Writes one self-contained report.html, summary.md, results.json and the figures as PNG files, and prints the table. Reads
records alone: it imports neither torch nor TRL.
"""

import html
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt

from bitsample_llm.glossary import TRAINING_PHASES
from bitsample_llm.options import OneLineArgumentParser, check_output_dir
from bitsample_llm.records import RecordError, Run, read_run
from eval.arms import TARGET_BITS, Arm, RunResult, arms_of, run_result
from eval.checks import check_reported
from eval.figures import essay_figure, learning_figure, phase_figure, rate_figure
from eval.findings import estimate, findings, matching_sentence, number, sentence_of
from eval.meter_only import NOTE, is_meter_only, metered_facts, metered_rows, with_names
from eval.meter_only import TITLE as METER_ONLY
from eval.page import aligned_table, html_figure, html_page, html_table, markdown_table, markdown_text
from eval.process import FIGURES as PROCESS_FIGURES
from eval.process import process_arms, process_findings, process_rows, whole_rollout_arms
from eval.sampled import caption, columns, sampled_rows, sampled_sentences

# heading, key, what it is
COLUMNS = (
    (
        "offered bits / sample",
        "offered_bits_per_sample",
        "essay convention: surprisal of a label, H(p) of a rollout; mean over samples until half of the held-out bits were "
        "absorbed (all samples where they never were), null where the reward is not the verdict",
    ),
    ("absorbed bits", "absorbed_bits", "mean over held-out problems of log2 p after - log2 p before"),
    ("pass rate before", "pass_rate_before", "exact mean over held-out problems"),
    ("pass rate after", "pass_rate_after", "the same after training"),
    ("pass-rate bits", "pass_rate_bits", "log2 of the ratio of the two means"),
    ("absorbed bits / PFLOP", "absorbed_bits_per_petaflop", "absorbed bits over all training FLOPs"),
    (
        "curve score",
        "absorbed_bits_over_log_flops",
        "absorbed bits averaged over the log of the FLOPs; what settings were tuned for",
    ),
    (
        "unsaturated bits / PFLOP",
        "unsaturated_bits_per_petaflop",
        "the same up to the point where half of the available bits are absorbed, so that a saturated run shows its rate",
    ),
    ("offered bits / PFLOP", "offered_bits_per_petaflop", "sum of offered bits over FLOPs, of the same samples"),
    ("absorbed bits / s", "absorbed_bits_per_second", "wall clock of training, evaluation left out"),
    ("offered bits / s", "offered_bits_per_second", "of the same samples, on the same clock"),
    ("GFLOP", "total_flops", "executed training FLOPs, rollouts included"),
    ("samples", "samples", "labels (also where they are passing rollouts) or rollouts trained on"),
)
SCALES = {"total_flops": 1e-9}


def find_runs(paths: Sequence[str]) -> list[Path]:
    """Run directories among the paths and one level below them.

    Raises:
        RecordError: for a path that is no run and holds none.
    """
    found = []
    for path in map(Path, paths):
        below = sorted(manifest.parent for manifest in path.glob("*/manifest.json"))
        if (path / "manifest.json").is_file():
            found.append(path)
        elif below:
            found += below
        else:
            raise RecordError(f"{path} is no run directory and holds none")
    return found


def table_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """The table of arms as text, heading first."""
    rows = [["start", "arm", "seeds", *[heading for heading, _, _ in columns(arms, COLUMNS)]]]
    for arm in arms:
        cells = [estimate(arm.summary(key), SCALES.get(key, 1.0)) for _, key, _ in COLUMNS]
        rows.append([arm.start, arm.name, str(len(arm.results)), *cells])
    return rows


def phase_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """Executed GFLOPs by phase, with the useful share of the whole, heading first."""
    phases = [phase for phase in TRAINING_PHASES if any(any(arm.measured(f"flops_{phase}")) for arm in arms)]
    rows = [["start", "arm", *[f"{phase} (GFLOP)" for phase in phases], "useful share", "dead groups' share"]]
    for arm in arms:
        useful = [
            sum(result.values[f"useful_flops_{phase}"] for phase in TRAINING_PHASES) / result.values["total_flops"]
            for result in arm.results
        ]
        cells = [number(arm.summary(f"flops_{phase}")["mean"] * 1e-9) for phase in phases]
        rows.append(
            [arm.start, arm.name, *cells, number(sum(useful) / len(useful)), estimate(arm.summary("dead_group_flops_fraction"))]
        )
    return rows


def split_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """Absorbed bits by evaluation set, and how far the weights moved, heading first."""
    columns = (
        ("held-out", "absorbed_bits"),
        ("held-out, median", "absorbed_bits_median"),
        ("gains", "absorbed_bits_gains"),
        ("losses", "absorbed_bits_losses"),
        ("trained on", "absorbed_bits_train"),
        ("seen in pretraining", "absorbed_bits_seen"),
        ("one digit more", "absorbed_bits_shifted"),
        ("same pairs, right mark", "absorbed_bits_marked"),
        ("norm of the update", "update_norm"),
        (f"samples to +{TARGET_BITS:g} bit", "samples_to_target"),
        (f"updates to +{TARGET_BITS:g} bit", "updates_to_target"),
        ("informative groups", "informative_group_fraction"),
        ("predicted", "informative_group_fraction_predicted"),
    )
    rows = [["start", "arm", *[heading for heading, _ in columns]]]
    return rows + [[arm.start, arm.name, *[estimate(arm.summary(key)) for _, key in columns]] for arm in arms]


def finding_rows(found: Sequence[dict]) -> list[list[str]]:
    """Findings as a table, heading first."""
    rows = [["question", "verdict", "estimate", "seeds", "statistic"]]
    return rows + [[item["question"], item["verdict"], estimate(item), str(item["n"]), item["statistic"]] for item in found]


def provenance_sentence(runs: Sequence[Run]) -> str:
    """Commits and versions the runs were made with, and the command of this report."""
    manifests = [run.manifest for run in runs]
    commits = sorted(
        {(m["git_commit"] or "unknown")[:12] + (" (with uncommitted changes)" if m["git_dirty"] else "") for m in manifests}
    )
    packages = ", ".join(f"{name} {version}" for name, version in manifests[0]["packages"].items()) or "packages unknown"
    return f"{len(manifests)} runs at commit {', '.join(commits)}; {packages}; device {manifests[0]['device']}. Made by: {' '.join(['python -m eval.report', *sys.argv[1:]])}"


FIGURES = (
    (
        "essay",
        "What does a sample offer, against the pass rate?",
        essay_figure,
        "Lines are the essay's two formulas; points show where the recorded samples fell, in blocks of 64 averaged over bins of "
        "the pass rate. With an exact pass rate a single sample lies on its line; a mean over differing prompts lies above the "
        "label's and below the verdict's. The essay's pair compares a realised surprisal with an expected entropy, so a verdict "
        "seems to tell more than a label above p = 0.5. In the right panel both are what a policy expects to learn from its own "
        "completion (the surprisal of the completion as a label, H of its probability as a verdict): there a label never tells "
        "less.",
    ),
    (
        "learning",
        "What did a FLOP buy on held-out problems?",
        learning_figure,
        "Surprisal of the right answer and mean pass rate on problems whose operands were trained on in no form, exact, against "
        "all FLOPs of training.",
    ),
    (
        "rates",
        "How fast were bits absorbed before saturation?",
        rate_figure,
        "Each point is a seed; the bar below is the mean with its 95 % t interval over seeds. The axis is linear around 0 and "
        "logarithmic outside. Runs that absorbed half of the bits are rated up to that point, the others over their whole budget.",
    ),
    ("phases", "Where did the FLOPs go?", phase_figure, "Executed FLOPs, padding and finished rows included."),
)


@dataclass(frozen=True)
class Sorted:
    """What the runs of a report are: those that compare, those without evaluations, and those left out with the reason."""

    evaluated: list[RunResult]
    metered: list[Run]
    left_out: list[str]


def sorted_runs(run_dirs: Sequence[Path]) -> Sorted:
    """The runs of the directories.

    Raises:
        RecordError: if none can be reported, with the reason of each.
    """
    evaluated, metered, left_out = [], [], []
    for run_dir in run_dirs:
        try:
            run = read_run(run_dir)
            check_reported(run)
            run = with_names(run)
            if is_meter_only(run):
                metered.append(run)
            else:
                evaluated.append(run_result(run))
        except RecordError as error:
            left_out.append(" ".join(str(error).split()))
    if not evaluated and not metered:
        raise RecordError("; ".join(left_out) if len(left_out) == 1 else f"nothing to report: {'; '.join(left_out)}")
    return Sorted(evaluated, metered, left_out)


def write_report(arms: Sequence[Arm], output_dir: Path, metered: Sequence[Run] = (), left_out: Sequence[str] = ()) -> None:
    """Write report.html, summary.md, results.json and figures/*.png."""
    output_dir.mkdir(parents=True, exist_ok=True)
    figures_dir = output_dir / "figures"
    figures_dir.mkdir(exist_ok=True)
    has_process = bool(process_arms(arms))
    found = findings(arms) + process_findings(arms)
    sentences = [matching_sentence(arms), *sampled_sentences(arms), *map(sentence_of, findings(arms))] if arms else []
    facts = [metered_facts(run) for run in metered]
    provenance = provenance_sentence([*[result.run for arm in arms for result in arm.results], *metered])
    definitions = [f"{heading}: {meaning}" for heading, _, meaning in columns(arms, COLUMNS)]
    note = "Brackets hold the 95 % t interval over seeds."
    parts, markdown = (
        [],
        ["# Bits per FLOP, SFT and RL", "", *[f"- {markdown_text(sentence)}" for sentence in sentences], "", note, ""],
    )
    for rows in (table_rows(arms), split_rows(arms), phase_rows(arms)) if arms else ():
        markdown += [markdown_table(rows), ""]
    if facts:
        markdown += [f"## {METER_ONLY}", "", NOTE, "", markdown_table(metered_rows(facts)), ""]
    if left_out:
        markdown += ["## Left out", "", *[f"- {markdown_text(line)}" for line in left_out], ""]
    if has_process:
        verdicts = markdown_table(finding_rows(process_findings(arms)))
        markdown += ["## Process reward against outcome reward", "", verdicts, "", markdown_table(process_rows(arms)), ""]
    sampled_section = ""
    if sampled_sentences(arms):
        markdown += ["## Pass rates from rollouts", "", markdown_table(sampled_rows(arms)), ""]
        sampled_section = "<h2>Pass rates from rollouts</h2>" + html_table(sampled_rows(arms))
    figures = FIGURES
    if has_process:  # too many arms for the essay's figure, and no labels to show on it
        figures = (*PROCESS_FIGURES, *[figure for figure in FIGURES if figure[0] != "essay"])
    for name, title, draw, sentence in figures if arms else ():
        sentence_told = caption(arms, name, sentence)
        figure = draw(arms if (name, title, draw, sentence) in PROCESS_FIGURES else whole_rollout_arms(arms))
        figure.savefig(figures_dir / f"{name}.png", dpi=120)
        parts.append(html_figure(figure, title, sentence_told))
        markdown += [f"## {title}", "", f"![{title}](figures/{name}.png)", "", sentence_told, ""]
        plt.close(figure)
    markdown += ["## Columns", "", *[f"- {line}" for line in definitions], "", markdown_text(provenance), ""]
    (output_dir / "summary.md").write_text("\n".join(markdown))
    process_section = "<h2>Process reward against outcome reward</h2>"
    process_section += html_table(finding_rows(process_findings(arms))) + html_table(process_rows(arms))
    listed = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    defined = "".join(f"<li>{html.escape(line)}</li>" for line in definitions)
    apart = f"<h2>{METER_ONLY}</h2><p>{NOTE}</p>{html_table(metered_rows(facts))}" if facts else ""
    if left_out:
        apart += "<h2>Left out</h2><ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in left_out) + "</ul>"
    body = f"""<ul>{listed}</ul>
<h2>Arms</h2><p>{note}</p>{html_table(table_rows(arms))}
{sampled_section}
{process_section if has_process else ""}
<h2>Who gained, and how far the weights moved</h2>{html_table(split_rows(arms))}
{"".join(parts)}
<h2>FLOPs by phase</h2>{html_table(phase_rows(arms))}
<h2>Columns</h2><ul>{defined}</ul>"""
    body = f"""{body if arms else ""}
{apart}
<p>{html.escape(provenance)}</p>"""
    (output_dir / "report.html").write_text(html_page("Bits per FLOP, SFT and RL", body))
    results = {
        "findings": found,
        "arms": [
            {
                "start": arm.start,
                "arm": arm.name,
                "regime": arm.regime,
                "seeds": arm.seeds(),
                "runs": [str(result.run.run_dir) for result in arm.results],
                "values": {key: arm.summary(key) for key in arm.results[0].values},
            }
            for arm in arms
        ],
        "metered": facts,
        "left_out": list(left_out),
        "provenance": provenance,
    }
    (output_dir / "results.json").write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")


def terminal_table(arms: Sequence[Arm]) -> str:
    """The columns that matter most, aligned for a terminal."""
    keys = (
        "offered_bits_per_sample",
        "absorbed_bits",
        "pass_rate_before",
        "pass_rate_after",
        "unsaturated_bits_per_petaflop",
        "total_flops",
    )
    headings = {key: heading for heading, key, _ in columns(arms, COLUMNS)}
    rows = [["start", "arm", "seeds", *[headings[key] for key in keys]]]
    for arm in arms:
        rows.append(
            [arm.start, arm.name, str(len(arm.results)), *[estimate(arm.summary(key), SCALES.get(key, 1.0)) for key in keys]]
        )
    return aligned_table(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the report."""
    parser = OneLineArgumentParser(prog="python -m eval.report", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or folders of run directories")
    parser.add_argument("--output_dir", type=Path, help="where the report goes (default: report/ in the first RUN)")
    options = parser.parse_args(arguments)
    output_dir = options.output_dir or Path(options.runs[0]) / "report"
    try:
        check_output_dir(output_dir)
        runs = sorted_runs(find_runs(options.runs))
        arms = arms_of(runs.evaluated)
        write_report(arms, output_dir, runs.metered, runs.left_out)
    except (RecordError, OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    if arms:
        print(terminal_table(arms), end="\n\n")
    if runs.metered:
        print(f"{METER_ONLY}\n{aligned_table(metered_rows([metered_facts(run) for run in runs.metered]))}\n")
    for line in runs.left_out:
        print(f"left out: {line}", file=sys.stderr)
    told = [*sampled_sentences(arms), *map(sentence_of, findings(arms) + process_findings(arms))] if arms else []
    for sentence in [matching_sentence(arms), *told] if arms else []:
        print(f"- {sentence}")
    print(f"\nreport: {os.path.relpath(output_dir / 'report.html')}")


if __name__ == "__main__":
    main()
