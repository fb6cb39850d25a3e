"""Curricula: what the selector chooses from numbers, and recipes with each of them: prompts, charges, resumes, two processes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import BASE
from test_processes import launched
from test_real_models import ran

from bitsample_llm.records import RecordError, read_run
from bitsample_llm.tasks import load_task
from bitsample_llm.tasks.problem import Problem
from bitsample_llm.training.selection import SELECTIONS, SelectionArguments, Selector

END = SimpleNamespace(spellings=lambda completion: [completion])
LEVELS = {"B": 0, "C": 1, "E": 2, "G": 10}  # by author; 10 comes after 2, as numbers do
PROBLEMS = [Problem(f"{level}/{n}", "1+1=", "2", 0, level=str(level)) for level in LEVELS.values() for n in range(8)]
RATES = np.array([0.9] * 8 + [0.5] * 8 + [0.1] * 8 + [0.01] * 8)
SMALL = {
    "num_train_problems": 64,
    "num_heldout_problems": 8,
    "prompt_format": "text",
    "level_column": "level",
    "disable_tqdm": "true",
}


def selector(selection: str, seed: int = 0, **options) -> Selector:
    return Selector(SelectionArguments(selection, **options), PROBLEMS, seed, end=END, verifier=object())


def rates_of(rows: list[int]) -> np.ndarray:
    return RATES[rows]


def level_of(rows: list[int]) -> list[str]:
    return [PROBLEMS[row].level for row in rows]


def test_levels_come_one_after_the_other_in_the_order_of_their_numbers():
    chooses = selector("easy_to_hard", easy_to_hard_steps=40)
    asked = [level_of(chooses.chosen(3, step, rates_of)[0]) for step in (0, 9, 10, 20, 30, 39, 1000)]
    assert asked == [[name] * 3 for name in ("0", "0", "1", "2", "10", "10", "10")]


def test_counts_lead_to_the_level_nearest_to_a_half_and_are_forgotten():
    chooses = selector("thompson")
    for _ in range(200):
        rows, _ = chooses.chosen(1, 0, rates_of)
        chooses.tell(rows, 8 * RATES[rows], 8)
    late = [level_of(chooses.chosen(1, 0, rates_of)[0])[0] for _ in range(100)]
    assert late.count("1") > 80
    for _ in range(2000):  # nothing is heard of it any more
        chooses.tell([], [], 8)
    assert chooses.passes_L.max() < 1e-9
    assert len(set(level_of(chooses.chosen(100, 0, rates_of)[0]))) == 4


def test_a_bandit_learns_the_level_nearest_to_a_half():
    chooses = selector("bandit")
    assert len(set(level_of(chooses.chosen(100, 0, rates_of)[0]))) == 4
    for _ in range(200):
        rows, pass_rates = chooses.chosen(1, 0, rates_of)
        assert pass_rates == [None]
        chooses.tell(rows, 8 * RATES[rows], 8)
    assert level_of(chooses.chosen(100, 0, rates_of)[0]).count("1") > 80


def test_pass_rates_choose_what_is_nearest_to_a_half_or_in_proportion_to_the_variance():
    rows, pass_rates = selector("exact_half", selection_candidates=32).chosen(1, 0, rates_of)
    assert (level_of(rows), pass_rates) == (["1"], [0.5])
    chooses = selector("exact_variance", selection_candidates=32)
    drawn = [level_of(chooses.chosen(1, 0, rates_of)[0])[0] for _ in range(4000)]
    variance = {name: p * (1 - p) for name, p in zip(("0", "1", "2", "10"), (0.9, 0.5, 0.1, 0.01), strict=True)}
    for name, value in variance.items():
        assert drawn.count(name) / 4000 == pytest.approx(value / sum(variance.values()), abs=0.03)
    # all pass, or all fail: any of them, and nothing is divided by nothing
    assert len(selector("exact_variance").chosen(2, 0, lambda rows: np.ones(len(rows)))[0]) == 2
    assert len(selector("exact_half", selection_candidates=8).chosen(8, 0, rates_of)[0]) == 8


@pytest.mark.parametrize("selection", [name for name in SELECTIONS if name != "shuffled"])
def test_a_restored_state_chooses_what_would_have_been_chosen(tmp_path, selection):
    first, second = selector(selection), selector(selection, seed=1)
    for _ in range(5):
        rows, _ = first.chosen(2, 3, rates_of)
        first.tell(rows, 8 * RATES[rows], 8)
    first.save(tmp_path)
    second.load(tmp_path)
    assert first.chosen(4, 3, rates_of) == second.chosen(4, 3, rates_of)
    with pytest.raises(RecordError, match="of data with other levels"):
        Selector(SelectionArguments(selection), [replace(PROBLEMS[0], level="1")], 0, END, object()).load(tmp_path)
    with pytest.raises(RecordError, match="of a run without --selection"):
        first.load(tmp_path / "elsewhere")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A file of problems by four authors, and one that is held out."""
    folder = tmp_path_factory.mktemp("pool")
    for name, split, num in (("pool", "train", 16), ("heldout", "heldout", 2)):
        rows = [
            {"prompt": problem.prompt, "answer": problem.answer, "level": level}
            for mark, level in LEVELS.items()
            for problem in load_task("addition", "reversed", difficulty=2, mark=mark).problems(split, num, seed=level)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"dataset": folder / "pool.jsonl", "heldout_split": folder / "heldout.jsonl"}


