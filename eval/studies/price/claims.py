"""The questions of README.md, with what came out."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import UNKNOWN, Estimate, number_text, over_seeds
from bitsample_llm.report.gains import essay_rate
from bitsample_llm.report.prices import HALF, NINE_TENTHS, Target
from eval.studies.price.cells import RL, Cell, complete, ratio

SAME = 1.25
ABOUT_SAME = (1 / SAME, SAME)
RATIO = Answers("more", f"the same within {SAME}", "less")
WITHIN = Answers(f"no, more than {SAME} times", f"yes, within a factor of {SAME}", f"no, less than 1/{SAME}")
ABOVE_HALF = 0.6  # claim 2 asks about the rungs above it
ELSEWHERE = {
    "shifted": "problems of one digit more",
    "other_operation": "subtraction",
    "other_format": "another answer format",
}  # claim 12
NOT_REACHED = "at one pretraining seed or more fewer than half of the runs are known to have reached and kept it"
SPOKEN = {"sft": "SFT", "grpo": "GRPO", "rloo": "RLOO", "reinforce": "REINFORCE without a baseline", "dr_grpo": "Dr. GRPO"}
SPOKEN |= {"rejection": "rejection SFT in rounds", "exact": "the exact gradient"}

Cells = dict[tuple[str, str], Cell]


def rungs_in(cells: Cells) -> list[str]:
    """All rungs, in order."""
    return list(dict.fromkeys(rung for rung, _ in cells))


def of_rung(cells: Cells, rung: str) -> str:
    """The rung with its pass rate."""
    cell = next(cell for (other, _), cell in cells.items() if other == rung)
    return f"{rung} (p = {number_text(cell.mean_pass_rate)})"


def flops_claims(cells: Cells, target: Target) -> list[Claim]:
    """What RL pays in FLOPs, compared with SFT, a row per rung and arm."""
    claims = []
    for rung in rungs_in(cells):
        for arm in RL:
            if (rung, arm) in cells and (rung, "sft") in cells:
                found = ratio(cells[rung, arm], cells[rung, "sft"], target)
                text = f"From {of_rung(cells, rung)}, what does {SPOKEN[arm]} pay in FLOPs, compared with SFT?"
                statistic = f"FLOPs to {target.name}, reached and kept, over those of SFT; margin {SAME}"
                claims.append(judged(text, statistic, found, ABOUT_SAME, RATIO, 2, NOT_REACHED))
    return claims


def exchange_claims(cells: Cells, target: Target) -> list[Claim]:
    """Without a baseline, whether rollouts per label follow 1/p, or the essay's ratio, a row per rung."""
    claims = []
    for rung in rungs_in(cells):
        if (rung, "reinforce") not in cells or (rung, "sft") not in cells:
            continue
        rl, sft = cells[rung, "reinforce"], cells[rung, "sft"]
        models = [model for model in rl.runs if model in sft.runs]
        paid = [(rl.price(m, target, "samples"), sft.price(m, target, "samples")) for m in models]
        for name, law in (
            ("1/p", lambda model, rl=rl: 1 / rl.p(model).mean()),
            ("the essay's ratio", lambda model, rl=rl: essay_rate(rl.p(model))),
        ):
            found = complete([a / b / law(model) if a and b else None for model, (a, b) in zip(models, paid, strict=True)])
            text = f"From {of_rung(cells, rung)}, are rollouts per label {name}?"
            statistic = f"rollouts of {SPOKEN['reinforce']} over labels to {target.name}, over {name}; margin {SAME}"
            claims.append(judged(text, statistic, found, ABOUT_SAME, WITHIN, 2, NOT_REACHED))
    return claims


def claim_2(cells: Cells, target: Target) -> list[Claim]:
    """Above a half the essay's bits say that a rollout tells more than a label: does RL learn more per FLOP there?"""
    claims = []
    for arm in ("rloo", "reinforce"):
        rungs = [
            rung
            for rung in rungs_in(cells)
            if (rung, arm) in cells and (rung, "sft") in cells and cells[rung, arm].reason == "latent"
        ]
        rungs = [rung for rung in rungs if cells[rung, arm].mean_pass_rate > ABOVE_HALF]
        by_model: dict[str, list[float | None]] = {}
        for rung in rungs:
            rl, sft = cells[rung, arm], cells[rung, "sft"]
            for model in rl.runs:
                a, b = (cell.price(model, target) if model in cell.runs else None for cell in (rl, sft))
                by_model.setdefault(model, []).append(math.log(a / b) if a and b else None)
        if not rungs:
            continue
        missing = any(None in logs for logs in by_model.values())
        found = UNKNOWN if missing else complete([math.exp(np.mean(logs)) for logs in by_model.values()])
        claims.append(
            judged(
                "RL pays best near p = .5, and above it a rollout tells more bits than a label.",
                f"FLOPs of {SPOKEN[arm]} over those of SFT to {target.name}, mean log ratio of {len(rungs)} rungs above {ABOVE_HALF:g}, threshold 1",
                found,
                (1, 1),
                Answers("contradicted: RL learns less per FLOP", "neither", "supported"),
                2,
                NOT_REACHED,
                2,
            )
        )
    return claims


