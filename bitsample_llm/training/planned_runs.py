"""Which runs make up a study? Starts, arms and seeds of a configuration, as one command of a recipe each."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from bitsample_llm.options import check_name
from bitsample_llm.records import read_manifest

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def study_config(path: Path) -> dict:
    """A study's configuration; what it shares with others may be in files beside it, named in its place, one or several."""
    config = yaml.safe_load(path.read_text())
    for key in ("shared", "starts", "arms", "tuned"):
        if isinstance(names := config.get(key, {}), (str, list)):
            config[key] = {}
            for name in [names] if isinstance(names, str) else names:
                config[key] |= yaml.safe_load((path.parent / name).read_text())
    return config


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its directory and the command that fills it."""

    run_dir: Path
    recipe_config: Path
    command: list[str]

    def state(self) -> str:
        """finished, failed, running (or killed), or absent."""
        return read_manifest(self.run_dir)["state"] if (self.run_dir / "manifest.json").is_file() else "absent"


def programs(study_folder: Path | None) -> dict[str, tuple[Path, Path]]:
    """Program and its configuration by the name that `recipe` takes: the recipes, and `make_*.py` in the study's own folder."""
    known = {path.stem: (RECIPES / f"{path.stem}.py", path) for path in (RECIPES / "configs").glob("*.yaml")}
    own = {path.stem: (path, path.with_suffix(".yaml")) for path in study_folder.glob("make_*.py")} if study_folder else {}
    return {name: paths for name, paths in sorted((known | own).items()) if paths[0].is_file()}


def check_config(config: dict, study_folder: Path | None = None) -> None:
    """Refuse what would run nothing, something else than what is meant, or in another folder: a ValueError names it."""
    starts, arms, tuned = expanded_starts(config["starts"]), expanded_arms(config["arms"]), config.get("tuned", {})
    for seed in config["seeds"]:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"seed {seed!r} is no whole number")
    for what, names in (("the name of a start", starts), ("the name of an arm", arms)):
        for name in names:
            check_name(what, name)
    known = programs(study_folder)
    for name, settings in arms.items():
        asked = {start: {**config["shared"], **starts[start], **settings}["recipe"] for start in starts}
        if unknown := [recipe for recipe in asked.values() if recipe not in known]:
            raise ValueError(f"arm {name} asks for the recipe {unknown[0]!r}; known: {', '.join(known)}")
        for key in ("only", "by_start"):
            known_starts = starts.keys() | config["starts"].keys()
            if unknown := [start for start in settings.get(key, ()) if start not in known_starts]:
                raise ValueError(
                    f"arm {name} names the unknown start {unknown[0]!r} in {key!r}; known: {', '.join(config['starts'])}"
                )
        tuned_arms = {arm for of_start in tuned.values() for arm in of_start}
        if (source := settings.get("tuned_as")) is not None and source not in tuned_arms:
            raise ValueError(f"arm {name} is tuned as the unknown arm {source!r}; known: {', '.join(sorted(tuned_arms))}")
    if not (config["seeds"] and starts and arms):
        raise ValueError("it plans no run: give it at least one seed, one start and one arm")


def options_of(settings: dict) -> list[str]:
    """Settings as command-line options; a list is one option with several words."""
    words = []
    for name, value in settings.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def points_of(grid: dict[str, list]) -> Iterator[dict]:
    """The points of a grid (option -> values). Options that go together are one entry, separated by spaces, with a list of their values in each
    point.
    """
    for point in itertools.product(*grid.values()):
        chosen: dict = {}
        for options, value in zip(grid, point, strict=True):
            names = options.split()
            chosen |= dict(zip(names, value if len(names) > 1 else [value], strict=True))
        yield chosen


def expanded_arms(arms: dict) -> dict[str, dict]:
    """Arms by name; an arm with a `grid` becomes one arm for each point of it, named for what it sets."""
    expanded = {}
    for name, settings in arms.items():
        rest = {key: value for key, value in settings.items() if key != "grid"}
        for chosen in points_of(settings.get("grid", {})):
            expanded[name + "".join(f",{option}={value}" for option, value in chosen.items())] = rest | chosen
    return expanded


def expanded_starts(starts: dict) -> dict[str, dict]:
    """Starts by name; one with `models` (name -> folder) becomes one start for each of them, whose tags say of which start it is one
    (`rung`) and of which model.
    """
    expanded = {}
    for name, settings in starts.items():
        if "models" not in settings:
            expanded[name] = settings
        for model, folder in settings.get("models", {}).items():
            rest = {key: value for key, value in settings.items() if key != "models"}
            tags = rest.get("tags", {}) | {"rung": name, "model": model}
            expanded[f"{name} {model}"] = rest | {"model_name_or_path": folder, "tags": tags}
    return expanded


def planned_runs(config: dict, output_dir: Path, study_folder: Path | None = None) -> Iterator[PlannedRun]:
    """All runs of a study, seed by seed, so that an unfinished study has whole comparisons.

    An arm's settings go over its start's and those over the shared ones; `by_start` in an arm holds settings of one start, and
    the study's `tuned` the settings that a search found (start -> arm -> options). An arm that is not tuned itself but in
    another's place names it in `tuned_as`. `only` in an arm names the starts it is run from. A start of several `models` may be named
    in all of these as itself or model by model. `tags` of the study, the start and the arm go to the run's manifest together.
    """
    known = programs(study_folder)
    for seed in config["seeds"]:
        for start, start_settings in expanded_starts(config["starts"]).items():
            rung = start_settings.get("tags", {}).get("rung", start)
            for arm, arm_settings in expanded_arms(config["arms"]).items():
                if not {start, rung} & {*arm_settings.get("only", [start])}:
                    continue
                of_search, of_start = {}, {}
                for name in (rung, start):
                    of_search |= config.get("tuned", {}).get(name, {}).get(arm_settings.get("tuned_as", arm), {})
                    of_start |= arm_settings.get("by_start", {}).get(name, {})
                settings = {**config["shared"], **start_settings, **arm_settings, **of_search, **of_start}
                recipe = settings.pop("recipe")
                for key in ("by_start", "tuned_as", "only", "tags"):
                    settings.pop(key, None)
                tags = {}
                for tagged in (config["shared"], start_settings, arm_settings):
                    tags |= tagged.get("tags", {})
                if tags:
                    settings["tags"] = [f"{key}={value}" for key, value in tags.items()]
                run_dir = output_dir / f"{start}-{arm}-seed{seed}"
                settings |= {"arm": arm, "start": start, "seed": seed, "output_dir": run_dir}
                program, recipe_config = known[recipe]
                command = [str(program), "--config", str(recipe_config), *options_of(settings)]
                yield PlannedRun(run_dir, recipe_config, command)