def grpo(monkeypatch, pool, folder, **options):
    batch = {"per_device_train_batch_size": 16, "num_generations": 8, "max_completion_length": 5, "learning_rate": 1e-4}
    return ran(monkeypatch, "grpo", BASE, folder, **SMALL | pool | batch | {"max_steps": 4} | options)


def test_prompts_are_those_nearest_to_a_half_and_the_record_says_what_for(monkeypatch, tmp_path, pool):
    runs = {name: grpo(monkeypatch, pool, tmp_path / name, selection=name) for name in ("shuffled", "exact_half")}
    rows = {name: run.table("prompts").to_pylist() for name, run in runs.items()}
    assert len(rows["shuffled"]) == len(rows["exact_half"]) == 8
    assert all(row["selected_at_pass_rate"] is None for row in rows["shuffled"])
    for row in rows["exact_half"]:
        assert row["selected_at_pass_rate"] == pytest.approx(row["pass_rate"], rel=1e-4)
    distance = {name: np.mean([abs(row["pass_rate"] - 0.5) for row in of_run]) for name, of_run in rows.items()}
    assert distance["exact_half"] < 0.2 < distance["shuffled"]
    totals = {name: run.steps[-1] for name, run in runs.items()}
    assert totals["exact_half"]["flops/total"] == pytest.approx(
        totals["shuffled"]["flops/total"], rel=0.1
    )  # the scoring is not charged
    assert totals["exact_half"]["flops/evaluation"] > totals["shuffled"]["flops/evaluation"]


def test_rollouts_that_only_probe_are_charged_and_not_counted_as_samples(monkeypatch, tmp_path, pool):
    plain = grpo(monkeypatch, pool, tmp_path / "plain").steps[-1]
    options = {"selection": "probe", "selection_candidates": 4, "selection_rollouts": 4}
    run = grpo(monkeypatch, pool, tmp_path / "probe", **options)
    probe = run.steps[-1]
    assert probe["samples/total"] == plain["samples/total"] == 4 * 16
    assert probe["flops/prefill"] / plain["flops/prefill"] == pytest.approx(3.0, rel=0.02)  # 16 to train on, 2 x 4 x 4 to probe
    assert probe["flops/train_backward"] == pytest.approx(plain["flops/train_backward"], rel=0.1)
    assert json.loads((tmp_path / "probe" / "manifest.json").read_text())["arm"] == "grpo_probe"
    assert {row["selected_at_pass_rate"] for row in run.table("prompts").to_pylist()} <= {0.0, 0.25, 0.5, 0.75, 1.0}


