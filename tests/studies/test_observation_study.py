"""The study of observations: forms against simulation, runs whose prices and paths are known, and its teacher's program."""

import itertools
import json
import math
import runpy
import sys

import numpy as np
import pytest
from conftest import BASE, REPOSITORY
from test_real_models import ran

from bitsample_llm.records import read_run
from bitsample_llm.report import remedies
from bitsample_llm.report.paths import OptimizerPath, optimizer_path, pack_paths, path_factor, read_paths
from bitsample_llm.report.prices import HALF, PricedRun, pack_prices
from eval.studies.observation.__main__ import OFFERED_FILE, observation_study, read
from eval.studies.observation.claims import ROW, SPOKEN, Found, bits_exponent, live_share, predicted_factor

P = math.log2(0.01)
RATE, PATH, BATCH = 3e-4, 3e-3, 2
FLOPS_PER_LIVE = {
    "verdict": 1e9,
    "verdict_pairs": 1e9,
    "place": 5e8,
    "place_and_digit": 1e8,
    "answer": 2e8,
    "label": 1e8,
    "teacher": 5e8,
    "reinforce": 1e9,
}
BITS = {"verdict": 0.1, "first_error": 0.8, "first_error_label": 3.2, "answer": 6.4}


def simulated_share(arm: str, rates: np.ndarray, group: int) -> float:
    """The live share of a group, summed over all places where its rollouts may go wrong."""
    reached = np.cumprod([1.0, *rates])
    chance = [*(reached[:-1] * (1 - rates)), reached[-1]]  # the last place: a pass
    share = 0.0
    for places in itertools.product(range(len(chance)), repeat=group):
        passes = [place == len(rates) for place in places]
        is_live = {
            "verdict": len(set(passes)) > 1,
            "reinforce": any(passes),
            "place": len(set(places)) > 1,
            "place_and_digit": not all(passes),
            "answer": True,
        }[arm]
        share += is_live * math.prod(chance[place] for place in places)
    return share


@pytest.mark.parametrize(
    ("arm", "group"), itertools.product(["verdict", "reinforce", "place", "place_and_digit", "answer"], [2, 3])
)
def test_live_shares_are_those_of_an_enumeration(arm, group):
    rates = np.array([0.3, 0.8, 0.5])
    assert live_share(arm, rates, group) == pytest.approx(simulated_share(arm, rates, group))


def made_run(rung: str, model: str, arm: str, seed: int) -> tuple[PricedRun, OptimizerPath]:
    """A run that has half of the bits after the same path as any other, at FLOPs of its arm; a reply only loses."""
    flops = np.array([0.0, *np.geomspace(5e7, 6e10, 60)])
    live = flops / FLOPS_PER_LIVE.get(arm, 1e9)
    gained = -0.5 * live / live.max() if "reply" in arm else np.minimum(0.5 * RATE * live / PATH * (1 + 0.01 * seed), 0.97)
    log2_p = P * (1 - gained)
    about = {
        "tags": {"rung": rung, "model": model, "reason": "latent" if "latent" in rung else "unacquired"},
        "settings": {"learning_rate": RATE, "per_device_train_batch_size": BATCH, "num_generations": 2},
    }
    amounts = {"updates": live.tolist(), "samples": live.tolist(), "flops": flops.tolist()}
    state = {"log2_p": log2_p.tolist(), "pass_rate": (2**log2_p).tolist(), "kl_bits": [1.0] * len(flops), "gains_elsewhere": {}}
    run = PricedRun(f"{rung} {model}", arm, seed, log2_p_before=[P] * 4, flop_budget=6e10, **about, **amounts, **state)
    drawn = 0.0 if arm == "label" else 1e9
    spent = {"prefill": drawn, "decode": drawn, "train_forward": 2e9, "train_backward": 4e9}
    path = OptimizerPath(rung, model, arm, seed, [int(value) for value in live], spent, 100, [[P / 2, P / 2]] * 4)
    return run, path


@pytest.fixture
def found():
    cells = itertools.product(["latent G", "unacquired 0.3"], ["base", "rungs2"], SPOKEN, [1, 2])
    runs, paths = zip(*(made_run(*cell) for cell in cells), strict=True)
    told = {"essay": BITS, "belief": BITS}
    offered = {(rung, model): told for rung, model in {(run.rung, run.model) for run in runs}}
    return Found(runs, SPOKEN, dict.fromkeys(SPOKEN, "verdict"), paths=paths, offered=offered)


