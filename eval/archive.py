"""Pack the runs of a study for a committed record: `python -m eval.archive STUDY... --output_dir FOLDER`.

Writes Parquet files of at most 4 MB: `evaluations-*` (each problem's log2 pass rate at the first and last evaluation),
`curves-*` (their mean at every evaluation), `prompts-*`, `steps-*`, and `rollouts-*`, a sample of the rollouts; `runs.json` has every run's
manifest. Rows name their run by study, start, arm and seed. `read_archive` opens what was written.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bitsample_llm.records import RecordError, Run, read_run
from bitsample_llm.report.runs import run_dirs_in

MAX_BYTES = 4_000_000
ROLLOUTS_A_RUN = 64
STEP_KEYS = (
    "step",
    "samples/total",
    "flops/total",
    "bits/offered_total",
    "group/pass_rate",
    "group/informative_fraction",
    "train/loss",
)
EVAL_KEYS = ("step", "split", "problem_id", "log2_pass_rate", "num_passed", "num_rollouts", "reference_log2_probability")
PLACE = ("study", "start", "arm", "seed")  # names a run


def first_and_last_evaluations(evals: pa.Table) -> pa.Table:
    """Rows of each split's first and last evaluation."""
    bounds = evals.group_by("split").aggregate([("step", "min"), ("step", "max")]).to_pylist()
    keep = pa.scalar(False)
    for bound in bounds:
        at_bound = pc.is_in(evals["step"], pa.array([bound["step_min"], bound["step_max"]]))
        keep = pc.or_(keep, pc.and_(pc.equal(evals["split"], bound["split"]), at_bound))
    return evals.filter(keep).select(EVAL_KEYS)


def curves(evals: pa.Table) -> pa.Table:
    """Mean log2 pass rate and mean pass rate of a split at each evaluation, with the FLOPs so far."""
    log2_pass_rate, num_passed, num_rollouts = (
        evals[name].to_numpy().astype(float) for name in ("log2_pass_rate", "num_passed", "num_rollouts")
    )
    rates = np.where(np.isnan(num_rollouts), np.exp2(log2_pass_rate), num_passed / num_rollouts)
    evals = evals.append_column("pass_rate", pa.array(rates, from_pandas=True))
    means = [("log2_pass_rate", "mean"), ("pass_rate", "mean"), ("total_flops", "mean"), ("update_norm", "mean")]
    return evals.group_by(["split", "step"]).aggregate(means)


def tables_of(run: Run, rng: np.random.Generator) -> dict[str, pa.Table]:
    """What is kept of a run."""
    evals, rollouts = run.table("evals"), run.table("rollouts")
    drawn = np.sort(rng.choice(rollouts.num_rows, min(ROLLOUTS_A_RUN, rollouts.num_rows), replace=False))
    return {
        "evaluations": first_and_last_evaluations(evals),
        "curves": curves(evals),
        "prompts": run.table("prompts"),
        "steps": pa.table({key: pa.array([line.get(key) for line in run.steps], pa.float64()) for key in STEP_KEYS}),
        "rollouts": rollouts.take(pa.array(drawn)),
    }


def compact(table: pa.Table) -> pa.Table:
    """Floats in single precision, strings as dictionaries, columns without a value dropped."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count == len(column) or pa.types.is_list(column.type):
            continue
        if pa.types.is_float64(column.type):
            column = column.cast(pa.float32())
        columns[name] = column.combine_chunks().dictionary_encode() if pa.types.is_string(column.type) else column
    return pa.table(columns)


def write_split(table: pa.Table, folder: Path, name: str) -> list[Path]:
    """Write a table as so many files that each is below `MAX_BYTES`."""
    num_files = 1
    while True:
        rows = -(-table.num_rows // num_files)
        paths = [folder / f"{name}-{index:02d}.parquet" for index in range(num_files)]
        for index, path in enumerate(paths):
            pq.write_table(table.slice(index * rows, rows), path, compression="zstd", compression_level=12)
        if all(path.stat().st_size < MAX_BYTES for path in paths):
            return paths
        num_files += 1


def archive(studies: Sequence[Path], output_dir: Path) -> list[Path]:
    """Write the files of all finished runs of the studies."""
    rng, parts, manifests = np.random.default_rng(0), {}, []
    for study in studies:
        for run_dir in run_dirs_in([study]):
            run = read_run(run_dir)
            if run.manifest["state"] != "finished":
                continue
            place = {"study": study.name, "start": run.manifest["start"], "arm": run.manifest["arm"], "seed": run.manifest["seed"]}
            manifests.append(place | _short(run.manifest))
            for name, table in tables_of(run, rng).items():
                for key, value in place.items():
                    table = table.append_column(
                        key, pa.array([value] * table.num_rows, pa.int64() if key == "seed" else pa.string())
                    )
                parts.setdefault(name, []).append(table)
    if not manifests:
        raise RecordError(f"{', '.join(map(str, studies))}: no finished runs")
    output_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for name, tables in parts.items():
        written += write_split(compact(pa.concat_tables(tables, promote_options="default")), output_dir, name)
    shared = {key: value for key, value in manifests[0].items() if all(m.get(key) == value for m in manifests)}
    own = [{key: value for key, value in manifest.items() if key not in shared} for manifest in manifests]
    (output_dir / "runs.json").write_text(json.dumps({"shared": shared, "runs": own}, indent=None) + "\n")
    return written


def read_archive(folder: Path) -> tuple[list[dict], dict[str, pa.Table]]:
    """Manifests of the packed runs, and the tables by name.

    Raises:
        RecordError: if a file is missing or cannot be read, or a run has no evaluations.
    """
    try:
        packed = json.loads((folder / "runs.json").read_text())
        manifests = [packed["shared"] | own for own in packed["runs"]]
        parts: dict[str, list[pa.Table]] = {}
        for path in sorted(folder.glob("*.parquet")):
            parts.setdefault(path.stem.rsplit("-", 1)[0], []).append(pq.read_table(path))
        tables = {name: pa.concat_tables(found, promote_options="default") for name, found in parts.items()}
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise RecordError(f"{folder}: cannot read the packed runs ({error}); pack them anew with python -m eval.archive") from error
    evaluations = tables.get("evaluations")
    evaluated = set() if evaluations is None else set(zip(*(evaluations[key].to_pylist() for key in PLACE), strict=True))
    for manifest in manifests:
        if (place := tuple(manifest[key] for key in PLACE)) not in evaluated:
            raise RecordError(
                f"{folder}: no evaluations of run {', '.join(map(str, place))}; pack the runs anew with python -m eval.archive"
            )
    return manifests, tables


def _short(manifest: dict) -> dict:
    """A run's manifest without its whole configuration, of which its command and the study's file tell what matters; paths are
    those inside the project."""
    kept = {key: value for key, value in manifest.items() if key != "config"}
    return kept | {"command": re.sub(r"/\S*/(?=recipes/|runs/)", "", kept["command"])} if "command" in kept else kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.archive", description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY", help="folders of run directories")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the record")
    options = parser.parse_args(arguments)
    try:
        written = archive(options.studies, options.output_dir)
    except (RecordError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(written)} files, {sum(path.stat().st_size for path in written) / 1e6:.1f} MB: {options.output_dir}")


if __name__ == "__main__":
    main()