def welch_ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Ratio of two geometric means over independent pretraining seeds, with Welch's 95 % interval."""
    logs = [np.log(prices) for prices in (above, below)]
    parts = [of_cell.var(ddof=1) / len(of_cell) for of_cell in logs]
    error = math.sqrt(sum(parts))
    freedom = error**4 / sum(part**2 / (len(of_cell) - 1) for part, of_cell in zip(parts, logs, strict=True)) if error else 1.0
    difference, reach = float(logs[0].mean() - logs[1].mean()), float(stats.t.ppf(0.975, freedom)) * error
    return Estimate(math.exp(difference), (math.exp(difference - reach), math.exp(difference + reach)), min(map(len, logs)))


def reason_claims(cells: Cells, target: Target) -> list[Claim]:
    """Whether the reason of a pass rate sets the price, at p of about .1."""
    claims = []
    for arm in ("sft", *RL):
        pair = [cells.get((rung, arm)) for rung in ("unacquired 0.1", "latent E")]
        if None in pair:
            continue
        prices = [[cell.price(model, target) for model in cell.runs] for cell in pair]
        known = all(None not in of_cell and len(of_cell) > 1 for of_cell in prices)
        found = welch_ratio(*prices) if known else UNKNOWN
        text = f"At p of about .1, what does {SPOKEN[arm]} pay from an unacquired start, compared with a latent one?"
        statistic = f"FLOPs to {target.name}, unacquired over latent; margin {SAME}"
        claims.append(judged(text, statistic, found, ABOUT_SAME, RATIO, 2, NOT_REACHED))
    return claims


def transfer(cell: Cell, model: str, split: str) -> tuple[float, float] | None:
    """Bits gained on other problems per held-out bit, and KL to the start, at the end of the runs that kept 90 % of the bits and still have them:
    means over training seeds. None where no run did, or the split or the KL was not measured.
    """
    runs = [run for run in cell.runs.get(model, []) if run.kept_at(NINE_TENTHS) is not None and run.has_at_end(NINE_TENTHS)]
    runs = [run for run in runs if split in run.gains_elsewhere and run.kl_bits[-1] is not None]
    if not runs:
        return None
    shares = [run.gains_elsewhere[split] / (run.log2_p[-1] - run.log2_p[0]) for run in runs]
    return float(np.mean(shares)), float(np.mean([run.kl_bits[-1] for run in runs]))


def claim_12(cells: Cells) -> list[Claim]:
    """RL minus SFT, after both gained and kept 90 % of the bits at about the same KL to the start, averaged over rungs."""
    claims = []
    for reason in ("latent", "unacquired"):
        for split, spoken in ELSEWHERE.items():
            by_model: dict[str, list[float]] = {}
            for (rung, arm), rl in cells.items():
                if arm != "grpo" or rl.reason != reason or (rung, "sft") not in cells:
                    continue
                for model in rl.runs:
                    ends = transfer(rl, model, split), transfer(cells[rung, "sft"], model, split)
                    if None not in ends and abs(math.log(ends[0][1] / ends[1][1])) <= math.log(SAME):
                        by_model.setdefault(model, []).append(ends[0][0] - ends[1][0])
            if by_model:
                claims.append(
                    judged(
                        f"RL's bits are worth more: at the same gain and KL to the start GRPO gains more than SFT on {spoken}.",
                        f"bits gained there per held-out bit, GRPO minus SFT, {reason} rungs, KL within {SAME}",
                        over_seeds([float(np.mean(differences)) for differences in by_model.values()]),
                        (0, 0),
                        Answers("supported", "neither", "contradicted"),
                        2,
                        "fewer than two pretraining seeds where both got there at about the same KL",
                        12,
                    )
                )
    return claims


def claims_of(cells: Cells) -> list[Claim]:
    """All of them."""
    claims = claim_2(cells, NINE_TENTHS) + claim_12(cells)
    for target in (NINE_TENTHS, HALF):
        claims += flops_claims(cells, target) + exchange_claims(cells, target)
    return claims + reason_claims(cells, HALF)
