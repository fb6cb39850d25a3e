"""What a study's YAML makes of runs: starts and settings from files beside it, tags, the points of a search, the page; the archive."""

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import REPOSITORY
from made_runs import make_run

from bitsample_llm.training.planned_runs import check_config, expanded_arms, planned_runs, study_config
from eval import archive
from recipes.study import page_command

SEEDS = (1, 2, 3)


def words_after(command: list[str], option: str) -> list[str]:
    """The words of an option up to the next one."""
    rest = command[command.index(option) + 1 :]
    return rest[: next(index for index, word in enumerate([*rest, "--"]) if word.startswith("--"))]


def test_a_study_takes_starts_tags_and_tuned_settings_from_files_beside_it(tmp_path):
    starts = {"one": {"model_name_or_path": "m", "tags": {"reason": "latent"}}, "two": {"model_name_or_path": "n", "mark": "E"}}
    (tmp_path / "starts.yaml").write_text(yaml.safe_dump(starts))
    (tmp_path / "found.yaml").write_text("one: {grpo: {learning_rate: 0.5}}\n")
    random = {"recipe": "grpo", "tuned_as": "grpo", "only": ["one"], "tags": {"control": "random reward"}}
    config = {
        "seeds": [1],
        "shared": {"learning_rate": 0.1, "tags": {"part": "cells"}},
        "starts": ["starts.yaml"],
        "tuned": "found.yaml",
        "arms": {"grpo": {"recipe": "grpo"}, "random": random},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    runs = {run.run_dir.name: run.command for run in planned_runs(study_config(tmp_path / "study.yaml"), tmp_path)}
    assert set(runs) == {"one-grpo-seed1", "one-random-seed1", "two-grpo-seed1"}
    rates = {name: words_after(command, "--learning_rate") for name, command in runs.items()}
    assert rates == {"one-grpo-seed1": ["0.5"], "one-random-seed1": ["0.5"], "two-grpo-seed1": ["0.1"]}
    tags = {name: words_after(command, "--tags") for name, command in runs.items()}
    assert tags == {
        "one-grpo-seed1": ["part=cells", "reason=latent"],
        "one-random-seed1": ["part=cells", "reason=latent", "control=random reward"],
        "two-grpo-seed1": ["part=cells"],
    }


def test_a_start_of_several_models_is_one_start_for_each(tmp_path):
    start = {"models": {"a": "folder/a", "b": "folder/b"}, "mark": "E", "tags": {"reason": "latent"}}
    config = {
        "seeds": [1],
        "shared": {},
        "starts": {"E": start, "other": {"model_name_or_path": "m"}},
        "tuned": {"E": {"sft": {"learning_rate": 0.5}}, "E b": {"sft": {"learning_rate": 0.25}}},
        "arms": {"sft": {"recipe": "sft"}, "grpo": {"recipe": "grpo", "only": ["E"], "by_start": {"E a": {"num_generations": 2}}}},
    }
    check_config(config)
    runs = {run.run_dir.name: run.command for run in planned_runs(config, tmp_path)}
    assert set(runs) == {"E a-sft-seed1", "E b-sft-seed1", "other-sft-seed1", "E a-grpo-seed1", "E b-grpo-seed1"}
    assert words_after(runs["E b-sft-seed1"], "--model_name_or_path") == ["folder/b"]
    assert words_after(runs["E b-sft-seed1"], "--tags") == ["reason=latent", "rung=E", "model=b"]
    assert [words_after(runs[f"E {model}-sft-seed1"], "--learning_rate") for model in "ab"] == [["0.5"], ["0.25"]]
    assert ["--num_generations" in runs[f"E {model}-grpo-seed1"] for model in "ab"] == [True, False]


def test_options_that_go_together_are_one_axis_of_a_grid():
    arms = expanded_arms({"grpo": {"recipe": "grpo", "grid": {"batch size": [[8, 4], [16, 8]], "rate": [1, 2]}}})
    assert len(arms) == 4
    settings = [(arm["batch"], arm["size"], arm["rate"]) for arm in arms.values()]
    assert settings == [(8, 4, 1), (8, 4, 2), (16, 8, 1), (16, 8, 2)]
    assert list(arms)[-1] == "grpo,batch=16,size=8,rate=2"


@pytest.mark.parametrize("config", sorted((REPOSITORY / "eval" / "studies").glob("*/*.yaml")), ids=lambda path: path.name)
def test_every_start_of_a_committed_study_says_the_reason_of_its_pass_rate(config):
    planned = study_config(config)
    if "arms" not in planned:
        pytest.skip("a list of starts or settings")
    for run in planned_runs(planned, REPOSITORY / "runs", config.parent):
        tags = dict(word.split("=", 1) for word in words_after(run.command, "--tags"))
        assert tags.get("reason") in ("latent", "unacquired", "deep", "gates", "pretrained") or tags.get("part") == "memorise"
        assert run.recipe_config.is_file()


def test_the_page_is_the_studys_own_where_its_folder_has_one(tmp_path):
    quick = page_command(REPOSITORY / "eval" / "studies" / "quick" / "study.yaml", tmp_path / "out")
    assert quick == [
        sys.executable,
        "-m",
        "eval.studies.quick",
        str(tmp_path / "out"),
        "--output_dir",
        str(tmp_path / "out/report"),
    ]
    assert page_command(tmp_path / "study.yaml", tmp_path)[1:3] == ["-m", "eval.report"]
    (tmp_path / "__main__.py").write_text("")
    assert page_command(tmp_path / "study.yaml", tmp_path)[1] == str(tmp_path)


def test_archive_keeps_every_run_in_small_files_and_no_path_of_a_machine(tmp_path, monkeypatch):
    facts = {"command": "/somewhere/else/recipes/sft.py --output_dir /somewhere/runs/x"}
    for seed in SEEDS:
        for arm, regime in (("sft", "sft"), ("grpo", "rl"), ("rloo", "rl")):
            splits = {"marked": (-0.01, 0.0)}
            make_run(tmp_path / "cells", "latent E", arm, regime, seed, 0.5, splits=splits, facts=facts)
    monkeypatch.setattr(archive, "MAX_BYTES", 4_000)
    written = archive.archive([tmp_path / "cells"], tmp_path / "record")
    assert all(path.stat().st_size < 4_000 for path in written)
    evaluations = pa.concat_tables(pq.read_table(path) for path in written if path.name.startswith("evaluations"))
    assert evaluations.num_rows == 9 * 3 * 2 * 4  # runs, splits, first and last, problems
    manifests = json.loads((tmp_path / "record" / "runs.json").read_text())
    assert len(manifests["runs"]) == 9
    assert "/somewhere" not in (tmp_path / "record" / "runs.json").read_text()
