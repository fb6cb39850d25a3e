"""Who may import whom: the record on disk is the only thing that the evaluation reads, and torch starts at rank 3."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
RANKS = {
    "": 0,  # the package itself, which brings in the meter only when it is asked for
    "information": 0,
    "estimators": 0,
    "flops": 0,
    "glossary": 0,
    "options": 0,
    "tasks": 1,
    "credit": 1,
    "records": 2,
    "run_lock": 2,
    "run_writer": 2,
    "record_checks": 2,
    "__main__": 2,
    "spellings": 3,
    "answer_end": 3,
    "likelihood": 3,
    "flop_counter": 4,
    "InformationMeter": 4,
    "meter": 4,
    "observers": 4,
    "rollouts": 4,
    "evaluator": 4,
    "rewards": 4,
    "rejection": 4,
    "measurement": 4,
    "recorder": 4,
    "probes": 4,
    "processes": 4,
    "process_grpo": 4,
    "objectives": 4,
    "memorisation": 4,
    "early_stop": 4,
    "pretrained": 4,
    "model_card": 4,
    "budget": 4,
    "judge": 4,
    "plain_number": 4,
    "verifiers": 4,
    "dataset_task": 4,
    "dataset_rows": 4,
    "prompt_format": 4,
    "gradient_noise": 4,
    "loading": 4,
    "study": 4,
}
EVAL_RANK = 2
# What a rank may import besides the standard library; rank 4 anything.
PACKAGES_BY_RANK = {0: {"numpy", "scipy"}, 1: {"numpy"}, 2: {"filelock", "numpy", "pyarrow"}, 3: {"numpy", "torch"}}
BARRED_FROM_EVAL = {"torch", "transformers", "trl", "datasets", "accelerate", "peft"}
DRAWERS = {"utils", "common", "helpers", "misc", "core", "base"}
SOURCES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path
    for folder in ("bitsample_llm", "recipes", "eval")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}


def rank_of(module: str) -> int | None:
    """Rank of a module of the library, by its first name below the package; None where the table does not know it."""
    name = module.removeprefix("bitsample_llm").removeprefix(".").split(".")[0]
    return RANKS.get("" if name == "__init__" else name)


def nodes(tree: ast.AST, into_functions: bool):
    """All nodes, with or without what stands in functions."""
    for node in ast.iter_child_nodes(tree):
        if into_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from nodes(node, into_functions)


def imported_modules(module: str, source: str) -> list[str]:
    """Full names that a source imports; of `from a import b`, `a.b` where a is the library itself, else `a`."""
    found = []
    for node in nodes(ast.parse(source), into_functions=not module.endswith("__init__")):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            found += [f"{origin}.{alias.name}" for alias in node.names] if origin == "bitsample_llm" else [origin]
    return found


def breaches(module: str, source: str) -> list[str]:
    """What a source imports against the rules, in words."""
    folder, *_ = module.split(".")
    rank = {"bitsample_llm": rank_of(module), "eval": EVAL_RANK, "recipes": max(RANKS.values())}[folder]
    if rank is None:
        return [f"{module} has no rank: add it to RANKS in {Path(__file__).name}"]
    found = []
    for target in imported_modules(module, source):
        package, *_ = target.split(".")
        if package == "bitsample_llm":
            target_rank = rank_of(target)
            if target_rank is None:
                found.append(f"{module} imports {target}, which has no rank: add it to RANKS in {Path(__file__).name}")
            elif target_rank > rank:
                found.append(f"{module} of rank {rank} imports {target} of rank {target_rank}")
        elif package in ("eval", "recipes"):
            if folder not in (package, "recipes"):
                found.append(f"{module} imports {target}: what runs and what evaluates meet in records only")
        elif folder == "eval":
            if package in BARRED_FROM_EVAL:
                found.append(f"{module} imports {target}: the evaluation reads records only")
        elif rank in PACKAGES_BY_RANK and package not in PACKAGES_BY_RANK[rank] | sys.stdlib_module_names:
            found.append(f"{module} of rank {rank} imports {target}")
    return found


@pytest.mark.parametrize("module", SOURCES)
def test_module_imports_its_own_rank_or_a_lower_one(module):
    assert breaches(module, SOURCES[module].read_text()) == []


@pytest.mark.parametrize("name", sorted(set(RANKS) - {"", "InformationMeter"}))
def test_table_of_ranks_names_only_what_exists(name):
    assert f"bitsample_llm.{name}" in SOURCES or f"bitsample_llm.{name}.__init__" in SOURCES


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bitsample_llm.information", "import torch"),
        ("bitsample_llm.information", "import pyarrow.parquet as pq"),
        ("bitsample_llm.information", "from bitsample_llm.tasks import Problem"),
        ("bitsample_llm.information", "from bitsample_llm import records"),
        ("bitsample_llm.estimators", "from . import tasks"),
        ("bitsample_llm.estimators", "from .meter import InformationMeter"),
        ("bitsample_llm.flops", "def f():\n    import transformers"),
        ("bitsample_llm.flops", "import os, torch.nn"),
        ("bitsample_llm.tasks.arithmetic", "from scipy import stats"),
        ("bitsample_llm.tasks.arithmetic", "from ..records import RunWriter"),
        ("bitsample_llm.tasks.__init__", "import datasets"),
        ("bitsample_llm.__init__", "from bitsample_llm.meter.callback import InformationMeter"),
        ("bitsample_llm.__init__", "try:\n    import torch\nexcept ImportError:\n    pass"),
        ("bitsample_llm.records", "import pandas"),
        ("bitsample_llm.records", "from bitsample_llm.scoring.likelihood import answer_logprobs"),
        ("bitsample_llm.__main__", "from bitsample_llm import InformationMeter"),
        ("bitsample_llm.scoring.likelihood", "import transformers"),
        ("bitsample_llm.meter.flop_counter", "if True:\n    from trl import GRPOTrainer"),
        ("bitsample_llm.scoring.likelihood", "from bitsample_llm.meter import callback"),
        ("bitsample_llm.meter.callback", "from eval.report import main"),
        ("bitsample_llm.meter.callback", "import recipes.grpo"),
        ("bitsample_llm.meter.callback", "from bitsample_llm.novelty import thing"),
        ("bitsample_llm.novelty", ""),
        ("eval.report", "from bitsample_llm.meter.flop_counter import FlopCounter"),
        ("eval.report", "from bitsample_llm import InformationMeter"),
        ("eval.report", "import recipes.study"),
        *(("eval.report", f"def f():\n    from {package} import anything") for package in sorted(BARRED_FROM_EVAL)),
    ],
)
def test_breach_is_found(module, source):
    assert len(breaches(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bitsample_llm.__init__", "def __getattr__(name):\n    from bitsample_llm.meter.callback import InformationMeter"),
        ("bitsample_llm.estimators", "from .information import surprisal_bits\nfrom scipy import stats\nimport math"),
        ("bitsample_llm.tasks.corpus", "from .problem import Problem\nfrom bitsample_llm import information"),
        ("bitsample_llm.meter.callback", "import torch, trl\nfrom bitsample_llm.records import RunWriter"),
        ("eval.report", "import matplotlib\nfrom eval.arms import Arm\nfrom bitsample_llm import records"),
        ("recipes.sft", "import trl\nfrom bitsample_llm import InformationMeter"),
    ],
)
def test_permitted_import_is_no_breach(module, source):
    assert breaches(module, source) == []


def test_no_file_is_a_drawer_for_everything():
    files = [path for path in [*SOURCES.values(), *(REPOSITORY / "tests").rglob("*.py")] if path.stem in DRAWERS]
    assert files == []


def heavy_packages_loaded_by(modules: list[str]) -> set[str]:
    """Which packages that the evaluation may not use are loaded once a fresh interpreter has imported the modules."""
    program = f"import {', '.join(modules)}, sys\nprint(*{BARRED_FROM_EVAL} & set(sys.modules))"
    finished = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return set(finished.stdout.split())


def test_bits_tasks_records_and_the_report_load_no_torch():
    modules = [f"bitsample_llm.{name}" for name, rank in RANKS.items() if rank <= EVAL_RANK and name]
    assert heavy_packages_loaded_by([*modules, "eval.report"]) == set()


def test_likelihood_and_flop_counter_load_torch_and_nothing_above_it():
    modules = [f"bitsample_llm.{name}" for name, rank in RANKS.items() if rank == EVAL_RANK + 1]
    assert heavy_packages_loaded_by(modules) == {"torch"}
