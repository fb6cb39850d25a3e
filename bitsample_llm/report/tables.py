"""The tables of a comparison: a row for each arm, a column for each number."""

from collections.abc import Callable, Sequence

from bitsample_llm.report import columns, sampled
from bitsample_llm.report.columns import Column
from bitsample_llm.report.estimates import number_text
from bitsample_llm.report.runs import Arm
from bitsample_llm.report.study import Table

BRACKETS = "Brackets hold the 95 % t interval over seeds."
THOUSANDS = ("", "thousand ", "million ", "billion ")
Cell = Callable[[Arm], str]


def arm_table(
    title: str, arms: Sequence[Arm], cells: dict[str, Cell], note: str = BRACKETS, definitions: Sequence[str] = ()
) -> Table:
    """A row for each arm; `cells` says what stands under each heading."""
    rows = [[arm.start, arm.name, *(cell(arm) for cell in cells.values())] for arm in arms]
    return Table(title, [["start", "arm", *cells], *rows], note, definitions)


def num_seeds(arm: Arm) -> str:
    """How many runs an arm has."""
    return str(len(arm.runs))


def text_of(column: Column, scale: float | None = None) -> Cell:
    """Mean and interval of a column, in the unit of its heading or times `scale`."""
    return lambda arm: arm.estimate(column).text(column.scale if scale is None else scale)


def mean_of(column: Column) -> Cell:
    """The mean alone."""

    def cell(arm: Arm) -> str:
        mean = arm.estimate(column).mean
        return number_text(None if mean is None else mean * column.scale)

    return cell


def defined(shown: Sequence[Column]) -> list[str]:
    """What the columns mean, a line each."""
    return [f"{column.heading}: {column.definition}" for column in shown]


def column_table(title: str, arms: Sequence[Arm], shown: Sequence[Column]) -> Table:
    """Columns as they are declared; those that no arm has are left out."""
    shown = [column for column in shown if any(arm.measured(column) for arm in arms)]
    cells = {sampled.titled(arms, column): text_of(column) for column in shown}
    return arm_table(title, arms, {"seeds": num_seeds, **cells}, definitions=defined(shown))


def equation_table(arms: Sequence[Arm]) -> Table:
    """samples / FLOP x bits / sample = bits / FLOP, for every arm: offered, then absorbed."""
    per_flop = (columns.SAMPLES_PER_PETAFLOP, columns.OFFERED_PER_PETAFLOP, columns.RATE_BEFORE_SATURATION)
    largest = max((abs(value) for column in per_flop for arm in arms for value in arm.measured(column)), default=1.0)
    power = min(max(0, (len(f"{largest:.0f}") - 1) // 3), len(THOUSANDS) - 1)
    samples, offered, absorbed = (text_of(column, 1000.0**-power) for column in per_flop)
    word = THOUSANDS[power]
    cells = {
        f"samples per PFLOP ({word.strip() or '1'})": samples,
        "× offered bits per sample": text_of(columns.OFFERED_PER_SAMPLE),
        f"= offered bits per PFLOP ({word}bits)": offered,
        f"absorbed bits per PFLOP ({word}bits)": absorbed,
        columns.EVENTS_PER_THOUSAND_PASSES.heading: mean_of(columns.EVENTS_PER_THOUSAND_PASSES),
    }
    shown = (per_flop[0], columns.OFFERED_PER_SAMPLE, per_flop[2], columns.EVENTS_PER_THOUSAND_PASSES)
    title = "The essay's equation: samples / FLOP × bits / sample = bits / FLOP"
    return arm_table(title, arms, cells, definitions=defined(shown))


def terminal_table(arms: Sequence[Arm]) -> Table:
    """The columns that matter most, for 100 columns of a terminal."""
    before, after = mean_of(columns.PASS_RATE_BEFORE), mean_of(columns.PASS_RATE_AFTER)
    cells = {
        "seeds": num_seeds,
        "absorbed bits": text_of(columns.ABSORBED_BITS),
        "pass rate": lambda arm: f"{before(arm)} → {after(arm)}",
        "offered bits/sample": mean_of(columns.OFFERED_PER_SAMPLE),
        "GFLOP": mean_of(columns.TOTAL_FLOPS),
    }
    return arm_table("Arms", arms, cells)


def sampled_table(arms: Sequence[Arm]) -> Table:
    """Pass rates from rollouts with their intervals over problems, averaged over seeds, and the reference answer's surprisal."""

    def over_problems(index: int) -> Cell:
        return lambda arm: sampled.mean_over_problems(arm, index).text()

    cells = {
        "seeds": num_seeds,
        "problems": lambda arm: str(len(arm.runs[0].curve.problem_ids)),
        "pass rate before, interval over problems": over_problems(0),
        "after, interval over problems": over_problems(-1),
        "after, interval over seeds": text_of(columns.PASS_RATE_AFTER),
        "pass-rate bits, interval over seeds": text_of(columns.PASS_RATE_BITS),
        "evaluations without a pass": lambda arm: "{} of {}".format(*sampled.evaluations_without_a_pass(arm)),
        "surprisal of the reference answer before (bits)": text_of(columns.REFERENCE_SURPRISAL_BEFORE),
        "after (bits)": text_of(columns.REFERENCE_SURPRISAL_AFTER),
    }
    note = f"From {sampled.rollouts_per_problem(arms)} rollouts per problem and evaluation."
    return arm_table("Pass rates from rollouts", arms, cells, note)


def detail_tables(arms: Sequence[Arm]) -> list[Table]:
    """All other columns, in tables narrow enough for a screen."""
    phases = [column for column in columns.FLOPS_BY_PHASE.values() if any(any(arm.measured(column)) for arm in arms)]
    groups = {
        "What was absorbed": (
            *(columns.ABSORBED_BITS, columns.ABSORBED_MEDIAN, columns.ABSORBED_GAINS, columns.ABSORBED_LOSSES),
            *(columns.PASS_RATE_BEFORE, columns.PASS_RATE_AFTER, columns.PASS_RATE_BITS),
        ),
        "What it cost": (
            *(columns.TOTAL_FLOPS, columns.TOTAL_SECONDS, columns.SAMPLES, columns.UPDATES, columns.FLOPS_TO_TARGET),
            *(columns.SAMPLES_TO_TARGET, columns.UPDATES_TO_TARGET),
        ),
        "On other problems": tuple(columns.ABSORBED_ON.values()),
        "Rates and curves": (
            *(columns.ABSORBED_PER_PETAFLOP, columns.ABSORBED_PER_SECOND, columns.OFFERED_PER_SECOND),
            *(columns.CURVE_SCORE, columns.UPDATE_NORM),
        ),
        "Groups of rollouts": (columns.INFORMATIVE, columns.INFORMATIVE_PREDICTED, columns.DEAD_SHARE),
        "FLOPs by phase": (*phases, columns.USEFUL_SHARE),
    }
    tables = [column_table(title, arms, shown) for title, shown in groups.items()]
    return [table for table in tables if len(table.rows[0]) > 3]
