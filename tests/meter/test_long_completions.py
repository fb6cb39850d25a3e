"""Completions of tens of thousands of tokens: recorded, priced, and no dearer in memory than the run itself."""

import pytest
from benchmark_long import measured, own_flops, update
from test_flops import torch_counter

from bitsample_llm.records import read_run
from bitsample_llm.scoring.prompt_states import PromptStates

LENGTH = 300


def test_flops_of_completions_that_never_end_are_those_of_own_arithmetic_and_of_torch(tmp_path):
    with torch_counter() as true:
        meter = update(LENGTH, tmp_path, {}, attention="eager")
    own = own_flops(LENGTH)
    assert {phase: meter.cumulative[f"flops/{phase}"] for phase in own} == pytest.approx(own, rel=1e-12)
    assert meter.total_flops + meter.cumulative["flops/evaluation"] == pytest.approx(true.get_total_flops(), rel=0.02)


def test_texts_can_be_left_out_and_nothing_else_changes(tmp_path):
    kept, left_out = (tmp_path / name for name in ("kept", "left_out"))
    update(LENGTH, kept, {})
    update(LENGTH, left_out, {"texts": False})
    rows = [read_run(folder / "run").table("rollouts").to_pylist() for folder in (kept, left_out)]
    assert [row.pop("text") for row in rows[1]] == [None, None] and all(len(row.pop("text")) > LENGTH for row in rows[0])
    assert rows[0] == rows[1] and rows[0][0]["num_tokens"] == LENGTH


def test_of_what_a_generation_computed_only_what_an_answer_is_scored_from_is_kept(tmp_path, monkeypatch):
    kept, original = [], PromptStates.logprobs

    def looked_at(states, model, spelled):
        kept.extend(len(generation.passes) for generation in states._generations)
        return original(states, model, spelled)

    monkeypatch.setattr(PromptStates, "logprobs", looked_at)
    update(LENGTH, tmp_path, {})
    assert kept == [1]  # of LENGTH: the answer is a word and its end


@pytest.mark.long
def test_completions_of_32000_tokens_are_recorded_and_take_no_more_memory():
    without, metered = (measured(variant, 32000) for variant in ("without", "with all records"))
    assert metered["flops_over_own"] == pytest.approx(dict.fromkeys(own_flops(1), 1.0), rel=1e-9)
    assert [row["num_tokens"] for row in metered["rollouts"]] == [32000, 32000]
    assert all(row["surprisal_bits"] > 32000 and not row["ended"] for row in metered["rollouts"])
    assert metered["peak_mb"] < 1.05 * without["peak_mb"]
