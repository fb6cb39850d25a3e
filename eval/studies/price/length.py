"""Does the FLOP price of RL over SFT grow with the length of the rollout? `python -m eval.studies.price.length FOLDER...` makes the page of the second pass.

Question, statistics and thresholds are in README.md.
"""

import math
from collections.abc import Sequence

import numpy as np

from bitsample_llm.report.claims import UNDECIDED, Answers, Claim
from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import UNMEASURED, Estimate, number_text
from bitsample_llm.report.prices import HALF, NINE_TENTHS, PricedRun, Target, read_prices
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.price.cells import FORMS
from eval.studies.price.length_pictures import prices_and_ratios_figure
from eval.studies.price.length_slopes import ARMS, PROMPT, SAME, Lengths, Slope, at_one_setting

SPOKEN = {"sft": "SFT", "grpo": "GRPO", "reinforce": "REINFORCE"}
MARGIN = 0.3
ANSWERS = Answers("grows", "no growth", "falls")


def verdict(raw: Slope, adjusted: Slope) -> str:
    """By the threshold, if both slopes lie on one side."""
    if raw.estimate.mean is None:
        return "undecided: a cell has no price"
    said = {ANSWERS.verdict(slope.estimate, (-MARGIN, MARGIN)) for slope in (raw, adjusted)}
    return said.pop() if len(said) == 1 else UNDECIDED


def null_errors(found: Lengths, target: Target) -> dict[str, tuple[float, int]]:
    """Null model -> root mean square error of the log ratio at the two longer lengths, and their number."""
    errors: dict[str, list[float]] = {}
    for model in found.models:
        first, *longer = found.tokens(model)
        others = [other for other in found.models if other != model]
        for arm in ARMS[1:]:
            elsewhere = [found.log_ratio(other, tokens, arm, target) for other in others for tokens in found.tokens(other)]
            start = found.log_ratio(model, first, arm, target)
            for tokens in longer:
                value = found.log_ratio(model, tokens, arm, target)
                if None in (value, start, *elsewhere):
                    continue
                rl, sft = (found.cells[model, tokens, name] for name in (arm, "sft"))
                form = FORMS["the same times the ratio of rates, on the way"](rl, sft, rl.p(model), target.share)
                cost = [found.log_cost(name)(model, tokens)[0] for name in (arm, "sft")]
                grown = math.log((PROMPT[tokens] + tokens) / (PROMPT[first] + first))
                foretold = {
                    "the ratio at 4 tokens": start,
                    "the ratio at 4 tokens, only the rollout gets dearer": start + grown,
                    "what the settings make": math.log(form) + cost[0] - cost[1],
                }
                if elsewhere:
                    foretold["the constant of the other pretraining seed"] = float(np.mean(elsewhere))
                for name, guess in foretold.items():
                    errors.setdefault(name, []).append(value - guess)
    return {name: (float(np.sqrt(np.mean(np.square(values)))), len(values)) for name, values in errors.items()}


def prices_table(found: Lengths, title: str) -> Table:
    """What each cell pays."""
    heads = [text for target in (HALF, NINE_TENTHS) for text in (f"GFLOP to {target.name}", "kept", "over SFT's", "samples")]
    rows = [["pretraining seed", "tokens", "p", "arm", *heads]]
    for (model, tokens, arm), cell in found.cells.items():
        row = [model, str(tokens), number_text(cell.mean_pass_rate), SPOKEN[arm]]
        for target in (HALF, NINE_TENTHS):
            kept = sum(run.price(target)[1] for run in cell.runs[model])
            ratio = found.log_ratio(model, tokens, arm, target)
            over = "1"
            if arm != "sft":
                over = (
                    UNMEASURED if ratio is None else ratio_text(math.exp(ratio), found.ratio_interval(model, tokens, arm, target))
                )
            row += [cell.price_text(target, scale=1e-9), f"{kept} of {cell.num_runs}", over, cell.price_text(target, "samples")]
        rows.append(row)
    return Table(
        title,
        rows,
        "Brackets: 95 % bootstrap over training seeds. After >: half of the runs are not known to have kept it.",
    )


def ratio_text(mean: float, interval: tuple[float, float]) -> str:
    """A number with its interval."""
    return Estimate(mean, interval, 1).text()


def settings_table(found: Lengths) -> Table:
    """The setting of each cell, and the updates of its price."""
    rows = [["pretraining seed", "tokens", "arm", "learning rate", "samples per update", "updates to half", "FLOPs per sample (M)"]]
    for (model, tokens, arm), cell in found.cells.items():
        settings = cell.first.settings
        shown = (f"{settings[key]:g}" for key in ("learning_rate", "per_device_train_batch_size"))
        cost = math.exp(found.log_cost(arm)(model, tokens)[0]) * 1e-6
        rows.append([model, str(tokens), SPOKEN[arm], *shown, cell.price_text(HALF, "updates"), number_text(cost)])
    return Table("Settings", rows)


