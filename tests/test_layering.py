"""Who may import whom: rooms are folders, the record on disk is the only thing that the report reads, and torch starts at scoring."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path
    for folder in ("bitsample_llm", "recipes", "eval", "data")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}
# Room -> what it may import besides itself. Ground is what lies beside the folders of bitsample_llm.
GROUND = {"ground"}
RECORDED = GROUND | {"tasks", "records"}
TRAINING = RECORDED | {"scoring", "meter", "training"}
ROOMS = {
    "ground": set(),
    "tasks": GROUND,
    "records": GROUND,
    "report": RECORDED,
    "scoring": RECORDED,
    "meter": RECORDED | {"scoring"},
    "training": RECORDED | {"scoring", "meter"},
    "measure": TRAINING,
    "command": GROUND | {"report"},
    "eval": RECORDED | {"report"},
    "making": TRAINING | {"report", "measure"},  # a study's own measurements: make_*.py in its folder
    "recipes": TRAINING | {"report", "measure"},
    "data": TRAINING,  # how the pretrained models were made
}
# What a room may import besides the standard library; anything where it is not named.
PACKAGES = {
    "ground": {"numpy", "scipy"},
    "tasks": {"numpy", "psutil"},  # psutil: a judge is a process, and its time is limited
    "records": {"filelock", "numpy", "pyarrow"},
    "report": {"matplotlib", "numpy", "pyarrow", "scipy"},
    "scoring": {"numpy", "torch"},
    "meter": {"accelerate", "numpy", "torch", "tqdm", "transformers", "trl"},
    "command": set(),
}
PACKAGES_OF_DATASETS = {"datasets", "numpy", "pyarrow"}  # in the modules dataset_*.py of tasks
HEAVY = {"accelerate", "datasets", "peft", "torch", "transformers", "trl"}  # nothing of these in eval and report
# Files of bitsample_llm that lie on the ground and belong elsewhere: the command line, and a name that others rely on.
ELSEWHERE = {"__main__": "command", "likelihood": "scoring", "InformationMeter": "meter"}
DRAWERS = {"utils", "common", "helpers", "misc", "core", "base"}
MOST_LINES = 350
LONG: dict[str, str] = {}  # file -> why it is long
MOST_LINES_OF_THE_METER = 3040


def room_of(module: str) -> str | None:
    """The room of a module by its folder; None where it lies in a folder that is none."""
    package, *parts = module.removesuffix(".__init__").split(".")
    if study_of(module) and is_named(module, "make_"):
        return "making"
    if package != "bitsample_llm":
        return package
    if len(parts) > 1 or (parts and (REPOSITORY / package / parts[0]).is_dir()):
        return parts[0] if parts[0] in ROOMS else None
    return ELSEWHERE.get(parts[0], "ground") if parts else "ground"


def exists(module: str) -> bool:
    """Whether a name of the library is a module, a folder or the meter."""
    return module in SOURCES or f"{module}.__init__" in SOURCES or module == "bitsample_llm.InformationMeter"


def nodes(tree: ast.AST, into_functions: bool):
    """All nodes, with or without what stands in functions."""
    for node in ast.iter_child_nodes(tree):
        if into_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from nodes(node, into_functions)


def imported_modules(module: str, source: str) -> list[str]:
    """Full names that a source imports; of `from a import b`, `a.b` where that is a module or a is the library itself, else `a`. What the package and
    the command line import in functions is left out: it is there so that the rest can do without it."""
    is_late = module in ("bitsample_llm.__init__", "bitsample_llm.__main__")
    found = []
    for node in nodes(ast.parse(source), into_functions=not is_late):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
            found += [name if origin == "bitsample_llm" or name in SOURCES else origin for name in names]
    return found


def is_named(module: str, start: str) -> bool:
    """Whether a module's file name begins so."""
    return module.rpartition(".")[2].startswith(start)


