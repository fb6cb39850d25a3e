"""The study of TRL's recipes: runs whose prices are known, the gradients of TRL's losses, and trainers that no recipe has."""

import numpy as np
import pytest
from conftest import BASE
from test_flops import torch_counter

from bitsample_llm.report.prices import HALF, PricedRun, pack_prices, read_prices
from bitsample_llm.scoring.likelihood import exact_pass_rates
from eval.studies.trl_recipes import make_unmetered
from eval.studies.trl_recipes.__main__ import read, recipes_study
from eval.studies.trl_recipes.claims import (
    CHOICES,
    SPOKEN,
    informative,
    over_chance,
    paired_ratios,
    predicted_factor,
    spread_table,
    winners,
)
from eval.studies.trl_recipes.make_gradients import LOSSES, STARTS, cosines
from eval.studies.trl_recipes.make_unmetered import judged_rows, preference_rows
from eval.studies.trl_recipes.pictures import ranking

PRICE = {"groups_of_2": 4e9, "groups_of_32": 3e10, "four_passes": 8e9, "four_passes_cispo": 8e9, "three_times_the_rate": 1e13}
SEEDS = (1, 2, 3)


def made_run(model: str, arm: str, seed: int) -> PricedRun:
    """A run that reaches 90 % of the bits in proportion to its FLOPs, half of them at its price; seeds differ by a few percent."""
    flops = np.array([0.0, *np.geomspace(2e8, 2e11, 120)])
    price = PRICE.get(arm, 1e10) * (1 + 0.02 * seed)
    log2_p = -3.2 * (1 - np.clip(0.5 * flops / price, 0, 0.95))
    about = {
        "tags": {"rung": "latent E", "model": model, "reason": "latent"},
        "settings": {"learning_rate": 3e-4},
        "flop_budget": 2e11,
    }
    amounts = {"updates": (flops / 1e8).tolist(), "samples": (flops / 1e8).tolist(), "flops": flops.tolist()}
    state = {"log2_p": log2_p.tolist(), "pass_rate": (2**log2_p).tolist(), "kl_bits": [None] * len(flops)}
    return PricedRun(f"latent E {model}", arm, seed, log2_p_before=[-3.2] * 4, gains_elsewhere={}, **about, **amounts, **state)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The runs of all arms, those of one packed by themselves."""
    folder = tmp_path_factory.mktemp("record")
    for arm in SPOKEN:
        pack_prices([made_run(model, arm, seed) for model in "ab" for seed in SEEDS], folder / arm)
    return read([str(folder)])


def test_every_arm_is_of_a_choice_and_has_a_name_of_its_own(found):
    assert set(SPOKEN) == {arm for levels in CHOICES.values() for arm in levels} == set(found.arms())
    assert len(set(SPOKEN.values())) == len(SPOKEN)


def test_factors_ranking_and_winners_follow_from_the_prices(found):
    assert found.factor("latent E", "groups_of_2", HALF).estimate.mean == pytest.approx(2.5, rel=0.02)
    assert winners(found, "latent E")[0] == "groups_of_2"
    assert "groups_of_32" not in winners(found, "latent E") and "loss_grpo" not in winners(found, "latent E")
    assert ranking(found, "latent E")[0] == "groups_of_2"
    assert found.factor("latent E", "three_times_the_rate", HALF).text().startswith("<")


def test_chance_explains_what_differs_by_its_seeds_alone_and_not_a_factor_of_two(found):
    assert over_chance(found.runs, list(CHOICES["loss, one pass"]), "latent E") > 0.9
    assert over_chance(found.runs, list(CHOICES["group size"]), "latent E") < 0.05
    assert over_chance(found.runs, list(CHOICES["learning rate"]), "latent E") is None
    assert paired_ratios(found, "latent E", "groups_of_2") == pytest.approx([2.5] * 6, rel=0.02)
    assert paired_ratios(found, "latent E", "three_times_the_rate") == []
    rows = {row[1]: row for row in spread_table(found).rows}
    assert rows["group size"][3:5] == ["2", "32"] and rows["group size"][5] == "7.5"
    assert rows["learning rate"][5].startswith("> ") and rows["learning rate"][6] == "–"


def test_the_closed_form_waits_for_a_group_with_both_verdicts():
    assert informative(np.array(0.5), 2) == pytest.approx(0.5)
    assert informative(np.array(0.1), 8, has_baseline=False) == pytest.approx(1 - 0.9**8)
    factors = [predicted_factor(0.1, f"groups_of_{size}") for size in (2, 4, 16, 32)]
    assert factors == sorted(factors, reverse=True) and factors[0] > 2 and factors[-1] < 0.3
    assert predicted_factor(1e-6, "groups_of_2") == pytest.approx(
        1, rel=0.05
    )  # waiting is all, and a rollout costs the same in any group
    assert predicted_factor(0.1, "reinforce") == pytest.approx(1) and predicted_factor(0.1, "loss_grpo") is None


def test_the_page_says_what_was_found(found):
    study = recipes_study(found, "made")
    verdicts = {claim.text: claim.verdict for claim in study.claims}
    assert verdicts["loss, one pass: cispo: the same price?"] == "yes"
    assert verdicts["group size: 2: does it pay?"] == "yes"
    assert verdicts["group size: 32: does it pay?"] == "no, it costs more"
    assert verdicts["learning rate: three times: does it pay?"].startswith("undecided: no price (<")
    assert "groups_of_2" in study.results["intervals"]["latent E"]["above 1"]
    for picture in study.all_pictures:
        assert picture.draw().axes


def test_losses_have_nearly_one_gradient_at_the_first_pass_and_part_later():
    passes = cosines(STARTS["short answers"], seed=0, num_groups=4)
    first, last = passes[0], passes[-1]
    assert set(first) == set(LOSSES) and first["dapo"] == pytest.approx((1, 1))
    assert min(cosine for cosine, _ in first.values()) > 0.98
    for loss in ("cispo", "dr_grpo", "bnpo", "vespo", "luspo"):  # a constant times dapo's, as long as no ratio has moved
        assert first[loss][0] > 0.998
    assert first["cispo"][1] == pytest.approx(0.2, rel=1e-3)  # TRL's default clamps every weight to epsilon
    assert last["cispo"][0] < 0.95


PROBLEM = type("Problem", (), {"prompt": "E1+2<"})()


def test_pairs_hold_every_rollout_of_a_group_with_both_verdicts():
    group = [(PROBLEM, text, passed) for text, passed in (("3", True), ("4", False), ("5", False), ("6", False))]
    dead = [(PROBLEM, "7", False)] * 4
    rows = preference_rows([group, dead])
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("3", "4"), ("3", "5"), ("3", "6")]
    assert judged_rows([dead]) == [] and len(judged_rows([group, dead])) == 8


@pytest.mark.parametrize("trainer", ["dpo", "kto", "online_dpo", "gmpo"])
def test_a_trainer_that_no_recipe_has_is_charged_for_all_that_ran_but_the_evaluations(trainer, tmp_path, monkeypatch):
    settings = {
        **{"model_name_or_path": str(BASE), "mark": "C", "difficulty": 2, "tags": {"reason": "latent"}, "trainer": trainer},
        **{"num_train_problems": 32, "num_heldout_problems": 8, "problem_seed": 0, "max_completion_length": 4, "target_share": 0.9},
        **{
            "num_generations": 4,
            "groups_per_round": 2,
            "num_iterations": 1,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-4,
        },
        **{"first_evaluation_flops": 1e8, "num_evaluations": 4, "flop_budget": 1.5e9},
    }
    evaluations = []

    def counted_rates(*args):
        with torch_counter() as counter:
            rates = exact_pass_rates(*args)
        evaluations.append(counter.get_total_flops())
        return rates

    monkeypatch.setattr(make_unmetered, "exact_pass_rates", counted_rates)
    with torch_counter() as counter:
        done = make_unmetered.run("latent C", trainer, 1, settings)
    assert done.flops[-1] == pytest.approx(counter.get_total_flops() - sum(evaluations), rel=0.02)
    assert done.flops[0] == 0 and done.flops[-1] >= 1.5e9 and done.flops == sorted(set(done.flops))
    assert done.log2_p[-1] != done.log2_p[0] and done.samples[-1] > 0 and done.updates[-1] > 0
    pack_prices([done], tmp_path)
    assert read_prices([tmp_path])[0].flops == done.flops
