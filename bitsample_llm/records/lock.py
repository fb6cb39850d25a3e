"""One writer for a run directory: a lock of the operating system, which ends with the process that holds it, however it ends.

The file `writer.lock` stays in the directory. What counts is who holds it, not whether it is there.
"""

import os
import platform
from pathlib import Path
from typing import ClassVar
from weakref import WeakValueDictionary

from filelock import FileLock, Timeout

from bitsample_llm.records import RecordError

WAIT_SECONDS = 10.0  # what a kill leaves over (a data loader's worker, a run whose study was killed) has ended by then


class RunLock:
    """The right to write a run directory, from its making to `release`.

    A writer of the same process gives way: in a notebook a new trainer goes on where an earlier one was interrupted.

    Raises:
        RecordError: if another process holds it.
    """

    _of_this_process: ClassVar[WeakValueDictionary[Path, "RunLock"]] = WeakValueDictionary()

    def __init__(self, run_dir: Path):
        path = (run_dir / "writer.lock").resolve()
        if (earlier := self._of_this_process.get(path)) is not None:
            earlier.release()
        self._lock = FileLock(path, timeout=WAIT_SECONDS, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            holder = path.read_text().strip() or "unknown"
            raise RecordError(f"another process (pid {holder}) is writing {run_dir}: let it end, or end it, then resume") from error
        path.write_text(f"{os.getpid()} on {platform.node()}\n")
        self._of_this_process[path] = self

    @property
    def is_held(self) -> bool:
        """Whether the directory may still be written."""
        return self._lock.is_locked

    def release(self) -> None:
        """Let others write."""
        self._lock.release()
