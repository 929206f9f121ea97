"""Waiting for a Process before the eyes of a person."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from slurmbridge.cli import output
from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process, Progress

# 126 and above are the shell's own (not executable, not found, ended by a signal).
_EXIT_CODE_LIMIT = 125


def wait(client: Client, process_id: str, *, prefix: str = "") -> Process:
    """Wait for the end; changes appear on stderr, as lines and, on a terminal, alive."""
    with _Board(prefix) as board:
        return client.wait(process_id, on_change=board.show)


def exit_code(processes: list[Process]) -> int:
    """0 when all are COMPLETE; else the first one's program's own, or 1."""
    for process in processes:
        if process.state is not ProcessState.COMPLETE:
            code = process.exit_code
            return code if code is not None and 1 <= code <= _EXIT_CODE_LIMIT else 1
    return 0


class _Board:
    """A line for each change, and on a terminal one more that lives."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._console = output.console(sys.stderr)
        self._spinner = Spinner("line")
        self._began = time.monotonic()
        self._text = "asking"
        self._line: tuple[ProcessState, str] | None = None
        self._live = Live(console=self._console, get_renderable=self._render, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, process: Process) -> None:
        line = (process.state, _reason(process))
        if line != self._line:
            self._line = line
            text = Text(f"{self._prefix}{time.strftime('%H:%M:%S')} ")
            text.append(process.state.value, output.style(process.state))
            text.append(f" {line[1]}" if line[1] else "")
            self._console.print(text, soft_wrap=True)
        nodes = f" on {process.nodes}" if process.nodes else ""
        moved = f" {_moved(process.progress)}" if process.progress else ""
        self._text = output.plain(f"{process.state} {_slurm(process)}{nodes}{moved}")

    def _render(self) -> Spinner:
        seconds = int(time.monotonic() - self._began)
        elapsed = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        self._spinner.update(text=Text(f"{self._text}  {elapsed}"))
        return self._spinner


def _reason(process: Process) -> str:
    return output.plain(process.reason or _slurm(process))


def _moved(progress: Progress) -> str:
    """As in: staging 3 of 10 files, 1.2 of 40.0 MB."""
    done, of = progress.size_bytes / 1e6, progress.of_bytes / 1e6
    return (
        f"{progress.doing} {progress.files} of {progress.of_files} files, {done:.1f} of {of:.1f} MB"
    )


def _slurm(process: Process) -> str:
    words = []
    if process.job_id is not None:
        words.append(f"job {process.job_id}")
    if process.slurm_state:
        words.append(process.slurm_state)
    if process.slurm_reason and process.slurm_reason != "None":
        words.append(f"({process.slurm_reason})")
    if process.cancel_requested and not process.state.final:
        words.append("cancel requested")
    return " ".join(words)