def length_study(runs: Sequence[PricedRun], command: str) -> Study:
    """The page of the price against the length."""
    found, claims, slopes = Lengths([run for run in runs if not run.arm.endswith(SAME)]), [], {}
    same = Lengths(at_one_setting(runs))
    for target in (HALF, NINE_TENTHS):
        for arm in ARMS[1:]:
            sides = [(name, found.log_price(name, target)) for name in (arm, "sft")]
            raw = found.slope(*sides)
            adjusted = found.slope(*sides, less=lambda model, tokens, arm=arm: found.informative(model, tokens, arm))
            key = f"{SPOKEN[arm]} over SFT, {target.name}"
            slopes |= {f"FLOPs, {key}": raw, f"FLOPs, {key}, without the mismatch of p": adjusted}
            slopes[f"samples, {key}"] = found.slope(*((name, found.log_price(name, target, "samples")) for name in (arm, "sft")))
            text = f"Does the FLOP price of {SPOKEN[arm]} over SFT's grow with the length of the rollout, to {target.name}?"
            claims.append(
                Claim(text, f"slope of the log ratio against ln(tokens), within {MARGIN}", raw.estimate, verdict(raw, adjusted))
            )
        slopes |= {f"FLOPs, {SPOKEN[arm]}, {target.name}": found.slope((arm, found.log_price(arm, target))) for arm in ARMS}
    costs = {arm: (arm, found.log_cost(arm)) for arm in ARMS}
    for target in (HALF, NINE_TENTHS) if same.cells.keys() == found.cells.keys() else ():
        slopes |= {
            f"FLOPs, {SPOKEN[arm]}, {target.name}, at one setting": same.slope((arm, same.log_price(arm, target))) for arm in ARMS
        }
        for arm in ARMS[1:]:
            sides = [(name, same.log_price(name, target)) for name in (arm, "sft")]
            key = f"FLOPs, {SPOKEN[arm]} over SFT, {target.name}, at one setting"
            slopes[key] = same.slope(*sides)
            slopes[f"{key}, without the mismatch of p"] = same.slope(
                *sides, less=lambda model, tokens, arm=arm: same.informative(model, tokens, arm)
            )
    slopes |= {f"FLOPs per sample, {SPOKEN[arm]}": found.slope(costs[arm]) for arm in ARMS}
    slopes |= {f"FLOPs per sample, {SPOKEN[arm]} over SFT": found.slope(costs[arm], costs["sft"]) for arm in ARMS[1:]}
    errors = {target.name: null_errors(found, target) for target in (HALF, NINE_TENTHS)}
    if same.cells.keys() == found.cells.keys():
        errors[f"{HALF.name}, at one setting"] = null_errors(same, HALF)
    slopes_table = Table(
        "Slopes against ln(tokens)",
        [["of the log of", "slope"], *([name, slope.text()] for name, slope in slopes.items())],
        "Brackets: 95 % bootstrap over two pretraining seeds and their training seeds; in parentheses each pretraining seed.",
    )
    errors_table = Table(
        "Which null model foretells the log ratios?",
        [
            ["null model", *(f"rms error in ln, {name} (n)" for name in errors)],
            *(
                [name, *(f"{number_text(of[name][0])} ({of[name][1]})" if name in of else UNMEASURED for of in errors.values())]
                for name in errors[HALF.name]
            ),
        ],
        "At the two longer lengths of each pretraining seed; GRPO and REINFORCE.",
    )
    heads = [slopes[f"FLOPs, {SPOKEN[arm]} over SFT, {HALF.name}"] for arm in ARMS[1:]]
    said = " and ".join(f"{slope.estimate.text()} ({SPOKEN[arm]})" for arm, slope in zip(ARMS[1:], heads, strict=True))
    return Study(
        title="Does the price of RL over SFT grow with the length of the rollout?",
        question="How does the ratio of FLOPs to a held-out target, reached and kept, go with the tokens of the answer at about one pass rate?",
        answer=f"From 4 to 25 or 49 tokens the log of FLOPs over those of SFT, to half of the bits, has a slope against ln(tokens) of {said}.",
        main=Picture(
            "length",
            "What does a kept target cost as the rollout gets longer?",
            lambda: prices_and_ratios_figure(found, HALF, SPOKEN, PROMPT),
            "Above: GFLOP until half of the available held-out bits were reached and kept; small points are training seeds, large ones medians. Below: over those of SFT, with 95 % bootstrap intervals over training "
            "seeds. Dashed: the ratio at 4 tokens if only the rollout got dearer.",
        ),
        table=prices_table(found, "What a kept target costs"),
        terminal=[slopes_table],
        how_to_read="A target counts once it is kept until three times its FLOPs were spent. A price is the median over the training seeds of one pretraining seed, runs that never got there included.",
        provenance=f"{len(runs)} runs. Made by: {command}",
        headlines=[
            Headline(
                slope.estimate.text(),
                f"slope, FLOPs of {SPOKEN[arm]} over SFT's",
                f"half of the bits, n = {slope.estimate.n} pretraining seeds",
            )
            for arm, slope in zip(ARMS[1:], heads, strict=True)
        ],
        sentences=[claim.sentence("pretraining seeds") for claim in claims],
        claims=claims,
        tables=[slopes_table, errors_table, settings_table(found), prices_table(same, "The same at one setting for all lengths")],
        pictures=[
            Picture(
                "length_one_setting",
                "And at one setting for all lengths?",
                lambda: prices_and_ratios_figure(same, HALF, SPOKEN, PROMPT),
                "As above, with a learning rate of 1e-4 and the smallest batch (1 label, 2 rollouts) in every cell.",
            )
        ]
        if same.cells.keys() == found.cells.keys()
        else [],
        results={
            "prices": {
                f"{model}, {tokens} tokens, {arm}": {
                    target.name: {"flops": cell.price(model, target), "samples": cell.price(model, target, "samples")}
                    for target in (HALF, NINE_TENTHS)
                }
                for (model, tokens, arm), cell in found.cells.items()
            },
            "slopes": {name: slope.estimate.fields() | {"by_model": slope.by_model} for name, slope in slopes.items()},
            "null_errors": errors,
        },
    )


if __name__ == "__main__":
    report(length_study, prog="python -m eval.studies.price.length", description=__doc__.splitlines()[0], read=read_prices)