def test_factor_path_and_exponent_are_those_that_the_runs_were_made_of(found):
    saved = found.factor("latent G", "answer", HALF).estimate
    assert saved.mean == pytest.approx(5.0, rel=0.05)
    assert bits_exponent(found, "latent G", "answer").mean == pytest.approx(math.log(saved.mean) / math.log(64))
    assert path_factor(found, "latent G", "answer", "verdict_pairs").estimate.mean == pytest.approx(1.0, rel=0.15)  # whole updates
    # 2e7 FLOPs per rollout, updates are equal, so that the rest is how often one is live
    shares = {
        arm: [live_share(arm, 2 ** (np.full(2, P / 2) * (1 - step)), 2) for step in (np.arange(64) + 0.5) / 128] for arm in ROW
    }
    live = {arm: found.path(found.of("latent G", arm)[0]).live_updates[-1] for arm in ROW}
    prices = {arm: np.mean([4e7 / share for share in shares[arm]]) + 6e9 / live[arm] for arm in ROW}
    assert predicted_factor(found, "latent G", "place") == pytest.approx(prices["verdict"] / prices["place"])


def test_the_page_tells_what_follows_the_bits_and_what_the_path(found, tmp_path, monkeypatch):
    monkeypatch.setattr(remedies.factor, "__defaults__", (0, 300))  # draws of a bootstrap
    pack_prices(found.runs, tmp_path)
    pack_paths(found.paths, tmp_path)
    lines = [{"rung": rung, "model": model, **told} for (rung, model), told in found.offered.items()]
    (tmp_path / OFFERED_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = read([str(tmp_path)])
    assert again.runs == list(found.runs) and again.paths == list(found.paths)
    page = observation_study(again, "a command")
    verdicts = {(claim.text, claim.statistic.split(":")[0]): claim.verdict for claim in page.claims}
    assert verdicts["Does it save FLOPs: the right answer afterwards?", "latent G"] == "yes"
    assert verdicts["Is the optimizer's path that of the verdict: labels without rollouts?", "latent G"] == "yes, within 2"
    assert (
        verdicts["Do FLOPs fall as offered bits rise (the right answer afterwards: 64 times the bits)?", "latent G"]
        == "no, less than the bits"
    )
    assert verdicts["Does the next of the row save more: the right answer afterwards?", "latent G"] == "no, it costs more"
    assert verdicts["Does it change the attempt: reply to predict: verdict?", "latent G"] == "yes, for the worse"
    assert verdicts["Does the right answer afterwards gain more than the verdict?", "unacquired 0.3"].startswith(("no", "yes"))
    for picture in page.all_pictures:
        picture.draw().savefig(tmp_path / f"{picture.name}.png")
    assert all(len(row) == len(table.rows[0]) for table in (page.table, *page.tables) for row in table.rows)


SMALL = {
    "mark": "G",
    "difficulty": 2,
    "answer_format": "reversed",
    "num_train_problems": 64,
    "num_heldout_problems": 8,
    "disable_tqdm": "true",
}


def test_the_path_of_a_run_counts_the_updates_that_were_made(monkeypatch, tmp_path):
    words = {
        "arm": "verdict",
        "tags": "rung=latent",
        "skip_dead_updates": "true",
        "per_device_train_batch_size": 4,
        "num_generations": 4,
    }
    words |= {"max_steps": 8, "max_completion_length": 4, "flop_budget": 1e12, "first_evaluation_flops": 1e8}
    run = ran(monkeypatch, "grpo", BASE, tmp_path / "run", **SMALL | words)
    run.manifest["tags"]["model"] = "base"
    path = optimizer_path(run)
    passed = [[row["passed"] for row in run.table("rollouts").to_pylist() if row["step"] == step] for step in range(1, 9)]
    assert path.live_updates[-1] == sum(len(set(of_step)) > 1 for of_step in passed) < 8
    assert sum(path.flops.values()) == run.steps[-1]["flops/total"] and len(path.token_log2_p) == 8
    with pytest.raises(KeyError):
        read_paths([tmp_path])  # no run of a study


@pytest.mark.parametrize("other", [False, True])
def test_a_teacher_is_charged_and_teaches(monkeypatch, tmp_path, other):
    program = REPOSITORY / "eval" / "studies" / "observation" / "make_distilled.py"
    options = SMALL | {"max_steps": 12, "learning_rate": 3e-4, "per_device_train_batch_size": 16, "save_strategy": "no"}
    options |= {"teacher": BASE, "mark": "A"} if other else {"num_generations": 2}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [str(program), "--config", str(program.with_suffix(".yaml")), "--output_dir", str(tmp_path / "run"), *words]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.chdir(REPOSITORY)
    runpy.run_path(str(program), run_name="__main__")
    run = read_run(tmp_path / "run")
    assert run.manifest["trainer"] == ("DistillationTrainer" if other else "SDFTTrainer")
    assert run.steps[-1]["flops/score_reference"] > 0 and run.steps[-1]["samples/total"] == 12 * 16
    offered = [line["bits/offered_per_sample"] for line in run.steps]
    if other:
        assert max(offered) < 0.1  # both are the same model
    else:
        assert offered[0] > 3 and offered[-1] < 0.5 * offered[0]
