"""Files of JSON lines that some runs add to their directory: those with a value function, with a judge of steps, and those that set their own problems."""

VALUES_FILE = "values.jsonl"  # what the value function said of rollouts that ran on, a line per generation
JUDGE_FILE = "judge.jsonl"  # how often the judge was right, a line per generation
PROPOSALS_FILE = "proposals.jsonl"  # what was proposed and what became of it, a line each
