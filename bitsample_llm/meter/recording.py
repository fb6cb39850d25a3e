"""The life of a training's record: created or resumed, written to, held at checkpoints, closed; and a disk that refuses."""

import contextlib
import sys
from pathlib import Path

from accelerate.utils import gather_object
from tqdm import tqdm

from bitsample_llm.records import RecordError, RecordWriteError, check_run_dir, holds_unfinished_run, read_run
from bitsample_llm.records.writer import RunWriter, finite

EVALUATION_COLUMNS = ["step", "split", "total_flops", "log2_pass_rate", "num_passed", "num_rollouts"]  # what a resume reads again


def tell(message: str) -> None:
    """Say something in one line of the terminal."""
    tqdm.write(f"InformationMeter: {' '.join(message.split())}", file=sys.stderr)


class Recording:
    """Writes one run directory, on the first process only. A disk that refuses ends the records, and the training if `strict`."""

    def __init__(self, run_dir: Path, strict: bool, is_writing_process: bool, texts: bool):
        self.run_dir, self.strict = run_dir, strict
        self._texts = texts
        self.has_trained = self.under_way = False  # the trainer has begun a training before; one has begun and not ended
        self._is_writing_process = is_writing_process
        self._writer: RunWriter | None = None

    @contextlib.contextmanager
    def _writing(self, forgiven: type[RecordError] = RecordWriteError):
        try:
            yield
        except forgiven as error:
            if self.strict:
                raise
            self._writer = None
            tell(f"stopped, the training goes on without records: {error}")

    def create(self, manifest: dict, resumes: bool) -> None:
        """Start the record before the training, where the training does not resume an earlier one (`resumes`); a RecordError if the
        directory holds a finished run.
        """
        if not self._is_writing_process:
            return
        resumes = resumes or holds_unfinished_run(self.run_dir)
        check_run_dir(self.run_dir, resume=resumes)
        if not resumes:
            with self._writing():
                self._writer = RunWriter.create(self.run_dir, finite(manifest))

    def check_new(self) -> None:
        """Refuse a training from the start where there is a record already: no run is overwritten."""
        if self._writer is None and self._is_writing_process:
            if self.has_trained:
                with self._writing(RecordError):
                    check_run_dir(self.run_dir, resume=False)
            elif holds_unfinished_run(self.run_dir):
                check_run_dir(self.run_dir, resume=False)

    def resume(self, step: int) -> tuple[dict, list[dict]]:
        """Go on after a step of an earlier process, or of this trainer before it was interrupted. Every process gets the step line
        to count on from, empty where there is none, and the rows of the evaluations so far.
        """
        last: dict = {}
        evaluations: list[dict] = []
        if self._writer is not None and not self.under_way:  # a new record of a training that has begun without it
            with self._writing():
                self._writer.begin_after(step)
        elif self._is_writing_process and (self.run_dir / "manifest.json").exists():
            with self._writing(RecordError if self.has_trained else RecordWriteError):
                if self._writer is not None:
                    self._writer.flush()
                self._writer, last = RunWriter.resume(self.run_dir, step)
                evaluations = read_run(self.run_dir).table("evals").select(EVALUATION_COLUMNS).to_pylist()
        return gather_object([(last, evaluations)])[0]

    def add_rows(self, table: str, rows: list[dict]) -> None:
        if self._writer is not None:
            self._writer.add_rows(table, self._kept(rows))

    def _kept(self, rows: list[dict]) -> list[dict]:
        return rows if self._texts else [{key: value for key, value in row.items() if key != "text"} for row in rows]

    def add_step(self, line: dict) -> None:
        if self._writer is not None:
            with self._writing():
                self._writer.add_step(line)

    def flush(self) -> None:
        if self._writer is not None:
            with self._writing():
                self._writer.flush()

    def hold(self, step: int, rollouts: list[dict]) -> None:
        """Write the rows before the checkpoint that a resume counts on from, so that a kill between leaves no gap; and keep the
        rollouts that it finds half-trained.
        """
        self.flush()
        if self._writer is not None and rollouts:
            with self._writing():
                self._writer.hold(step, self._kept(rollouts))

    def close(self, state: str, reason: str | None = None) -> None:
        if (writer := self._writer) is not None:
            self._writer = None
            with self._writing():
                writer.close(state, reason)
