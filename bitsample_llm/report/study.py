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
    """Rows of text under a heading row; headings carry the units.

    Attributes:
        definitions: what the columns mean, a sentence each.
    """

    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""
    definitions: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A figure that answers the question in its title.

    Attributes:
        name: of its PNG file.
        draw: makes the figure; points whose `gid` is a text of `tips` show that text on hover.
        caption: how to read it.
    """

    name: str
    title: str
    draw: Callable[[], Figure]
    caption: str


@dataclass(frozen=True)
class Study:
    """Everything on a study's page, in the order in which it is told. What has no data is left out by who declares it.

    Attributes:
        answer: the headline, one sentence made of the numbers.
        headlines: the numbers below it, three at most.
        sentences: findings in plain words, the most important first; a terminal shows three.
        main: the figure that answers the question; None where nothing can be drawn.
        table: the first table, not folded.
        terminal: tables for a terminal, at most 100 columns wide; `table` where there are none.
        left_out: runs that could not be used, with the reason of each.
        results: what results.json holds besides the claims.
    """

    title: str
    question: str
    answer: str
    main: Picture | None
    table: Table
    how_to_read: str
    provenance: str
    headlines: Sequence[Headline] = ()
    sentences: Sequence[str] = ()
    claims: Sequence[Claim] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    terminal: Sequence[Table] = ()
    left_out: Sequence[str] = ()
    results: dict = field(default_factory=dict)

    @property
    def all_pictures(self) -> list[Picture]:
        """The main one first."""
        return [*([self.main] if self.main else []), *self.pictures]
