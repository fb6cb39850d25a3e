"""Numbers and estimates of the plan as text."""

from bitsample_llm.report.estimates import Estimate
from bitsample_llm.report.estimates import number_text as number

__all__ = ["estimate", "number"]


def estimate(summary: dict, scale: float = 1.0) -> str:
    """A mean with its interval, of a part of plan.json."""
    return Estimate(summary["mean"], summary["interval"], 0).text(scale)
