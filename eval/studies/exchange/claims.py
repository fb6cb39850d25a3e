"""The questions of README.md, with what came out."""

from collections.abc import Sequence

import numpy as np

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import number_text, over_seeds
from bitsample_llm.report.gains import Rung, gain_of_labels
from eval.studies.exchange.matched import Matched
from eval.studies.exchange.rates import (
    as_many,
    bracketed_worth,
    gains_of_passes,
    head_start,
    labels_per_pass,
    models_of,
    over_models,
    rate_estimate,
    worth_estimate,
)

FROM = {"latent": "a latent start", "gates": "a start of several gates", "unacquired": "an unacquired start"}
SAME = 1.25  # within this factor two prices count as the same
WITHIN = Answers(f"no, more than {SAME} times", f"yes, within a factor of {SAME}", f"no, less than 1/{SAME}")
TOO_FEW = "fewer than 2 pretraining seeds"
ENOUGH = {"latent": 0.5, "unacquired": 0.1}  # share of the bits that one label was to gain at least, or at most
SPOKEN = {"kto": "KTO", "dpo": "DPO", "verdict_likelihood": "Verdict likelihood", "grpo": "Off-policy GRPO"}


def worth_claim(rungs: Sequence[Rung], reason: str) -> Claim:
    """Is a pass worth a label, at one setting?"""
    return _worth_claim(rungs, reason, bracketed_worth, "at one setting")


def _worth_claim(rungs: Sequence[Rung], reason: str, worth_of, how: str) -> Claim:
    missing = "at one pretraining seed or more nothing is bracketed: more labels do not gain more, or passes nothing"
    text, statistic = f"{reason}: is a pass worth a label?", f"labels per pass, {how}, factor {SAME}"
    return judged(text, statistic, worth_estimate(rungs, worth_of), (1 / SAME, SAME), WITHIN, 2, missing)


def share_claim(rungs: Sequence[Rung], reason: str) -> Claim:
    """What share of the available bits does one label gain?"""
    by_model = [
        [gain_of_labels(rung, 1, model) / rung.available_bits[model] for rung in rungs if asked(rung, model)]
        for model in models_of(rungs)
    ]
    share = over_seeds([float(np.mean(shares)) for shares in by_model if shares])
    text = f"{reason}: what share of the available bits does one label gain?"
    statistic = f"mean over {'rungs below p = .5' if reason == 'latent' else 'all rungs'}"
    level = ENOUGH[reason]
    return judged(text, statistic, share, (level, level), Answers(f"more than {level:g}", "", f"less than {level:g}"), 2, TOO_FEW)


def matched_claims(matched: Sequence[Matched]) -> list[Claim]:
    """The same of one label where both starts of a pair are asked problems of the same pass rates."""
    claims = []
    for row in matched:
        for rung, other, share in zip(row.rungs, reversed(row.rungs), row.shares, strict=True):
            level = ENOUGH[rung.split()[0]]
            if row.n == 1:
                text = f"{rung}, on problems matched with {other}: what share of the available bits does one label gain?"
                answers = Answers(f"more than {level:g}", "", f"less than {level:g}")
                claims.append(judged(text, f"share; {level:g}", share, (level, level), answers, 2, TOO_FEW))
    return claims


def asked(rung: Rung, model: str) -> bool:
    """Whether the prediction on one label is about this start: a latent one below a half, or any unacquired one."""
    return model in rung.pass_rate and (rung.reason == "unacquired" or rung.pass_rate[model] < 0.5)


def claims_of_reason(rungs: Sequence[Rung], reason: str) -> list[Claim]:
    """What is asked of all starts of a reason together."""
    claims = [worth_claim(rungs, reason), _worth_claim(rungs, reason, labels_per_pass, "read off the labels' curve")]
    for gains, how in ((as_many, "at the same setting"), (gains_of_passes, "interpolated")):
        ratio = over_models(rungs, gains)
        statistic = f"gain of K passes over the gain of K random labels, {how}, all cells, factor {SAME}"
        if ratio.mean is not None:
            text = f"{reason}: do K passes gain what K labels gain?"
            claims.append(judged(text, statistic, ratio, (1 / SAME, SAME), WITHIN, 2, TOO_FEW))
    return [*claims, share_claim(rungs, reason)] if reason in ENOUGH else claims


def claims_of_rung(rung: Rung) -> list[Claim]:
    """What is asked of one rung."""
    claims = []
    estimate = rate_estimate(rung, lambda model: 1 / rung.pass_rate[model])
    statistic = f"rollouts to the gain of one label, times p, factor {SAME}"
    if estimate.mean is not None:
        text = f"{rung.name}, p = {number_text(rung.mean_pass_rate)}: is the exchange rate 1/p?"
        claims.append(judged(text, statistic, estimate, (1 / SAME, SAME), WITHIN, 2, TOO_FEW))
    answers = Answers("yes", f"no, less than {SAME} times ahead", f"no, less than {SAME} times ahead")
    rounds = sorted({run.rounds for runs in rung.runs.values() for run in runs if run.rounds})
    spoken = {(arm, None): name for arm, name in SPOKEN.items()}
    spoken |= {("passes_in_rounds", num): f"SFT on passes drawn in {num} rounds" for num in rounds}
    for (arm, num), name in spoken.items():
        ahead = head_start(rung, arm, num)
        if ahead.mean is not None:
            text = f"{rung.name}: does {name} learn more than SFT on the passes?"
            statistic = f"rollouts that the passes need for its gain, over its own, threshold {SAME}"
            claims.append(judged(text, statistic, ahead, (SAME, SAME), answers, 2, TOO_FEW))
    if controls := [run for n in rung.sizes("wrong_labels") for run in rung.runs["wrong_labels", n]]:
        by_model = [[run.gain_bits for run in controls if run.model == model] for model in models_of([rung])]
        gained = over_seeds([float(np.mean(gains)) for gains in by_model if gains])
        answers = Answers("yes", "no, at most .1 bit", "no, at most .1 bit")
        text = f"{rung.name}: do wrong labels gain anything?"
        claims.append(judged(text, "bits, threshold .1", gained, (0.1, 0.1), answers, 2, TOO_FEW))
    return claims


def claims_of(rungs: Sequence[Rung]) -> list[Claim]:
    """All of them: by reason, then by rung."""
    by_reason = {reason: of_reason for reason in FROM if (of_reason := [rung for rung in rungs if rung.reason == reason])}
    together = [claim for reason, of_reason in by_reason.items() for claim in claims_of_reason(of_reason, reason)]
    return together + [claim for rung in rungs for claim in claims_of_rung(rung)]