@pytest.mark.parametrize("selection", ["thompson", "bandit", "easy_to_hard"])
def test_a_resumed_run_goes_on_choosing(monkeypatch, tmp_path, pool, selection):
    options = {"selection": selection, "easy_to_hard_steps": 6, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-5}
    whole = grpo(monkeypatch, pool, tmp_path / "whole", max_steps=6, **options)
    grpo(monkeypatch, pool, tmp_path / "cut", max_steps=3, **options)
    manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
    (tmp_path / "cut" / "manifest.json").write_text(json.dumps(manifest | {"state": "running"}))
    cut = grpo(monkeypatch, pool, tmp_path / "cut", max_steps=6, resume_from_checkpoint="last", **options)
    asked = [[row["problem_id"] for row in run.table("prompts").to_pylist()] for run in (whole, cut)]
    assert len(asked[0]) == 12 and asked[0] == asked[1]


def test_labels_are_chosen_too(monkeypatch, tmp_path, pool):
    options = SMALL | pool | {"per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 1e-5}
    runs = [ran(monkeypatch, "sft", BASE, tmp_path / name, selection=name, **options) for name in ("shuffled", "exact_half")]
    distance = []
    for run in runs:
        rows = run.table("prompts").to_pylist()
        assert len(rows) == 16 and all(row["problem_id"] for row in rows)
        distance.append(np.mean([abs(2 ** -row["offered_bits"] - 0.5) for row in rows]))
    assert distance[1] < 0.2 < distance[0]


@pytest.mark.parametrize(
    ("recipe_name", "options", "told"),
    [
        ("sft", {"selection": "thompson"}, "chooses by rollouts, and SFT has none"),
        ("grpo", {"selection": "thompson", "reward": "random"}, "--selection needs --reward outcome, got random"),
        ("grpo", {"selection": "easy_to_hard", "level_column": "answer_kind"}, "has no column 'answer_kind': pass --level_column"),
        ("grpo", {"selection": "easy_to_hard", "level_column": "prompt"}, "needs levels that are numbers, got"),
        ("grpo", {"selection": "exact_half", "verifier": "numeric"}, "needs exact pass rates, and several answers pass"),
        ("grpo", {"selection": "exact_half", "temperature": 0.5}, "needs rollouts of the model's own distribution"),
        ("grpo", {"selection": "probe", "stop_at_first_error": "true"}, "needs rollouts that run on"),
        ("sft", {"selection": "exact_half", "packing": "true"}, "set packing and padding_free to false"),
        ("grpo", {"selection_candidates": 0}, "--selection_candidates must be at least 1, got 0"),
    ],
)
def test_what_cannot_choose_is_told_in_one_line(recipe, tmp_path, pool, recipe_name, options, told):
    words = [word for name, value in (SMALL | pool | options).items() for word in (f"--{name}", value)]
    done = recipe(recipe_name, *words, "--output_dir", tmp_path / "run")
    assert done.returncode in (1, 2)
    assert told in done.stderr and done.stderr.count("\n") == 1, done.stderr[-500:]


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["thompson", "probe"])
def test_two_processes_ask_the_same_as_one(monkeypatch, tmp_path, pool, selection):
    options = SMALL | pool | {"selection": selection, "max_completion_length": 5, "num_generations": 64, "max_steps": 2}
    run, _ = launched("grpo", "two_cpus", tmp_path / "two", **options)
    rows = run.table("prompts").to_pylist()
    assert [row["group_size"] for row in rows] == [64] * 2  # each group is split over the processes
    one = grpo(
        monkeypatch, pool, tmp_path / "one", per_device_train_batch_size=64, num_generations=64, max_steps=2, selection=selection
    )
    first = [[row["problem_id"] for row in run_.table("prompts").to_pylist()][:1] for run_ in (one, run)]
    if selection == "thompson":  # before any verdict; probes are drawn by each process on its own
        assert first[0] == first[1]
    assert all(row["selected_at_pass_rate"] is not None for row in rows)
    assert read_run(tmp_path / "two").manifest["state"] == "finished"
