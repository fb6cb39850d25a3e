"""Does gradient noise, measured without training, tell more of a price than the beginning of a run does?

    python -m eval.studies.forecast.noise_features FOLDER... --noise FILE.jsonl

At the starts of which `eval/studies/ladder/make_noise.py` measured noise scale and coherence (a line each), the law and forms that know these are fitted with each
start left out; prints how far each is off.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from bitsample_llm.report.estimates import number_text
from bitsample_llm.report.prices import read_prices
from eval.noise_lines import read_noise
from eval.studies.forecast.observed import (
    FORMS,
    LAW,
    Form,
    Observed,
    log_flops,
    log_inverse_p,
    log_share,
    observed_beginnings,
    told_left_out,
)

ESTIMATORS = {"labels": "sft_0", "rollouts": "grpo_expected"}  # whose noise is asked for


def forms_with(noise: dict[tuple[str, str], dict], kind: str) -> dict[str, Form | None]:
    """The law, and forms that know noise or coherence too."""

    def measured(one: Observed) -> dict:
        return noise[one.run.rung, one.run.model]

    def log_noise(one: Observed) -> float:
        return math.log(measured(one)["arms"][ESTIMATORS[kind]]["noise_scale_in_samples"])

    def coherence(one: Observed) -> float:
        return measured(one)["coherence"]["log_p"]

    return {
        LAW: None,
        "mean price": FORMS["mean price"],
        "1/p": FORMS["1/p"],
        "noise": (log_noise,),
        "noise, p and coherence": (log_noise, log_inverse_p, coherence),
        "beginning, slopes fitted": (log_flops, log_share),
        "beginning and noise": (log_flops, log_share, log_noise),
        "beginning and coherence": (log_flops, log_share, coherence),
    }


def with_noise(observed: Sequence[Observed], noise: dict[tuple[str, str], dict], kind: str) -> list[Observed]:
    """Those from starts at which a noise scale is known."""
    known = {place for place, line in noise.items() if line["arms"][ESTIMATORS[kind]]["noise_scale_in_samples"] is not None}
    return [one for one in observed if (one.run.rung, one.run.model) in known]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--noise", type=Path, required=True)
    options = parser.parse_args()
    runs, noise = read_prices(options.folders), read_noise(options.noise)
    for kind in ESTIMATORS:
        observed = with_noise(observed_beginnings(runs, kind), noise, kind)
        print(f"{kind}: {len(observed)} beginnings from {len({one.start for one in observed})} starts, each left out")
        for name, form in forms_with(noise, kind).items():
            scores = told_left_out(observed, form).scores()
            print(f"  {name:26} rms error of ln price {number_text(scores['rms_error']):>6}  within 80 % {scores['coverage']:.0%}")


if __name__ == "__main__":
    main()
