"""The table of remedies: verdicts of known factors, and a list that names only what the records hold."""

import pytest
import yaml
from conftest import REPOSITORY

from bitsample_llm.records import RecordError
from bitsample_llm.report.prices import read_prices
from bitsample_llm.report.remedies import Prices
from eval.studies.remedies import __main__ as remedies


def made_cell(
    plain: list[tuple[float, bool]], with_remedy: list[tuple[float, bool]], num_models: int = 2, **about
) -> remedies.Cell:
    """A cell whose runs paid this at each of some pretraining seeds."""
    prices = [Prices({f"model {place}": runs for place in range(num_models)}) for runs in (plain, with_remedy)]
    facts = {"remedy": "made", "essay": "says so", "is_bound": False, "start": "rare", "rung": "made G", "pass_rate": 0.01} | about
    return remedies.Cell(**facts, plain=(prices[0],) * 2, with_remedy=(prices[1],) * 2)


def kept(price: float) -> list[tuple[float, bool]]:
    return [(price, True)] * 3


def lost(price: float) -> list[tuple[float, bool]]:
    return [(price, False)] * 3


@pytest.mark.parametrize(
    ("plain", "with_remedy", "num_models", "verdict"),
    [
        (kept(10), kept(5), 2, "pays"),
        (kept(10), kept(5), 1, "pays (1 model)"),
        (kept(10), kept(20), 2, "costs more"),
        (kept(10), kept(9.5), 2, "undecided"),
        (kept(10), [(5.0, True), (30.0, True), (9.0, True)], 1, "undecided"),
        (lost(100), kept(5), 2, "pays, bounded"),
        (kept(10), lost(100), 2, "costs more, bounded"),
        (lost(100), kept(99), 2, "undecided"),
        (kept(100), lost(99), 2, "undecided"),
        (lost(100), lost(100), 2, "no price"),
    ],
)
def test_verdicts(plain, with_remedy, num_models, verdict):
    assert made_cell(plain, with_remedy, num_models).verdict == verdict


def test_every_cell_of_the_list_is_in_its_record():
    runs_of = {}
    for remedy, listed in yaml.safe_load(remedies.LISTED.read_text()).items():
        for cell in listed["cells"]:
            assert cell["start"] in remedies.STARTS
            folder = REPOSITORY / "eval" / "records" / cell["record"] / "runs"
            runs = runs_of.setdefault(folder, read_prices([folder]))
            assert remedies.cell_of(remedy, listed, cell, runs).pass_rate > 0
    with pytest.raises(RecordError, match="has no runs of nobody at"):
        remedies.cell_of(remedy, listed, cell | {"arm": "nobody"}, runs)


def test_the_page_counts_what_can_be_had():
    cells = [
        made_cell(kept(10), kept(5)),
        made_cell(kept(10), kept(20), start="middling"),
        made_cell(kept(10), lost(100), start="unacquired", remedy="another"),
        made_cell(kept(10), kept(1), is_bound=True, remedy="free"),
    ]
    study = remedies.remedies_study(cells, "made")
    assert study.answer == "Of 3 tests of remedies that can be had, 1 pay by the threshold and 2 cost more."
    assert [row[0] for row in study.tables[0].rows[1:]] == ["made", "another", "free (bound)"]
    assert study.tables[0].rows[1][2:] == ["pays", "costs more", "–", "–"]
    assert study.main.draw().axes
    assert study.results["cells"][0]["half of the bits"]["mean"] == pytest.approx(2)
