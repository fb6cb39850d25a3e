"""Measures prompts part by part, and goes on after the last part where it was stopped.

A part is as many prompts as the processes sample at once. It is a step of the records: its rows, then its step line, so that a
kill between leaves what a resume throws away. Its seed depends on its number alone, so an interrupted measurement and a whole one
give the same records.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from bitsample_llm.measure.measurement import MeasuredPrompt, Sampler, counted_totals, measured_prompts
from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.records import RecordError, check_run_dir, read_manifest, step_lines
from bitsample_llm.records.glossary import is_cumulative
from bitsample_llm.records.writer import RunWriter, write_json_atomically, write_text_atomically
from bitsample_llm.tasks import Problem

# What a resume needs of every part and no table has: the surprisals of its labels and its padding.
PARTS_FILE = "parts.jsonl"
UPDATES = "updates"  # folder of the short branch of RL
SAME = ("world_size", "model_sha256", "train_problems_sha256", "heldout_problems_sha256")  # of the manifest
MAY_DIFFER = ("output_dir", "resume_from_checkpoint", "use_cpu")


class Recorder:
    """Measures one condition after the other, and writes it down on the first process; `num_rollouts` are of all together, and
    `recorded` is what a stopped measurement has, to go on with.
    """

    def __init__(self, sampler: Sampler, counter: FlopCounter, writer: RunWriter | None, num_rollouts: int, recorded: "Recorded"):
        self.sampler, self.counter, self.writer = sampler, counter, writer
        self.generation_step = self.step = 0
        self.line: dict = {}  # the last part's step line, recorded or new
        self._lines = {line["step"]: line for line in recorded.lines}
        self._known = recorded.known
        self._before = {key: value for key, value in recorded.last.items() if is_cumulative(key)}
        self._counted = {"samples/total": 0, "tokens/completion": 0}  # of this process's life, as the FLOP counter's totals are
        done = int(self._before.get("samples/total", 0))
        self._bar = None
        if writer is not None:
            self._bar = tqdm(total=num_rollouts, initial=done, unit="rollout", dynamic_ncols=True)

    def measure(
        self,
        problems: list[Problem],
        num_rollouts: int,
        probe: str | None = None,
        rows_of: Callable[[Sequence[Problem], Sequence[MeasuredPrompt]], list[dict]] | None = None,
    ) -> list[MeasuredPrompt]:
        """Measure the problems with so many rollouts each, and record them under the name of a probe; `rows_of` makes rows of the
        table `problems` of a part.
        """
        self.generation_step += 1
        measured, passed, drawn = [], 0.0, 0
        part_size = max(self.sampler.batch_size // num_rollouts, 1) * self.sampler.accelerator.num_processes
        for start in range(0, len(problems), part_size):
            part = problems[start : start + part_size]
            self.step += 1
            if self.step in self._lines:
                self.line = self._lines[self.step]
                prompts = [MeasuredPrompt({}, [], bits, padded) for bits, padded in self._known[self.step]]
            else:
                prompts = self._measured_part(part, num_rollouts, probe, rows_of)
            measured += prompts
            passed += self.line["group/pass_rate_estimate"] * self.line["group/num_rollouts"]
            drawn += self.line["group/num_rollouts"]
            if self._bar is not None:
                self._bar.set_description(probe or "as asked", refresh=False)
                self._bar.set_postfix_str(f"pass rate {passed / drawn:.4g}")
        if self.writer is not None:
            tqdm.write(f"{probe or 'as asked'}: {len(problems)} prompts x {num_rollouts} rollouts, pass rate {passed / drawn:.4g}")
        return measured

    def _measured_part(self, part, num_rollouts, probe, rows_of) -> list[MeasuredPrompt]:
        prompts = measured_prompts(self.sampler, part, num_rollouts, self.generation_step, self.step)
        rollouts = [rollout for prompt in prompts for rollout in prompt.rollouts]
        self._counted["samples/total"] += len(rollouts)
        self._counted["tokens/completion"] += sum(rollout["num_tokens"] for rollout in rollouts)
        totals = {"flops/lost": 0.0, **counted_totals(self.counter), **self._counted}
        line = {"step": self.step, "generation_step": self.generation_step}
        line |= {key: value + self._before.get(key, 0) for key, value in totals.items()}
        line["group/pass_rate_estimate"] = sum(rollout["passed"] for rollout in rollouts) / len(rollouts)
        line["group/num_rollouts"] = len(rollouts)
        exact = [prompt.row["pass_rate"] for prompt in prompts if "pass_rate" in prompt.row]
        if exact:
            line["group/pass_rate"] = sum(exact) / len(exact)
        self.line = line
        if self.writer is not None:
            self.writer.add_rows("prompts", [prompt.row | {"probe": probe} for prompt in prompts])
            self.writer.add_rows("rollouts", [rollout | {"probe": probe} for rollout in rollouts])
            self.writer.add_rows("problems", [{"step": self.step, **row} for row in rows_of(part, prompts)] if rows_of else [])
            self.writer.flush()
            measured = [[prompt.label_surprisal_bits, prompt.padded_tokens] for prompt in prompts]
            with open(self.writer.run_dir / PARTS_FILE, "a") as file:
                file.write(json.dumps({"step": self.step, "prompts": measured}) + "\n")
            self.writer.add_step(line)  # last: a part without its line is thrown away by a resume
            self._bar.update(len(rollouts))
        return [MeasuredPrompt({}, [], prompt.label_surprisal_bits, prompt.padded_tokens) for prompt in prompts]

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@dataclass
class Recorded:
    """What a stopped measurement has recorded: its step lines, the measurements of its parts by step, the line to count on from."""

    lines: list[dict] = field(default_factory=list)
    known: dict[int, list] = field(default_factory=dict)
    last: dict = field(default_factory=dict)


def check_same(run_dir: Path, manifest: dict) -> None:
    """Refuse to go on with other options, problems, weights or processes, because the parts would not belong together: a
    RecordError names what differs.
    """
    stored = read_manifest(run_dir)
    differing = [key for key in SAME if stored.get(key) != json.loads(json.dumps(manifest.get(key)))]
    for part, options in manifest["config"].items():
        before = (stored.get("config") or {}).get(part) or {}
        differing += [f"--{name}" for name, value in options.items() if name not in MAY_DIFFER and before.get(name) != value]
    if differing:
        raise RecordError(
            f"{run_dir} was measured with other values of {', '.join(differing)}: give the same, or name another --output_dir"
        )


def resumed(run_dir: Path, manifest: dict, repeat_from: int | None) -> tuple[RunWriter, Recorded]:
    """Continue a measurement after its last whole part.

    Args:
        manifest: what the measurement would say of itself if it began now.
        repeat_from: generation step from which conditions are repeated in any case, for the short branch of RL has no
            checkpoint; what it cost is lost. None where there is no such branch.

    Raises:
        RecordError: if there is none, it is finished, or it was measured otherwise.
    """
    check_run_dir(run_dir, resume=True)
    check_same(run_dir, manifest)
    path = run_dir / PARTS_FILE
    texts = path.read_text().splitlines(keepends=True) if path.is_file() else []
    known = {part["step"]: part["prompts"] for part in (json.loads(text) for text in texts if text.endswith("\n"))}
    lines = step_lines(run_dir / "steps.jsonl")
    kept = [line for line in lines if line["step"] in known and (repeat_from is None or line["generation_step"] < repeat_from)]
    step = kept[-1]["step"] if kept else 0
    writer, last = RunWriter.resume(run_dir, step)
    known = {number: prompts for number, prompts in known.items() if number <= step}
    parts = [json.dumps({"step": number, "prompts": prompts}) + "\n" for number, prompts in known.items()]
    write_text_atomically(path, "".join(parts))
    branch = run_dir / UPDATES
    if branch.is_dir():
        if len(lines) == len(kept):  # no line counts what the branch cost
            last["flops/lost"] += max((line["flops/total"] for line in step_lines(branch / "steps.jsonl")), default=0.0)
            writer.manifest["lost_flops"] = last["flops/lost"]
            write_json_atomically(run_dir / "manifest.json", writer.manifest)
        (run_dir / "superseded").mkdir(exist_ok=True)
        branch.rename(run_dir / "superseded" / f"{UPDATES}-{len(writer.manifest['resumed_at'])}")
    return writer, Recorded(kept, known, last)
