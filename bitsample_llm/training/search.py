"""Which runs does the search for an arm's settings do next, and what does it choose?

Of each start and arm the whole grid runs with the first tuning seed, with the next learning rate wherever the best point has a neighbour that
was not tried; then the better half with the second seed, the better half of that with the third, and so on. Points that were let go come
back where all that are left fail at a late seed. The setting whose worst seed is best is chosen, once the rates beside it were tried too. A score
is the better the smaller it is.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bitsample_llm.training.planned_runs import expanded_starts, points_of

RATE = "learning_rate"


@dataclass
class Search:
    """The search for the setting of one arm at one start."""

    rates: Sequence[float]  # the grid of learning rates
    first_rates: Sequence[float]  # those that are tried at first
    others: Sequence[dict]  # the other options of each point of the arm's own grid
    num_seeds: int  # tuning seeds
    # (learning rate, number of the other options) -> score by tuning seed, in their order
    scores: dict[tuple[float, int], list[float]] = field(default_factory=lambda: defaultdict(list))

    def worst(self, point: tuple[float, int]) -> float:
        """The score of a point's worst seed so far."""
        return max(self.scores[point])

    def untried_neighbours(self, point: tuple[float, int]) -> list[tuple[float, int]]:
        """The points at the rates beside it that were not tried."""
        place = self.rates.index(point[0])
        beside = [(rate, point[1]) for rate in self.rates[max(place - 1, 0) : place + 2]]
        return [other for other in beside if other not in self.scores]

    def next_runs(self) -> list[tuple[tuple[float, int], int]]:
        """(point, number of the seed) of the runs to do next; none where the search is over."""
        first = [(rate, number) for rate in self.first_rates for number in range(len(self.others))]
        if missing := [point for point in first if point not in self.scores]:
            return [(point, 0) for point in missing]
        standing = sorted(self.scores, key=lambda point: self.scores[point][0])
        if more := self.untried_neighbours(standing[0]):
            return [(point, 0) for point in more]
        for seed in range(1, self.num_seeds):
            standing = standing[: max(math.ceil(len(standing) / 2), 2)]
            if missing := [point for point in standing if len(self.scores[point]) <= seed]:
                return [(point, seed) for point in missing]
            standing.sort(key=lambda point: max(self.scores[point][: seed + 1]))
        # what halving let go may still be better than a best that failed at a late seed
        if better := self.dropped_but_better():
            return [(point, len(self.scores[point])) for point in better[:2]]
        return [(point, 0) for point in self.untried_neighbours(self.best())]

    def dropped_but_better(self) -> list[tuple[float, int]]:
        """Points that at least two seeds ran, and not all, whose worst seed is better than the best point's; the best of them first."""
        partly = [point for point, scores in self.scores.items() if 1 < len(scores) < self.num_seeds]
        return sorted((point for point in partly if self.worst(point) < self.worst(self.best())), key=self.worst)

    def best(self) -> tuple[float, int]:
        """The point whose worst seed is best, of those that all seeds ran."""
        whole = [point for point, scores in self.scores.items() if len(scores) == self.num_seeds]
        return min(whole, key=self.worst)

    def chosen(self) -> dict:
        """The options of the best point."""
        rate, number = self.best()
        return {RATE: rate} | self.others[number]


def searches_of(config: dict) -> dict[tuple[str, str], Search]:
    """(start, arm) -> its search, before any run. An arm may have `rates` of its own: the grid and the first ones."""
    grid = config["learning_rates"], config["first_learning_rates"]
    return {
        (start, arm): Search(*settings.get("rates", grid), list(points_of(settings.get("grid", {}))), len(config["seeds"]))
        for arm, settings in config["arms"].items()
        for start in config["starts"]
        if start in settings.get("only", [start])
    }


def tags_of_point(arm: str, point: tuple[float, int]) -> dict[str, str]:
    """What the tags of a run say of the search that it is part of."""
    return {"search_arm": arm, "search_point": json.dumps(point)}


def add_scores(
    searches: dict[tuple[str, str], Search], scored: Sequence[tuple[Mapping[str, str], int, float]], seeds: Sequence[int]
) -> None:
    """Give the searches what runs scored: (tags, seed, score) of each."""
    scores: dict[tuple, dict[int, float]] = defaultdict(dict)
    for tags, seed, score in scored:
        scores[tags["rung"], tags["search_arm"], tuple(json.loads(tags["search_point"]))][seed] = score
    for (start, arm, point), by_seed in scores.items():
        searches[start, arm].scores[point] = [by_seed[seed] for seed in seeds if seed in by_seed]


def round_of(config: dict, searches: dict[tuple[str, str], Search]) -> dict | None:
    """The study of the runs to do next, those of the earliest seed; None where all searches are over. Seeds go round the models of a
    start, since a setting that is best at one pretraining seed may fail at another.
    """
    waiting = [(place, point, seed) for place, search in searches.items() for point, seed in search.next_runs()]
    if not waiting:
        return None
    number = min(seed for _, _, seed in waiting)
    arms: dict[str, dict] = {}
    for (start, arm), point, seed in waiting:
        if seed == number:
            rate, other = point
            rest = {key: value for key, value in config["arms"][arm].items() if key not in ("grid", "rates")}
            settings = rest | {RATE: rate} | searches[start, arm].others[other]
            settings |= {"only": [], "tags": rest.get("tags", {}) | tags_of_point(arm, point)}
            arms.setdefault(f"{arm} {rate:g} {other}", settings)["only"].append(start)
    starts = {}
    for start in sorted({start for settings in arms.values() for start in settings["only"]}):
        models = list(config["starts"][start]["models"].items())
        starts[start] = config["starts"][start] | {"models": dict([models[number % len(models)]])}
    for settings in arms.values():  # a study refuses starts that it does not have
        if "by_start" in settings:
            named = starts.keys() | expanded_starts(starts).keys()
            settings["by_start"] = {start: options for start, options in settings["by_start"].items() if start in named}
    return {"seeds": [config["seeds"][number]], "report": False, "shared": config["shared"], "starts": starts, "arms": arms}
