"""Under plain SGD, do rollouts per label follow the ratio of the noise scales? Statistic 5 of README.md.

    python -m eval.studies.price.sgd_noise FOLDER... --noise FILE.jsonl

Where gradients are mostly noise, a step has to average as many samples as the noise scale says: then a rollout is worth a label's noise scale over its own. `FILE.jsonl`
holds what `eval/studies/ladder/make_noise.py` measured, a line per start.
"""

import argparse
from pathlib import Path

from bitsample_llm.report.claims import Answers, judged
from bitsample_llm.report.prices import HALF, NINE_TENTHS, Target, read_prices
from eval.noise_lines import read_noise
from eval.studies.price.cells import SGD, Cell, cells_of, complete, ratio

FACTOR = 2.0
FOLLOWS = Answers(f"no, more than {FACTOR:g} times", f"yes, within a factor of {FACTOR:g}", f"no, less than 1/{FACTOR:g}")


def over_noise_ratio(rl: Cell, sft: Cell, target: Target, noise: dict[tuple[str, str], dict]):
    """Rollouts per label over the ratio of noise scales, geometric mean over pretraining seeds."""
    quotients = []
    for model in rl.runs:
        paid = [cell.price(model, target, "samples") if model in cell.runs else None for cell in (rl, sft)]
        arms = noise[rl.rung, model]["arms"]
        scales = [arms[name]["noise_scale_in_samples"] for name in (f"{rl.arm.removesuffix('_sgd')}_expected", "sft_0")]
        quotients.append(paid[0] / paid[1] / (scales[0] / scales[1]) if all(paid) and all(scales) else None)
    return complete(quotients)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--noise", type=Path, required=True)
    options = parser.parse_args()
    cells, noise = cells_of(read_prices(options.folders)), read_noise(options.noise)
    for (rung, arm), rl in cells.items():
        sft = cells.get((rung, "sft_sgd"))
        if arm not in SGD or sft is None:
            continue
        for target in (HALF, NINE_TENTHS):
            found = over_noise_ratio(rl, sft, target, noise)
            text = f"{rung}, {arm}: do rollouts per label to {target.name} follow the ratio of noise scales?"
            claim = judged(
                text, "over that ratio", found, (1 / FACTOR, FACTOR), FOLLOWS, 2, "no price or scale at a pretraining seed"
            )
            print(f"{claim.sentence('pretraining seeds')} Rollouts per label: {ratio(rl, sft, target, 'samples').text()}.")


if __name__ == "__main__":
    main()
