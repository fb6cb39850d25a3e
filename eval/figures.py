"""The look of the plan's figures."""

from bitsample_llm.report.style import COLOURS, plt

__all__ = ["COLOURS", "plt"]
