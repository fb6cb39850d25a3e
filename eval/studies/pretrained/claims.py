"""The statistics of README.md: what the arms pay at the main start, what few samples teach at every start, and what becomes of plain English."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import UNKNOWN, Estimate, number_text, over_seeds, ratio_over_seeds
from bitsample_llm.report.gains import Rung, essay_rate
from bitsample_llm.report.prices import HALF, TARGETS, PricedRun, Target

P_HALF = next(target for target in TARGETS if target.pass_rate == 0.5)
SHOWN = "what four lines show"
SPOKEN = {"sft": "SFT", "grpo": "GRPO", "rloo": "RLOO", "rejection": "rejection SFT in rounds", "grpo_lora": "GRPO with LoRA"}
SPOKEN |= {"distilled": "self-distillation from four lines", "sft_wrong": "SFT on wrong answers"}
MAIN, MAIN_SHOWN, BEYOND = "two digits, bare", "two digits, four lines", "three digits, four lines"
FORM_SHOWN = "one digit, four lines"  # of the starts whose prompt shows the form of an answer, that at which a label teaches most
TEXTS = "plain_english"
MORE, FACTOR = 1.25, 2.0


@dataclass(frozen=True)
class Found:
    """The runs: arm -> those of the main start by seed, and the starts with few samples."""

    arms: dict[str, dict[int, PricedRun]]
    rungs: dict[str, Rung]

    @classmethod
    def of(cls, runs: Sequence[PricedRun], rungs: Sequence[Rung]) -> "Found":
        """Arms in the order in which they are spoken of."""
        by_arm: dict[str, dict[int, PricedRun]] = defaultdict(dict)
        for run in runs:
            by_arm[run.arm][run.seed] = run
        return cls({arm: dict(sorted(by_arm[arm].items())) for arm in SPOKEN if arm in by_arm}, {rung.name: rung for rung in rungs})

    def price(self, arm: str, target: Target, amount: str = "flops") -> Estimate:
        """Geometric mean over seeds, if every run got there and kept it."""
        prices = [run.price(target, amount) for run in self.arms[arm].values()]
        return ratio_over_seeds([price for price, _ in prices]) if all(known for _, known in prices) else UNKNOWN

    def num_reached(self, arm: str, target: Target) -> str:
        """How many runs got there and kept it, of how many."""
        runs = self.arms.get(arm, {}).values()
        return f"{sum(run.kept_at(target) is not None for run in runs)} of {len(runs)}"

    def over_sft(self, arm: str, target: Target, amount: str = "flops") -> Estimate:
        """Price over that of SFT with the same seed, if every run of both got there and kept it; unknown where the amount was not recorded."""
        ratios = []
        for seed, run in self.arms[arm].items():
            if seed not in self.arms.get("sft", {}):
                continue
            if not getattr(run, amount):
                return UNKNOWN
            pair = [one.price(target, amount) for one in (run, self.arms["sft"][seed])]
            ratios.append(pair[0][0] / pair[1][0] if all(known for _, known in pair) else None)
        return UNKNOWN if None in ratios or not ratios else ratio_over_seeds(ratios)

    def by_seed(self, arm: str, value_of: Callable[[PricedRun], float | None]) -> Estimate:
        """Mean over the seeds of an arm."""
        return over_seeds([value_of(run) for run in self.arms.get(arm, {}).values()])

    @property
    def targets(self) -> list[Target]:
        """Half of the bits, what four solved lines show at once (where that start was run), and p = .5."""
        run = next(iter(next(iter(self.arms.values())).values()))
        level = self.shown_log2_p
        shown = [] if level is None else [Target(SHOWN, share=1 - level / run.log2_p[0])]
        return [HALF, *shown, P_HALF]

    @property
    def shown_log2_p(self) -> float | None:
        """Mean log2 p of the main start's held-out problems after four lines; None where that start was not run."""
        rung = self.rungs.get(MAIN_SHOWN)
        return None if rung is None else -float(np.mean(list(rung.available_bits.values())))


