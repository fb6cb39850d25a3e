"""Would RL pay? `python -m eval.plan RUN`, RUN being what `recipes/measure.py` recorded."""

from bitsample_llm.report.plan.command import plan

if __name__ == "__main__":
    plan(prog="python -m eval.plan")
