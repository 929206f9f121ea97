"""From an ended job to a final state: outputs carried, verdict found, context destroyed."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from slurmbridge.bridge.logs import LogKeeper
from slurmbridge.context.folder import Carried, ContextFolder, Left
from slurmbridge.context.tree import Bounds
from slurmbridge.errors import StagingFailed
from slurmbridge.lifecycle import Phase, ProcessState, SlurmState, classify, read_status
from slurmbridge.store import Change, Claimed, ProcessStore, again

log = logging.getLogger(__name__)
# What an end means to the person who must act.
_REASONS: dict[SlurmState, str] = {
    SlurmState.CANCELLED: "it was canceled",
    SlurmState.TIMEOUT: "its time limit was reached",
    SlurmState.OUT_OF_MEMORY: "it used more memory than it asked for",
    SlurmState.DEADLINE: "its deadline could not be met",
    SlurmState.PREEMPTED: "Slurm preempted it for another job",
    SlurmState.NODE_FAIL: "a node failed",
    SlurmState.BOOT_FAIL: "a node could not be started",
}


_FAILED = ProcessState.EXECUTOR_ERROR


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a Process ended."""

    state: ProcessState
    exit_code: int | None
    reason: str | None


def judge(slurm_state: str | None, left: Left) -> Verdict:
    """Slurm's final word and what the script left, together. Unknown never becomes complete."""
    if slurm_state is None:
        if left.exit_code is None:
            reason = "Slurm and its accounting know nothing of the job's end"
            return Verdict(ProcessState.SYSTEM_ERROR, None, reason)
        base = SlurmState.COMPLETED if left.exit_code == 0 else SlurmState.FAILED
    else:
        status = read_status(slurm_state)
        state = classify(status)
        # A flag may say more than the base state, as LAUNCH_FAILED does.
        plain = {SlurmState.COMPLETED: ProcessState.COMPLETE, SlurmState.FAILED: _FAILED}
        if status.base is None or plain.get(status.base) is not state:
            why = _REASONS.get(status.base) if status.base else None
            return Verdict(state, left.exit_code, why or f"Slurm reports {slurm_state}")
        base = status.base
    if left.refused:
        return Verdict(
            ProcessState.SYSTEM_ERROR, left.exit_code, f"the node refused: {left.refused}"
        )
    if left.exit_code is None:
        reason = f"Slurm reports {base}, but the script left no exit code"
        return Verdict(ProcessState.SYSTEM_ERROR, None, reason)
    if left.exit_code == 0 and base is SlurmState.COMPLETED:
        return Verdict(ProcessState.COMPLETE, 0, None)
    reason = f"the program ended with exit code {left.exit_code}"
    return Verdict(ProcessState.EXECUTOR_ERROR, left.exit_code, reason)


@dataclass(frozen=True, slots=True)
class CollectRules:
    """Limits and places."""

    runner: str
    contexts: Path
    stores: Mapping[str, Path]
    default_destination: str | None
    output: Bounds
    batch: int
    lease: timedelta
    retry: timedelta


def remove(folder: ContextFolder) -> None:
    """Destroy a context; what cannot be removed now is swept later."""
    try:
        folder.remove()
    except StagingFailed as error:
        log.warning("%s: %s", folder.path, error)


class Collector:
    """Takes Processes whose job has ended."""

    def __init__(
        self,
        processes: ProcessStore,
        logs: LogKeeper,
        rules: CollectRules,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._processes = processes
        self._logs = logs
        self._rules = rules
        self._clock = clock

    def collect(self) -> int:
        """Finish all that has ended; how many were finished."""
        rules = self._rules
        claimed = self._processes.claim(
            Phase.COLLECTING,
            runner=rules.runner,
            limit=rules.batch,
            now=self._clock(),
            lease=rules.lease,
        )
        for entry in claimed:
            self._finish(entry)
        return len(claimed)

    def _finish(self, entry: Claimed) -> None:
        try:
            change = self._collect_one(entry)
        except Exception:
            # What one program leaves must not end the work for all others.
            log.exception("collecting Process %s failed", entry.id)
            change = self._again(entry, "collecting failed by a mistake of the bridge; see its log")
        lost = self._processes.apply([change], runner=self._rules.runner, now=self._clock())
        if change.phase is Phase.DONE and not lost:
            # Last: until the end is durable, everything can be read again.
            remove(ContextFolder(self._rules.contexts, entry.id))

    def sweep(self) -> int:
        """Remove contexts that outlived their Process, as when a Runner died in between."""
        names = [path.name for path in self._rules.contexts.iterdir()]
        ended = self._processes.ended(names)
        for process_id in ended:
            remove(ContextFolder(self._rules.contexts, process_id))
        return len(ended)

    def _collect_one(self, entry: Claimed) -> Change:
        folder = ContextFolder(self._rules.contexts, entry.id)
        verdict = judge(entry.slurm_state, folder.left())
        location, target = self._target(entry)
        try:
            self._logs.keep([entry.id])
            carried = folder.carry_out(target, self._rules.output)
        except StagingFailed as error:
            return self._again(entry, str(error))
        if carried.too_much:
            reason = f"its outputs are too much to be carried: {carried.too_much}"
            verdict = Verdict(ProcessState.EXECUTOR_ERROR, verdict.exit_code, reason)
        return self._finished(entry, verdict, carried, location)

    def _again(self, entry: Claimed, detail: str) -> Change:
        values = {"not_before": self._clock() + self._rules.retry, "reason": detail}
        change = Change(
            entry.id, entry.state, entry.state, Phase.COLLECTING, "runner", detail, values
        )
        return again(entry, change)

    def _finished(
        self, entry: Claimed, verdict: Verdict, carried: Carried, location: str
    ) -> Change:
        files = [
            {"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256}
            for file in carried.files
        ]
        values = {
            "exit_code": verdict.exit_code if verdict.exit_code is not None else entry.exit_code,
            "reason": verdict.reason,
            "outputs_location": location,
            "outputs": files,
            "outputs_ignored": [str(entry) for entry in carried.ignored],
        }
        detail = f"{verdict.reason or 'the program ended with exit code 0'}; "
        detail += f"{len(files)} files carried to {location}"
        return Change(entry.id, entry.state, verdict.state, Phase.DONE, "runner", detail, values)

    def _target(self, entry: Claimed) -> tuple[str, Path]:
        outputs = entry.spec.outputs
        destination = outputs.destination if outputs else self._rules.default_destination
        assert destination is not None, "checked when the Process was accepted"
        store, _, path = destination.partition(":")
        return f"{destination}/{entry.id}", self._rules.stores[store] / path / entry.id