def gain_bits(run: PricedRun) -> float:
    """Held-out bits gained in the end."""
    return run.log2_p[-1] - run.log2_p[0]


def best_gain_bits(run: PricedRun, within_flops: float = float("inf")) -> float:
    """The most held-out bits that any evaluation within so many FLOPs found; flatters a run that loses them again."""
    return max(value for value, spent in zip(run.log2_p, run.flops, strict=True) if spent <= within_flops) - run.log2_p[0]


def text_loss(run: PricedRun) -> float | None:
    """Bits per token lost on plain English in the end; None where it was not scored."""
    bits = run.text_bits_per_token.get(TEXTS)
    return None if bits is None else bits[1] - bits[0]


def text_loss_per_bit(run: PricedRun) -> float | None:
    """The same per held-out bit gained."""
    loss, gained = text_loss(run), gain_bits(run)
    return None if loss is None or gained <= 0 else loss / gained


def label_shares(rung: Rung, arm: str, n: int) -> Estimate:
    """Share of the available bits that n labels, or the passes among n rollouts, gain: mean over seeds."""
    return over_seeds([run.gain_bits / rung.available_bits[run.model] for run in rung.runs.get((arm, n), [])])


def claims_of(found: Found) -> list[Claim]:
    """Every question of README.md whose runs are there: what is asked of GRPO and of labels first, then the prices of the other arms."""
    others = [arm for arm in found.arms if arm != "grpo" and not arm.startswith("sft")]
    claims = price_claims(found, "grpo") + label_claims(found) + shown_claims(found) + form_claims(found)
    claims += text_claims(found) + exchange_claims(found)
    return claims + [claim for arm in others for claim in price_claims(found, arm)]


def price_claims(found: Found, arm: str) -> list[Claim]:
    """What an arm pays compared with SFT, a row per target."""
    claims = []
    for target in found.targets if {"sft", arm} <= found.arms.keys() else []:
        statistic = f"FLOPs to {target.name}, reached and kept, over those of SFT; margin {MORE}"
        text = f"What does {SPOKEN[arm]} pay in FLOPs to {target.name}, compared with SFT?"
        unmeasured = f"{found.num_reached(arm, target)} runs are known to have reached and kept it"
        answers = Answers("more", f"the same within {MORE}", "less")
        claims.append(judged(text, statistic, found.over_sft(arm, target), (1 / MORE, MORE), answers, 2, unmeasured))
    return claims


def exchange_claims(found: Found) -> list[Claim]:
    """Whether rollouts per label of GRPO are 1/p, or the essay's ratio."""
    if not {"sft", "grpo"} <= found.arms.keys():
        return []
    p = next(iter(found.arms["sft"].values())).pass_rates_before
    laws = {"1/p": 1 / float(p.mean()), "the essay's ratio": essay_rate(p)}
    rate = found.over_sft("grpo", HALF, "samples")
    claims = []
    for name, law in laws.items():
        quotient = ratio_over_seeds([value / law for value in rate.values]) if rate.mean else UNKNOWN
        answers = Answers(f"no, more than {FACTOR:g} times", f"yes, within a factor of {FACTOR:g}", f"no, less than 1/{FACTOR:g}")
        text = f"Do GRPO's rollouts per label follow {name}, {number_text(law)} here?"
        statistic = f"rollouts per label to {HALF.name} over it, within {FACTOR:g}"
        claims.append(judged(text, statistic, quotient, (1 / FACTOR, FACTOR), answers, 2, "not all runs reached and kept it"))
    return claims


