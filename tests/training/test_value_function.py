"""The value function: thresholds and learning from numbers, and recipes whose rollouts end by it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import BASE
from test_processes import launched
from test_real_models import ran

from bitsample_llm.records import RecordError, read_run
from bitsample_llm.records.added_files import VALUES_FILE
from bitsample_llm.training.value_function import (
    FEWEST_PASSES,
    MOST_LOST,
    StopAtLowValue,
    ValueFunction,
    best_threshold,
    ends_after,
)
from bitsample_llm.training.value_record import ValueRecord

RISING = np.array([0.3, 0.5, 0.9])  # values before three tokens of a rollout that passes
FALLING = np.array([0.3, 0.1, 0.1])


def test_the_threshold_ends_what_fails_and_keeps_what_passes():
    values, passed = [RISING] * 20 + [FALLING] * 60, [True] * 20 + [False] * 60
    assert 0.1 < best_threshold(values, passed, num_prompt_tokens=4, group_size=8) <= 0.3
    # a long prompt makes tokens worth little, and they are still worth something
    assert 0.1 < best_threshold(values, passed, num_prompt_tokens=1000, group_size=8) <= 0.3


def test_nothing_ends_where_too_little_is_known_or_nothing_fails():
    few = [RISING] * (FEWEST_PASSES - 1) + [FALLING] * 60
    assert best_threshold(few, [True] * (FEWEST_PASSES - 1) + [False] * 60, 4, 8) == 0
    assert best_threshold([RISING] * 64, [True] * 64, 4, 8) == 0  # no group would be informative


@pytest.mark.parametrize("num_low", [2, 30])
def test_few_passes_are_lost(num_low):
    """Where passes look like fails no threshold ends them, but for a few."""
    values, passed = [RISING] * (60 - num_low) + [FALLING] * (num_low + 60), [True] * 60 + [False] * 60
    threshold = best_threshold(values, passed, 4, 8)
    lost = sum(of_rollout.min() < threshold for of_rollout, is_pass in zip(values, passed, strict=True) if is_pass)
    assert lost <= MOST_LOST * 60
    assert (threshold > 0) == (num_low == 2)


def told_value_function(num: int = 40) -> ValueFunction:
    """Of rollouts whose first hidden unit says whether they pass, from their second token on."""
    torch.manual_seed(0)
    value_function = ValueFunction(4, "cpu")
    for number in range(num):
        hidden_TD = torch.randn(3, 4)
        hidden_TD[1:, 0] = 3.0 if number % 4 == 0 else -3.0
        hidden_TD[0, 0] = 0.0
        value_function.tell([hidden_TD], [number % 4 == 0])
    return value_function


def test_the_head_learns_what_tells_and_the_rate_where_nothing_does():
    value_function = told_value_function()
    value_function.learn()
    assert value_function.flops == 6 * 32 * 3 * 4 * 10  # ten updates on 32 rollouts of three tokens
    value_function.threshold(4, 8)
    assert value_function.flops == 6 * 32 * 3 * 4 * 10 + 2 * 40 * 3 * 4  # asked of all 40
    for _ in range(40):
        value_function.learn()
    hidden_ND = torch.tensor([[3.0, 0, 0, 0], [-3.0, 0, 0, 0], [0.0, 0, 0, 0]])
    high, low, middle = value_function.values(hidden_ND).tolist()
    assert high > 0.95 and low < 0.05 and middle == pytest.approx(0.25, abs=0.15)


def test_a_saved_value_function_goes_on_as_it_would_have(tmp_path):
    first, second = told_value_function(), ValueFunction(4, "cpu")
    for _ in range(3):
        first.learn()
    first.save(tmp_path)
    second.load(tmp_path)
    for value_function in (first, second):
        value_function.tell([torch.ones(2, 4)], [True])
        value_function.learn()
    assert torch.equal(first.head.weight, second.head.weight) and first.threshold(4, 8) == second.threshold(4, 8)
    assert [passed for _, passed in first.history] == [passed for _, passed in second.history]
    with pytest.raises(RecordError, match="of a run without a value function"):
        second.load(tmp_path / "elsewhere")


def test_rows_are_ended_below_the_threshold_but_for_those_that_run_on():
    module = torch.nn.Linear(4, 4)
    value_function = told_value_function()
    for _ in range(40):
        value_function.learn()
    criterion = StopAtLowValue(SimpleNamespace(base_model=module), value_function, 0.5, [True, False, False])
    criterion._note(None, (), SimpleNamespace(last_hidden_state=torch.tensor([[[-3.0, 0, 0, 0]]] * 2 + [[[3.0, 0, 0, 0]]])))
    assert criterion(None, None).tolist() == [False, True, False]
    criterion.tell_rows(torch.tensor([0, 2]))  # the second row has left the batch
    criterion._note(None, (), SimpleNamespace(last_hidden_state=torch.tensor([[[3.0, 0, 0, 0]], [[-3.0, 0, 0, 0]]])))
    assert criterion(None, None).tolist() == [False, True]
    assert [len(values) for values in criterion.values] == [2, 1, 2]
    criterion.detach()
    assert not module._forward_hooks
    control = StopAtLowValue(SimpleNamespace(base_model=module), value_function, 0.5, [False, False, True], [1, 2, 1])
    control._note(None, (), SimpleNamespace(last_hidden_state=torch.tensor([[[3.0, 0, 0, 0]]] * 3)))
    assert control(None, None).tolist() == [True, False, False]  # whatever their values are


def test_others_end_where_their_values_fall_below_the_threshold():
    assert [ends_after(values, 0.2) for values in (RISING, FALLING)] == [None, 2]
    value_function = told_value_function(400)
    for _ in range(40):
        value_function.learn()
    drawn = value_function.ends_of_others(0.1, 1000)  # three quarters fail, and show it before their second token
    assert drawn.count(2) == pytest.approx(750, abs=60) and drawn.count(np.inf) == 1000 - drawn.count(2)
    assert drawn == value_function.ends_of_others(0.1, 1000) != value_function.ends_of_others(0.1, 1000, process=1)


def test_a_record_drops_what_a_resumed_run_draws_again(tmp_path):
    record = ValueRecord(tmp_path / VALUES_FILE, max_tokens=10)
    for step in (0, 1, 1, 2):  # a batch without an update is generated at the same step
        record.add(step, 0.25, [([0.5] * 9, None, True), ([0.2, 0.1, 0.1], 1, False)])
    with (tmp_path / VALUES_FILE).open("a") as file:
        file.write('{"step": 2, "thre')  # a kill in the middle of a line
    record.load(tmp_path / "checkpoint-2")
    lines = [json.loads(line) for line in (tmp_path / VALUES_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 1]
    assert lines[0] == {
        **{"step": 0, "threshold": 0.25, "passed": [True, False], "num_tokens": [9, 3], "ends_after": [None, 1]},
        "values": [[0.5, 0.5, None], [0.2, None, None]],
    }


SCRATCHPAD = {
    **{"task": "multiplication", "answer_format": "scratchpad", "difficulty": 3, "mark": "E", "num_train_problems": 128},
    **{"num_heldout_problems": 4, "num_eval_rollouts": 2, "max_completion_length": 48, "per_device_train_batch_size": 32},
    **{"num_generations": 8, "learning_rate": 3e-5, "disable_tqdm": "true"},
}


@pytest.mark.slow
def test_ended_rollouts_save_tokens_fail_and_are_none_of_those_that_run_on(monkeypatch, tmp_path):
    start = BASE.parent / "base_scratchpad"
    runs = {
        value: ran(monkeypatch, "grpo", start, tmp_path / value, **SCRATCHPAD | {"max_steps": 30, "stop_at_low_value": value})
        for value in ("false", "true")
    }
    plain, run = runs["false"].steps[-1], runs["true"].steps[-1]
    assert run["flops/decode"] < 0.95 * plain["flops/decode"]
    assert run["flops/reward_model"] > 0 == plain["flops/reward_model"]
    assert run["flops/reward_model"] < 0.01 * run["flops/total"]  # what the head costs
    rows = runs["true"].table("rollouts").to_pylist()
    ended_early = [row for row in rows if not row["ended"] and row["num_tokens"] < 48]
    assert len(ended_early) > 50
    assert not any(row["passed"] for row in ended_early)
    assert {row["sample"] for row in ended_early} == set(range(2, 8))  # a quarter of each group runs on
    assert json.loads((runs["true"].run_dir / "manifest.json").read_text())["arm"] == "grpo_stop_at_low_value"


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"trainer": "rloo"}, {"use_peft": "true"}, {"value_baseline": "true"}, {"stop_as_others": "true"}], ids=str
)
def test_a_run_with_a_value_function_resumes(monkeypatch, tmp_path, options):
    options = SCRATCHPAD | options | {"stop_at_low_value": "true", "save_strategy": "steps", "save_steps": 3}
    start = BASE.parent / "base_scratchpad"
    whole = ran(monkeypatch, "grpo", start, tmp_path / "whole", max_steps=5, **options)
    ran(monkeypatch, "grpo", start, tmp_path / "cut", max_steps=3, **options)
    manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
    (tmp_path / "cut" / "manifest.json").write_text(json.dumps(manifest | {"state": "running"}))
    cut = ran(monkeypatch, "grpo", start, tmp_path / "cut", max_steps=5, resume_from_checkpoint="last", **options)
    noted = [(run.run_dir / VALUES_FILE).read_text().splitlines() for run in (whole, cut)]
    assert [json.loads(line)["step"] for line in noted[0]] == [0, 1, 2, 3, 4] and noted[0] == noted[1]
    texts = [[row["text"] for row in run.table("rollouts").to_pylist()] for run in (whole, cut)]
    assert len(texts[0]) == 5 * 32 and texts[0] == texts[1]
    assert cut.steps[-1]["flops/total"] == pytest.approx(whole.steps[-1]["flops/total"], rel=1e-6)


@pytest.mark.slow
def test_two_processes_learn_one_value_function(tmp_path):
    options = {"max_completion_length": 5, "num_generations": 64, "stop_at_low_value": "true", "value_baseline": "true"}
    run, _ = launched("grpo", "two_cpus", tmp_path / "two", **options)
    assert read_run(tmp_path / "two").manifest["state"] == "finished"
    assert run.steps[-1]["flops/reward_model"] > 0
    assert len(run.table("rollouts").to_pylist()) == 3 * 64
    lines = [json.loads(line) for line in (tmp_path / "two" / VALUES_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2] and all(len(line["passed"]) == 64 for line in lines[:1])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"stop_at_low_value": "true", "trainer": "reinforce"}, "needs --trainer grpo or rloo, got reinforce"),
        ({"value_baseline": "true", "reward": "first_error"}, "needs --reward outcome, got first_error"),
        ({"stop_as_others": "true"}, "a control for --stop_at_low_value"),
        ({"stop_at_low_value": "true", "value_run_on": 0}, "--value_run_on must be above 0"),
        ({"stop_at_low_value": "true", "value_run_on": 1.5}, "--value_run_on must be"),
    ],
)
def test_what_has_no_value_function_is_told_in_one_line(recipe, tmp_path, options, told):
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    done = recipe("grpo", *words, "--num_train_problems", 64, "--num_heldout_problems", 4, "--output_dir", tmp_path / "run")
    assert done.returncode in (1, 2)
    assert told in done.stderr and done.stderr.count("\n") == 1, done.stderr[-500:]
