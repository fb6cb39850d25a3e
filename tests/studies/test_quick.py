"""The quick study: the same arm from two starts of about the same pass rate, and what is left of it without both."""

import pytest
from made_runs import make_run, two_starts

from bitsample_llm.report.runs import arms_of
from eval.studies.quick.__main__ import matched_gains_bits, quick_study


def test_a_start_that_absorbs_more_at_the_same_pass_rate_is_told_from_the_other(tmp_path):
    study = quick_study(two_starts(tmp_path), "test")
    by_text = {claim.text: claim for claim in study.claims}
    contrast = by_text["At about the same mean pass rate, does GRPO absorb the same from the latent and the unacquired start?"]
    assert contrast.verdict.startswith("no, more from the latent start")
    assert contrast.estimate.mean == pytest.approx(8 * 0.252) and contrast.estimate.n == 3
    labels = by_text["At about the same mean pass rate, does SFT absorb the same from the latent and the unacquired start?"]
    assert labels.verdict == "yes, within 0.5 bits" and labels.estimate.mean == 0
    assert "the latent start" in study.sentences[1] and study.title == "Does the pass rate alone predict what RL absorbs?"


def test_matched_gains_leave_out_problems_whose_pass_rates_differ():
    class Measured:
        def __init__(self, before, gains):
            self.log2_before = dict(zip("abc", before, strict=True))
            self.log2_after = {name: value + gain for (name, value), gain in zip(self.log2_before.items(), gains, strict=True)}

    first, second = Measured([-3.0, -3.0, -3.0], [1.0, 2.0, 10.0]), Measured([-3.1, -2.9, -8.0], [0.0, 0.5, 7.0])
    assert matched_gains_bits(first, second, 1.25) == (1.5, 0.25, 2)
    assert matched_gains_bits(first, second, 1.01) is None


def test_without_both_starts_the_page_is_the_comparison_alone(tmp_path):
    runs = [make_run(tmp_path, "latent", "sft", "sft", seed, 1.0, tags={"reason": "latent"}) for seed in (1, 2)]
    study = quick_study(arms_of(runs), "test")
    assert study.claims == [] and study.title == "Bits per FLOP, SFT and RL"
