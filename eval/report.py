"""Compare recorded runs on one page: `python -m eval.report RUN...` (run directories, or folders of them)."""

from bitsample_llm.report.command import report

if __name__ == "__main__":
    report(prog="python -m eval.report")
