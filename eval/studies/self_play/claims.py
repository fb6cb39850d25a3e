"""The statistics of README.md, and what each question is answered with."""

from collections.abc import Sequence

from bitsample_llm.report.asked import Asked
from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import number_text
from bitsample_llm.report.prices import HALF
from bitsample_llm.report.remedy_runs import RemedyRuns
from eval.studies.self_play.asked import NEAR_HALF, WINDOWS, share_near_half

SPOKEN = {
    "target": "the target alone",
    "uniform": "the pool in turn",
    "thompson": "Thompson sampling",
    "bandit": "a bandit",
    "exact_half": "exact p nearest .5",
    "self_play": "self-play",
    "self_play_untrained": "proposer not trained",
}
PLAIN_OF = dict.fromkeys(SPOKEN, "target")
SAVES, SAME, HOLDS = 1.1, 1.25, 0.5
# (arm, held against, question, margins, answers, number of the essay's claim)
QUESTIONS = [
    ("self_play", "target", "Self-play saves FLOPs of RL.", (SAVES, SAVES), Answers("supported", "undecided", "contradicted"), 6),
    (
        "self_play",
        "uniform",
        "Does self-play save FLOPs compared with the pool in turn?",
        (1.0, 1.0),
        Answers("yes", "undecided", "no"),
        None,
    ),
    (
        "self_play",
        "self_play_untrained",
        "Does it pay to train the proposer?",
        (1 / SAME, SAME),
        Answers("yes", f"no difference, within {SAME:g}", "no, it costs"),
        None,
    ),
    (
        "bandit",
        "uniform",
        "Does a bandit save a quarter compared with the pool in turn?",
        (SAME, SAME),
        Answers("yes", "undecided", "no"),
        None,
    ),
    (
        "exact_half",
        "self_play",
        "Does the exact choice need less than half of what self-play needs?",
        (2.0, 2.0),
        Answers("yes", "undecided", "no"),
        None,
    ),
]


def claims_of(found: RemedyRuns, rows: Sequence[Asked]) -> list[Claim]:
    """Every question of README.md whose runs are there."""
    claims = []
    for rung in found.rungs:
        for arm, plain, text, margins, answers, number in QUESTIONS:
            if {arm, plain} <= set(found.arms(rung)):
                saved = found.factor(rung, arm, HALF, plain)
                shown = ", ".join(map(number_text, sorted(set(margins))))
                statistic = f"{rung}: FLOPs of {SPOKEN[plain]} over those of {SPOKEN[arm]}, {HALF.name}; threshold {shown}"
                claims.append(judged(text, statistic, saved.estimate, margins, answers, 1, f"no price ({saved.text()})", number))
    for arm in ("self_play", "self_play_untrained"):
        share = share_near_half(rows, arm, WINDOWS["31 on"])
        text = f"Do the proposals stay near a half ({SPOKEN[arm]})?"
        statistic = f"share of what was asked from update 31 on with p in [{NEAR_HALF[0]:g}, {NEAR_HALF[1]:g}], mean over runs; threshold {HOLDS:g}"
        claims.append(judged(text, statistic, share, (HOLDS, HOLDS), Answers("yes", "undecided", "no"), 3, "too few runs"))
    return claims
