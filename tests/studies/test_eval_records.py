"""The committed records: what their READMEs name is in git, and raw runs open with the reader or are said to be absent."""

import re
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY
from made_runs import make_run

from bitsample_llm.records import RecordError, read_run
from eval.archive import archive, read_archive

RECORDS = sorted(path.parent for path in (REPOSITORY / "eval" / "records").glob("*/README.md"))
FILE = re.compile(r"[\w./-]+\.(?:py|yaml|md|txt|json|jsonl|parquet|png|html)|(?:[\w.-]+/)+[\w.-]*")
NO_RAW_RUNS = re.compile(r"raw runs (?:are lost|were never kept|are those of the records)", re.IGNORECASE)


def git(*arguments: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Every file in git and every folder that holds one, relative to the repository."""
    listed = git("ls-files")
    if listed.returncode:
        pytest.skip("not a git checkout, which is what this is about")
    files = listed.stdout.splitlines()
    return {*files, *(str(parent) for name in files for parent in Path(name).parents)}


def named_paths(text: str) -> set[str]:
    """Targets of relative links, and what looks like a file or a folder in back ticks; commands and addresses are neither.

    >>> sorted(named_paths("![a](figures/x.png) [b](https://x.org/y.md) `runs/` `table.txt` `make study` `first_error`"))
    ['figures/x.png', 'runs/', 'table.txt']
    """
    links = {target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target}
    return (links | {quoted for quoted in re.findall(r"`([^`]+)`", text) if FILE.fullmatch(quoted)}) - {""}


def is_in_git(path: str, record: Path, tracked: set[str]) -> bool:
    """Whether a path stands in the record, in the repository, or, as a bare name, among the configurations of recipes and pretraining."""
    configs = [REPOSITORY / "recipes" / "configs", REPOSITORY / "data" / "pretraining"]
    places = [record, REPOSITORY, *([] if "/" in path else configs)]
    names = ((place / path).resolve() for place in places)
    return any(name.is_relative_to(REPOSITORY) and str(name.relative_to(REPOSITORY)) in tracked for name in names)


def open_runs(folder: Path) -> int:
    """Open every run of a record's folder, packed or as it was written; how many there are."""
    if (folder / "lines.parquet").exists():  # a line per run, of a study that writes no run directories
        return pq.read_table(folder / "lines.parquet").num_rows
    if (folder / "runs.json").exists() or list(folder.glob("*.parquet")):
        return len(read_archive(folder)[0])
    return len([read_run(run_dir) for run_dir in sorted(folder.iterdir())])


def says_what_is_there(record: Path, tracked: set[str]) -> bool:
    """Whether a record has raw runs in git that open, or else says that it has none."""
    runs = record / "runs"
    says_none = NO_RAW_RUNS.search(" ".join((record / "README.md").read_text().split())) is not None
    has_runs = str(runs.resolve().relative_to(REPOSITORY)) in tracked
    return not says_none and open_runs(runs) > 0 if has_runs else says_none


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_every_path_that_a_record_names_is_in_git(record, tracked):
    named = named_paths((record / "README.md").read_text())
    assert named
    assert [path for path in sorted(named) if not is_in_git(path, record, tracked)] == []


def test_a_path_that_is_not_in_git_is_found_out(tracked):
    record = REPOSITORY / "eval" / "records" / "2026-11-21_ladder"
    assert named_paths("see `runs/`, `runs.json` and [the plan](plan.html)") == {"runs/", "runs.json", "plan.html"}
    assert not any(is_in_git(path, record, tracked) for path in ("runs/", "runs.json", "plan.html", "../../../../x.md"))
    assert is_in_git("results.json", record, tracked) and is_in_git("eval/LOG.md", record, tracked)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_records_raw_runs_open_or_its_readme_says_that_there_are_none(record, tracked):
    assert says_what_is_there(record, tracked)


def test_runs_are_ignored_at_the_top_alone(tracked):
    assert git("check-ignore", "-q", "runs/study/report/report.html").returncode == 0
    assert git("check-ignore", "-q", "eval/records/2026-11-21_ladder/runs/runs.json").returncode == 1


def test_packed_runs_open_with_the_reader_and_a_lost_part_is_named(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path / "cells", "latent E", "sft", "sft", seed, 1.0)
    record = tmp_path / "record"
    archive([tmp_path / "cells"], record)
    manifests, tables = read_archive(record)
    assert open_runs(record) == 2
    assert [(m["study"], m["start"], m["arm"], m["seed"]) for m in manifests] == [
        ("cells", "latent E", "sft", seed) for seed in (1, 2)
    ]
    assert manifests[0]["state"] == "finished"
    assert tables["evaluations"].num_rows == 2 * 2 * 2 * 4  # runs, splits, first and last, problems
    assert open_runs(tmp_path / "cells") == 2
    (record / "evaluations-00.parquet").unlink()
    with pytest.raises(RecordError, match="no evaluations of run cells, latent E, sft, 1; pack the runs anew"):
        read_archive(record)
    (record / "runs.json").unlink()
    with pytest.raises(RecordError, match="cannot read the packed runs"):
        open_runs(record)
