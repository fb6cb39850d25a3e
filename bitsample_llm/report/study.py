"""What a study declares of itself: its question, its answer, its claims, tables and pictures. `page.py` writes it down."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from bitsample_llm.report.claims import Claim


@dataclass(frozen=True)
class Headline:
    """One of the numbers that a page begins with: the value, what it is, and how it was come by."""

    value: str
    meaning: str
    detail: str


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading row; headings carry the units."""

    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""
    definitions: Sequence[str] = ()  # what the columns mean, a sentence each


@dataclass(frozen=True)
class Picture:
    """A figure that answers the question in its title."""

    name: str  # of its PNG file
    title: str
    draw: Callable[[], Figure]  # makes the figure; points whose `gid` is a text of `tips` show that text on hover
    caption: str  # how to read it


@dataclass(frozen=True)
class Study:
    """Everything on a study's page, in the order in which it is told. What has no data is left out by who declares it."""

    title: str
    question: str
    answer: str  # the headline, one sentence made of the numbers
    main: Picture | None  # the figure that answers the question; None where nothing can be drawn
    table: Table  # the first one, not folded
    how_to_read: str
    provenance: str
    headlines: Sequence[Headline] = ()  # the numbers below the answer, three at most
    sentences: Sequence[str] = ()  # findings in plain words, the most important first; a terminal shows three
    claims: Sequence[Claim] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    terminal: Sequence[Table] = ()  # for a terminal, at most 100 columns wide; `table` where there are none
    left_out: Sequence[str] = ()  # runs that could not be used, with the reason of each
    results: dict = field(default_factory=dict)  # what results.json holds besides the claims

    @property
    def all_pictures(self) -> list[Picture]:
        """The main one first."""
        return [*([self.main] if self.main else []), *self.pictures]