def study_of(module: str) -> str | None:
    """The study that a module belongs to."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["eval", "studies"] and len(parts) > 3 else None


def breach_of_rooms(module: str, target: str) -> str | None:
    """What is wrong with an import from the library, in words; None if nothing is."""
    room, target_room = room_of(module), room_of(target)
    if not exists(target) or target_room is None:
        return f"{module} imports {target}, which is in no room"
    return None if target_room in ROOMS[room] | {room} else f"{module} of {room} imports {target} of {target_room}"


def breach_of_records(module: str, target: str) -> str | None:
    """What is wrong with an import from eval, recipes or data, in words; None if nothing is."""
    package, *parts = target.split(".")
    if module.split(".", maxsplit=1)[0] != package:
        return f"{module} imports {target}: what runs and what evaluates meet in records only"
    if room_of(target) == "making" != room_of(module):
        return f"{module} imports {target}: what makes measurements loads torch, and is run by hand"
    study = parts[1] if parts[:1] == ["studies"] and len(parts) > 1 else None
    is_own = package == "recipes" or study in (None, study_of(module))
    return None if is_own else f"{module} imports {target}: a study is a folder that can be deleted"


def breach_of_packages(module: str, target: str) -> str | None:
    """What is wrong with an import of another package, in words; None if nothing is."""
    room, (package, *_) = room_of(module), target.split(".")
    is_of_dataset = room == "tasks" and is_named(module, "dataset_")
    allowed = PACKAGES_OF_DATASETS if is_of_dataset else PACKAGES.get(room)
    if (room in ("eval", "report") and package in HEAVY) or (
        allowed is not None and package not in allowed | sys.stdlib_module_names
    ):
        return f"{module} of {room} imports {target}"
    return None


def breaches(module: str, source: str) -> list[str]:
    """What a source imports against the rules, in words."""
    if room_of(module) is None:
        return [f"{module} is in no room: give its folder a place in ROOMS of {Path(__file__).name}"]
    rules = {"bitsample_llm": breach_of_rooms, **dict.fromkeys(("eval", "recipes", "data"), breach_of_records)}
    told = [rules.get(target.split(".")[0], breach_of_packages)(module, target) for target in imported_modules(module, source)]
    return [words for words in told if words]


@pytest.mark.parametrize("module", SOURCES)
def test_module_imports_its_own_room_or_one_below(module):
    assert breaches(module, SOURCES[module].read_text()) == []


def test_every_folder_of_the_library_is_a_room_and_every_room_a_folder():
    folders = {path.parent.name for path in (REPOSITORY / "bitsample_llm").glob("*/__init__.py")}
    assert folders == set(ROOMS) - {"ground", "command", "eval", "making", "recipes", "data"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bitsample_llm.information", "import torch"),
        ("bitsample_llm.information", "import pyarrow.parquet as pq"),
        ("bitsample_llm.information", "from bitsample_llm.tasks import Problem"),
        ("bitsample_llm.information", "from bitsample_llm import records"),
        ("bitsample_llm.estimators", "from . import tasks"),
        ("bitsample_llm.estimators", "from .meter import callback"),
        ("bitsample_llm.flops", "def f():\n    import transformers"),
        ("bitsample_llm.flops", "import os, torch.nn"),
        ("bitsample_llm.tasks.arithmetic", "from scipy import stats"),
        ("bitsample_llm.tasks.arithmetic", "import datasets"),
        ("bitsample_llm.tasks.arithmetic", "from ..records import RunWriter"),
        ("bitsample_llm.tasks.dataset_rows", "import torch"),
        ("bitsample_llm.tasks.__init__", "import datasets"),
        ("bitsample_llm.tasks.__init__", "def load_task():\n    from bitsample_llm.scoring import likelihood"),
        ("bitsample_llm.__init__", "from bitsample_llm.meter.callback import InformationMeter"),
        ("bitsample_llm.__init__", "try:\n    import torch\nexcept ImportError:\n    pass"),
        ("bitsample_llm.records.__init__", "import pandas"),
        ("bitsample_llm.records.writer", "from bitsample_llm.tasks import Problem"),
        ("bitsample_llm.records.writer", "from bitsample_llm.scoring.likelihood import answer_logprobs"),
        ("bitsample_llm.records.writer", "from bitsample_llm.likelihood import answer_logprobs"),
        ("bitsample_llm.report.runs", "from bitsample_llm.meter.flop_counter import FlopCounter"),
        ("bitsample_llm.report.runs", "from bitsample_llm import InformationMeter"),
        ("bitsample_llm.report.plan.page", "from bitsample_llm.measure import command"),
        ("bitsample_llm.report.plan.page", "import pandas"),
        ("bitsample_llm.report.runs", "import eval.archive"),
        *(("bitsample_llm.report.runs", f"def f():\n    from {package} import anything") for package in sorted(HEAVY)),
        ("bitsample_llm.__main__", "from bitsample_llm import InformationMeter"),
        ("bitsample_llm.__main__", "from bitsample_llm.measure.command import main"),
        ("bitsample_llm.__main__", "import torch"),
        ("bitsample_llm.scoring.likelihood", "import transformers"),
        ("bitsample_llm.scoring.likelihood", "from bitsample_llm.meter import callback"),
        ("bitsample_llm.scoring.likelihood", "from bitsample_llm.report import runs"),
        ("bitsample_llm.meter.flop_counter", "if True:\n    from datasets import Dataset"),
        ("bitsample_llm.meter.callback", "from bitsample_llm.training.budget import FlopBudget"),
        ("bitsample_llm.meter.callback", "from eval.report import main"),
        ("bitsample_llm.meter.callback", "import recipes.grpo"),
        ("bitsample_llm.meter.callback", "from bitsample_llm.novelty import thing"),
        ("bitsample_llm.training.run", "from bitsample_llm.measure.probes import with_mark"),
        ("bitsample_llm.training.run", "from bitsample_llm.report.runs import Arm"),
        ("bitsample_llm.novelty.thing", ""),
        ("recipes.study", "from eval.studies.quick.__main__ import quick_study"),
        ("eval.report", "from bitsample_llm.meter.flop_counter import FlopCounter"),
        ("eval.report", "from bitsample_llm import InformationMeter"),
        ("eval.report", "import recipes.study"),
        ("eval.report", "from eval.studies.quick.__main__ import quick_study"),
        ("eval.studies.quick.__main__", "from eval.studies.ladder.rungs import Ladder"),
        ("eval.studies.quick.claims", "from bitsample_llm.training import planned_runs"),
        ("eval.studies.quick.claims", "import recipes.sft"),
        ("eval.studies.ladder.claims", "from eval.studies.ladder import make_noise"),
        ("eval.studies.ladder.claims", "from eval.studies.ladder.make_noise import score_of"),
        ("eval.studies.ladder.make_noise", "import recipes.sft"),
        ("eval.studies.ladder.make_noise", "from eval.studies.quick import __main__"),
        ("data.pretraining.corpus", "from bitsample_llm.report import runs"),
        ("data.pretraining.corpus", "from recipes.sft import main"),
        ("bitsample_llm.training.run", "from data.pretraining.corpus import TEXTS"),
        *(("eval.report", f"def f():\n    from {package} import anything") for package in sorted(HEAVY)),
    ],
)
def test_breach_is_found(module, source):
    assert len(breaches(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bitsample_llm.__init__", "def __getattr__(name):\n    from bitsample_llm.meter.callback import InformationMeter"),
        ("bitsample_llm.__main__", "def measure():\n    from bitsample_llm.measure.command import main"),
        ("bitsample_llm.__main__", "from bitsample_llm.report.command import report"),
        ("bitsample_llm.estimators", "from .information import surprisal_bits\nfrom scipy import stats\nimport math"),
        ("bitsample_llm.likelihood", "from bitsample_llm.scoring.likelihood import answer_logprobs"),
        ("bitsample_llm.tasks.scratchpad", "from .problem import Problem\nfrom bitsample_llm import information"),
        ("bitsample_llm.tasks.dataset_rows", "import datasets, pyarrow"),
        ("bitsample_llm.report.plan.page", "import matplotlib\nfrom bitsample_llm.report.study import Study"),
        ("bitsample_llm.meter.callback", "import torch, trl\nfrom bitsample_llm.records.writer import RunWriter"),
        ("bitsample_llm.measure.probes", "import datasets\nfrom bitsample_llm.training.rewards import VerdictReward"),
        ("eval.report", "import matplotlib\nfrom eval.archive import archive\nfrom bitsample_llm import records"),
        (
            "eval.studies.ladder.claims",
            "import yaml\nfrom eval.studies.ladder.rungs import Ladder\nfrom bitsample_llm.report import runs",
        ),
        ("eval.studies.exchange.make_data_limited", "from eval.studies.exchange.make_bench import Bench"),
        (
            "eval.studies.ladder.make_noise",
            "import torch\nfrom eval.studies.ladder import noise\nfrom bitsample_llm.training.run import set_up_process",
        ),
        ("data.pretraining.pretrain", "import torch\nfrom corpus import TEXTS\nfrom bitsample_llm.meter import flop_counter"),
        ("recipes.sft", "import trl\nfrom bitsample_llm import InformationMeter"),
    ],
)
def test_permitted_import_is_no_breach(module, source):
    assert breaches(module, source) == []


def test_no_file_is_a_drawer_for_everything():
    files = [path for path in [*SOURCES.values(), *(REPOSITORY / "tests").rglob("*.py")] if path.stem in DRAWERS]
    assert files == []


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_a_long_file_has_a_reason_and_only_a_long_one_has():
    files = {str(path.relative_to(REPOSITORY)) for path in SOURCES.values() if num_lines(path) > MOST_LINES}
    assert sorted(files - set(LONG)) == []  # each is two ideas, or LONG says why not
    assert sorted(set(LONG) - files) == []  # short enough: take it out of LONG


def output_of(program: str) -> list[str]:
    """The words that a fresh interpreter prints."""
    finished = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.split()


def heavy_packages_loaded_by(modules: list[str]) -> set[str]:
    """Which packages that the evaluation may not use are loaded once a fresh interpreter has imported the modules."""
    return set(output_of(f"import {', '.join(modules)}, sys\nprint(*{HEAVY} & set(sys.modules))"))


def modules_in(*rooms: str) -> list[str]:
    """Modules of the rooms that a reader of records imports: no command line, nothing that makes measurements or reads data sets."""
    late = ("__main__", "make_", "dataset_")
    return [
        name.removesuffix(".__init__")
        for name in SOURCES
        if room_of(name) in rooms and not any(is_named(name, start) for start in late)
    ]


def test_ground_tasks_records_report_and_eval_load_no_torch():
    modules = modules_in("ground", "tasks", "records", "report", "eval")
    assert len(modules) > 40
    studies = [name for name in SOURCES if study_of(name) and name.endswith("__main__")]
    assert heavy_packages_loaded_by([*modules, *studies, "bitsample_llm.__main__"]) == set()


def test_scoring_loads_torch_and_nothing_above_it():
    assert heavy_packages_loaded_by(modules_in("scoring")) == {"torch"}


def test_the_meter_alone_loads_few_lines_and_no_arithmetic():
    program = (
        "import sys\nfrom bitsample_llm import InformationMeter\nprint(*[m for m in sys.modules if m.startswith('bitsample_llm')])"
    )
    loaded = output_of(program)
    lines = {name: num_lines(SOURCES[name if name in SOURCES else f"{name}.__init__"]) for name in loaded}
    assert sum(lines.values()) <= MOST_LINES_OF_THE_METER, lines
    assert {room_of(name) for name in loaded} == {"ground", "records", "scoring", "meter"}  # and no tasks
    for needed_later in ("meter.heldout", "meter.verdicts", "scoring.likelihood"):
        assert f"bitsample_llm.{needed_later}" not in loaded
