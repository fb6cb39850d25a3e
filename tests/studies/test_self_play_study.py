"""The study of self-play: what is read of proposals, shares near a half, the page of made runs and of the packed record."""

import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from bitsample_llm.report.asked import Asked, asked_in, pack_asked, read_asked
from bitsample_llm.report.prices import HALF, PricedRun, pack_prices
from eval.studies.self_play.__main__ import read, self_play_study
from eval.studies.self_play.asked import share_near_half
from eval.studies.self_play.claims import SPOKEN

PRICE = {
    "target": 8e9,
    "uniform": 4e9,
    "thompson": 4e9,
    "bandit": 4e9,
    "exact_half": 2e9,
    "self_play": 8e9,
    "self_play_untrained": 10e9,
}


def made_run(model: str, arm: str, seed: int) -> PricedRun:
    """A run whose gain grows with the log of its FLOPs, and reaches half of the bits at the arm's price."""
    flops = np.array([0.0, *np.geomspace(1e8, 2e11, 60)])
    gained = np.clip(0.5 + 0.2 * np.log(np.maximum(flops, 1) / (PRICE[arm] * (1 + 0.01 * seed))), 0, 0.95)
    log2_p = math.log2(0.01) * (1 - gained)
    amounts = {"updates": (flops / 1e8).tolist(), "samples": (flops / 1e8).tolist(), "flops": flops.tolist()}
    state = {"log2_p": log2_p.tolist(), "pass_rate": (2**log2_p).tolist(), "kl_bits": [None] * len(flops)}
    about = {
        "tags": {"rung": "latent G", "model": model, "reason": "latent"},
        "settings": {"learning_rate": 1e-4},
        "flop_budget": 2e11,
    }
    return PricedRun("latent G", arm, seed, log2_p_before=[math.log2(0.01)] * 4, gains_elsewhere={}, **about, **amounts, **state)


def made_rows(model: str, arm: str, seed: int) -> list[Asked]:
    """Forty updates, near a half in every fourth from the 31st on."""
    rows = []
    for step in range(1, 41):
        pass_rate = 0.5 if step > 30 and step % 4 == 0 else 0.9
        is_play = arm.startswith("self_play")
        rows.append(Asked(arm, model, seed, step, step * 1e9, "asked", f"C{step + 10}+11<" if is_play else None, pass_rate))
        if is_play:
            rows.append(Asked(arm, model, seed, step, step * 1e9, "invalid", "C1", None))
    return rows


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The runs of a packed record."""
    folder = tmp_path_factory.mktemp("record")
    cells = [(model, arm, seed) for model in "ab" for arm in PRICE for seed in (1, 2, 3)]
    pack_prices([made_run(*cell) for cell in cells], folder)
    pack_asked([row for cell in cells for row in made_rows(*cell)], folder)
    return read([folder])


def test_the_page_says_what_was_saved_and_whether_the_pass_rate_was_held(found):
    assert found.remedies.factor("latent G", "self_play", HALF, "uniform").estimate.mean == pytest.approx(0.5, rel=0.02)
    assert share_near_half(found.asked, "self_play", (31, 40)).mean == pytest.approx(0.3)
    assert share_near_half(found.asked, "self_play", (1, 10)).mean == 0
    study = self_play_study(found, "made")
    verdicts = {claim.text: claim.verdict for claim in study.claims}
    assert verdicts["Does self-play save FLOPs compared with the pool in turn?"] == "no"
    assert (
        verdicts["Does it pay to train the proposer?"].startswith("no difference")
        or "undecided" in verdicts["Does it pay to train the proposer?"]
    )
    assert verdicts["Does the exact choice need less than half of what self-play needs?"] == "yes"
    assert verdicts["Do the proposals stay near a half (self-play)?"] == "no"
    assert [row[1] for row in study.table.rows[1:]] == list(SPOKEN.values())
    proposals = next(table for table in study.tables if table.title == "What became of the proposals")
    assert proposals.rows[1] == ["self-play", "1 to 10", "120", "50.0%", "0.0%", "50.0%", "0.0%", "0.0%", "16.7%", "100.0%"]
    for picture in study.all_pictures:
        assert picture.draw().axes


def test_proposals_are_joined_with_the_pass_rates_of_their_groups(tmp_path):
    groups = [
        {"step": 1, "problem_id": "proposer", "pass_rate": None},
        {"step": 1, "problem_id": "addition/reversed/C/1+2", "pass_rate": 0.4},
        {"step": 1, "problem_id": "target.jsonl/7", "pass_rate": 0.01},
    ]
    lines = [
        '{"step": 1, "problem_id": "addition/reversed/C/1+2", "text": "C1+2<", "status": "asked", "pass_rate_estimate": 0.5, "reward": 1.0}',
        '{"step": 1, "problem_id": null, "text": "C1", "status": "invalid", "pass_rate_estimate": null, "reward": 0.0}',
    ]
    manifest = {"arm": "self_play", "tags": {"model": "a"}, "seed": 3, "state": "finished"}
    run = SimpleNamespace(
        run_dir=tmp_path,
        manifest=manifest,
        steps=[{"step": 1, "flops/total": 5.0}],
        table=lambda name: pa.Table.from_pylist(groups),
    )
    assert [row.pass_rate for row in asked_in(run)] == [None, 0.4, 0.01]  # without the file all that was asked
    (tmp_path / "proposals.jsonl").write_text("\n".join(lines) + "\n")
    rows = asked_in(run)
    assert [(row.status, row.pass_rate, row.author) for row in rows] == [("asked", 0.4, "C"), ("invalid", None, None)]
    pack_asked(rows, tmp_path)
    assert read_asked([tmp_path]) == rows
