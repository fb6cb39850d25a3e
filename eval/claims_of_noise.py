"""Claims 4 and 5: whose gradients are noisy, and when. See `claims.py`."""

import math

from eval.ladder import WORDS, Ladder, judged, not_run

LOW_PASS_RATE = 0.1  # claim 4: early


def ratio_of_estimates(first: dict, second: dict) -> dict:
    """first / second with the interval that both intervals allow; as wide as if they erred together."""
    (low, high), (other_low, other_high) = first["interval"], second["interval"]
    return {"mean": first["mean"] / second["mean"], "interval": [low / other_high, high / other_low], "n": first["n"]}


def claim_4(ladder: Ladder) -> list[dict]:
    """Estimators with and without a baseline, the highest rung over the lowest that was measured."""
    text = "RL gradients are noisiest early: there is less noise at the highest pass rate than below 0.1"
    rows = []
    for reason, cells in (("latent", ladder.latent()), ("unacquired", ladder.unacquired())):
        for estimator in ("reinforce", "rloo", "grpo"):
            arm = f"{estimator}_expected"
            measured = [cell for cell in cells if cell.noise_scale(arm)]
            early = [cell for cell in measured if cell.pass_rate < LOW_PASS_RATE]
            if not early or len(measured) <= len(early):
                rows.append(not_run(4, text, f"noise scale in rollouts, {estimator}, {reason}"))
                continue
            late, early_cell = max(measured, key=lambda cell: cell.pass_rate), max(early, key=lambda cell: cell.pass_rate)
            result = ratio_of_estimates(late.noise_scale(arm), early_cell.noise_scale(arm))
            statistic = f"noise scale in rollouts at p = {late.pass_rate:.2f} over that at {early_cell.pass_rate:.3f}, {estimator}, {reason}, n prompts"
            rows.append(judged(4, text, statistic, result, (1, 1), WORDS, 1, ""))
    return rows


def claim_5(ladder: Ladder) -> list[dict]:
    """How noise grows from the rung nearest to 0.1 to the highest, with label noise over without."""
    text = "SFT gradients are noisiest late because of irreducible entropy: with label noise they get noisier, without they do not"
    arms = ("sft_0", "sft_0.05", "sft_0.2")
    cells = [cell for cell in ladder.latent() if all(cell.noise_scale(arm) for arm in arms)]
    if len(cells) < 2 or cells[-1].pass_rate < 0.5:
        return [not_run(5, text, "rise of the noise scale with label noise over that without")]
    early, late = min(cells, key=lambda cell: abs(math.log(cell.pass_rate / 0.1))), cells[-1]
    places = f"from p = {early.pass_rate:.2f} to {late.pass_rate:.2f}, n prompts"
    clean = ratio_of_estimates(late.noise_scale("sft_0"), early.noise_scale("sft_0"))
    words = ("contradicted", "neither", "supported")
    rows = [judged(5, text, f"rise of the noise scale without label noise {places}", clean, (1, 1), words, 1, "")]
    for arm in arms[1:]:
        rise = ratio_of_estimates(late.noise_scale(arm), early.noise_scale(arm))
        statistic = f"rise with label noise {arm.removeprefix('sft_')} over the rise without, {places}"
        rows.append(judged(5, text, statistic, ratio_of_estimates(rise, clean), (1, 1), words[::-1], 1, ""))
    return rows