def label_claims(found: Found) -> list[Claim]:
    """What share of the bits one label gains, where the prompt hides the skill and on problems beyond it; and what a wrong one gains."""
    of_bits = "share of the available held-out bits"
    more, less = Answers("supported", "undecided", "contradicted"), Answers("contradicted", "undecided", "supported")
    asked: list[tuple[str, str, str, str, Callable[[Rung], Estimate], float, Answers]] = [
        (MAIN, "labels", "One label gains more than half of the bits", of_bits, share_of_one("labels"), 0.5, more),
        (BEYOND, "labels", "One label gains less than a tenth of the bits", of_bits, share_of_one("labels"), 0.1, less),
        (
            MAIN,
            "wrong_labels",
            "One wrong label gains less than half of what a right one gains",
            "quotient, seed by seed",
            wrong_over_right,
            0.5,
            less,
        ),
        (
            FORM_SHOWN,
            "wrong_labels",
            "One wrong label gains less than a tenth of the bits",
            of_bits,
            share_of_one("wrong_labels"),
            0.1,
            less,
        ),
    ]
    claims = []
    for name, arm, text, statistic, value_of, threshold, answers in asked:
        rung = found.rungs.get(name)
        if rung is None or (arm, 1) not in rung.runs:
            continue
        value, thresholds = value_of(rung), (threshold, threshold)
        claims.append(judged(f"{text}: {name}.", f"{statistic}; {threshold:g}", value, thresholds, answers, 2, "no runs"))
    return claims


def share_of_one(arm: str) -> Callable[[Rung], Estimate]:
    """Share of the available bits that one label of an arm gains."""
    return lambda rung: label_shares(rung, arm, 1)


def wrong_over_right(rung: Rung) -> Estimate:
    """What one wrong label gains over what one right label gains, seed by seed."""
    gains = [{run.seed: run.gain_bits for run in rung.runs[arm, 1]} for arm in ("wrong_labels", "labels")]
    return over_seeds([gains[0][seed] / gains[1][seed] for seed in gains[0] if seed in gains[1]])


def shown_claims(found: Found) -> list[Claim]:
    """Whether GRPO under the bare prompt gets to what four lines show, and beyond."""
    level = found.shown_log2_p
    if level is None or "grpo" not in found.arms:
        return []
    answers = Answers("yes", "undecided", "no")
    over = found.by_seed("grpo", lambda run: run.log2_p[-1] - level)
    reached = sum(run.log2_p[-1] >= level for run in found.arms["grpo"].values())
    text = "Does GRPO under the bare prompt go beyond what four solved lines show at once?"
    statistic = f"mean log2 p at the end, minus {number_text(level)} after four lines; {reached} of {len(found.arms['grpo'])} runs end above it"
    return [judged(text, statistic, over, (0, 0), answers, 2, "no runs")]


def form_claims(found: Found) -> list[Claim]:
    """Whether right answers teach more than the form of an answer, which wrong ones have too; both at their best within the same FLOPs."""
    if not {"sft", "sft_wrong"} <= found.arms.keys():
        return []
    wrong = found.arms["sft_wrong"]
    more = over_seeds(
        [
            best_gain_bits(found.arms["sft"][seed], run.flops[-1]) - best_gain_bits(run)
            for seed, run in wrong.items()
            if seed in found.arms["sft"]
        ]
    )
    alone = found.by_seed("sft_wrong", best_gain_bits)
    statistic = f"bits of right answers minus bits of wrong ones, each at its best evaluation within {number_text(next(iter(wrong.values())).flops[-1] / 1e12)} TFLOP; wrong ones gain {alone.text()}"
    return [
        judged(
            "Do right answers teach more than the form of an answer?",
            statistic,
            more,
            (0, 0),
            Answers("yes", "undecided", "no"),
            2,
            "no runs",
        )
    ]


def text_claims(found: Found) -> list[Claim]:
    """Whether GRPO loses less of plain English per bit than SFT."""
    if not {"sft", "grpo"} <= found.arms.keys():
        return []
    pairs = [
        (text_loss_per_bit(found.arms["grpo"][seed]), text_loss_per_bit(run))
        for seed, run in found.arms["sft"].items()
        if seed in found.arms["grpo"]
    ]
    difference = over_seeds([None if None in pair else pair[0] - pair[1] for pair in pairs])
    answers = Answers("contradicted", "undecided", "supported")
    text = "GRPO loses less of plain English than SFT."
    return [
        judged(text, "bits per token lost per held-out bit gained, GRPO minus SFT", difference, (0, 0), answers, 2, "not scored")
    ]
