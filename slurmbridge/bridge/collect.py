"""From an ended job to a final state: outputs carried, verdict found, context destroyed."""

import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from slurmbridge.bridge.checks import NOT_REVIEWED, Reviewing
from slurmbridge.bridge.errands import Errands, Watch
from slurmbridge.bridge.keeping import Keeper
from slurmbridge.bridge.logs import LogKeeper
from slurmbridge.bridge.reading import TraceReader
from slurmbridge.bridge.seal import attestation
from slurmbridge.bridge.standing import Actor
from slurmbridge.container.attestation import sentence
from slurmbridge.container.facts import Differences
from slurmbridge.container.signing import SigningKey
from slurmbridge.context.carrying import Carried, Destinations, Load, Place, carry_out
from slurmbridge.context.folder import ContextFolder, Contexts
from slurmbridge.context.left import Left
from slurmbridge.context.tree import Bounds
from slurmbridge.errors import DatabaseUnavailable, FilesUnavailable, NotStanding, StagingFailed
from slurmbridge.lifecycle import (
    Phase,
    ProcessState,
    ReviewState,
    SlurmState,
    classify,
    read_status,
)
from slurmbridge.model import Attestation
from slurmbridge.spec import ProcessSpec, TraceLevel
from slurmbridge.store import Change, Claimed, ProcessStore, again, packed
from slurmbridge.trace.read import Read

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


MISSING_CONTEXT_KEPT = timedelta(days=1)
# How long a round of collecting waits for traces, and for outputs to be carried; most is done by
# then. The others are asked for again.
PATIENCE_SECONDS = 1.0
# And at the least for these, however long the traces took.
CARRYING_SECONDS = 0.3
READING_AGAIN = timedelta(seconds=0.5)
# Compressed, a trace is smaller than its limit by far.
_TRACE_BYTES = 4 << 30
REPORT = "trace-report.json"
PAGE = "trace-report.html"
_FAILED = ProcessState.EXECUTOR_ERROR
_MISTAKE = "collecting failed by a mistake of the bridge; see its log"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a Process ended."""

    state: ProcessState
    exit_code: int | None
    reason: str | None
    # Whether it is the exit code of a program that decided.
    by_program: bool = False


def judge(slurm_state: str | None, left: Left) -> Verdict:
    """Slurm's final word and what the script left, together. Unknown never becomes complete."""
    if slurm_state is None:
        if left.exit_code is None:
            reason = "Slurm and its accounting know nothing of the job's end"
            return Verdict(ProcessState.SYSTEM_ERROR, None, reason)
        return _judge_exit(SlurmState.FAILED if left.exit_code else SlurmState.COMPLETED, left)
    status = read_status(slurm_state)
    state = classify(status)
    # A flag may say more than the base state, as LAUNCH_FAILED does.
    plain = {SlurmState.COMPLETED: ProcessState.COMPLETE, SlurmState.FAILED: _FAILED}
    if status.base is None or plain.get(status.base) is not state:
        why = _REASONS.get(status.base) if status.base else None
        return Verdict(state, left.exit_code, why or f"Slurm reports {slurm_state}")
    return _judge_exit(status.base, left)


def _judge_exit(base: SlurmState, left: Left) -> Verdict:
    """The end of a job that ran its script to its own end."""
    code = left.exit_code
    if left.refused:
        return Verdict(ProcessState.SYSTEM_ERROR, code, f"the node refused: {left.refused}")
    if left.stopped:
        return Verdict(_FAILED, code, f"it was stopped: {left.stopped}", by_program=True)
    if code is None:
        reason = f"Slurm reports {base}, but the script left no exit code"
        return Verdict(ProcessState.SYSTEM_ERROR, None, reason)
    if (code == 0) is not (base is SlurmState.COMPLETED):
        reason = f"Slurm reports {base}, but the program ended with exit code {code}"
        return Verdict(ProcessState.SYSTEM_ERROR, code, reason)
    if code == 0:
        return Verdict(ProcessState.COMPLETE, 0, None, by_program=True)
    return Verdict(_FAILED, code, f"the program ended with exit code {code}", by_program=True)


def judge_seal(verdict: Verdict, found: Attestation | None) -> Verdict:
    """Nothing counts as a program's end unless its container was attested before it started."""
    if found is not None and not found.sealed:
        differences = sentence(Differences(found.unexpected, found.missing))
        reason = f"the container was not sealed: {differences}"
        return Verdict(ProcessState.SYSTEM_ERROR, verdict.exit_code, reason)
    if found is None and verdict.by_program:
        reason = "the job ended, but its container was not attested"
        return Verdict(ProcessState.SYSTEM_ERROR, verdict.exit_code, reason)
    return verdict


def tell_full(verdict: Verdict, left: Left) -> Verdict:
    """A program may not have noticed that its outputs are not whole; whoever uses them shall."""
    if not left.output_full:
        return verdict
    reasons = (verdict.reason, "/output was full when it ended, and may not hold all that it wrote")
    return replace(verdict, reason="; ".join(filter(None, reasons)))


def _has_not_begun(entry: Claimed, left: Left) -> bool:
    """Whether Slurm knows nothing of the job, and it did not come to take its context."""
    unknown = entry.slurm_state is None and left.taken_by is None
    return unknown and not entry.cancel_requested and entry.state is not ProcessState.CANCELING


def _pods(entry: Claimed) -> int:
    return entry.spec.parallel.nodes if entry.spec.parallel else 1


def _has_run_traced(entry: Claimed, left: Left) -> bool:
    """Whether there has to be a report: a container that was not attested has run no program."""
    traced = entry.spec.trace is not TraceLevel.OFF and left.attested is not None
    return traced and left.taken_by in {None, entry.job_id}


def _is_gone(folder: ContextFolder, error: StagingFailed) -> bool:
    """Whether something failed because there is no context. Of a silent host that is not known."""
    if isinstance(error, FilesUnavailable):
        return False
    try:
        return not folder.exists()
    except FilesUnavailable:
        return False


def _nothing_is(_path: str) -> None:
    return None


def _about(entry: Claimed) -> dict[str, Any]:
    """What a manifest says of its Process."""
    return {
        "process_id": entry.id,
        "job_id": entry.job_id,
        "image_sha256": entry.image_sha256,
        "script_sha256": entry.script_sha256,
        "ended_at": entry.ended_at.isoformat() if entry.ended_at else None,
    }


@dataclass(frozen=True, slots=True)
class CollectRules:
    """Limits and places."""

    contexts: Contexts
    keeper: Keeper
    destinations: Destinations
    default_destination: str | None
    output: Bounds
    batch: int
    retry: timedelta
    # What carries outputs; as long as the Runner lives.
    carrying_by: Callable[[], Executor] = lambda: ThreadPoolExecutor(4, thread_name_prefix="carry")
    # Whose outputs wait for somebody to let them out.
    reviewing: Reviewing = NOT_REVIEWED
    # Of a specification: why an output file, by its path, is kept back.
    kept_back: Callable[[ProcessSpec], Callable[[str], str | None]] = lambda _spec: _nothing_is


@dataclass(frozen=True, slots=True)
class _Ended:
    """A Process whose outputs are being carried, with all else that is known of its end."""

    entry: Claimed
    left: Left
    read: Read | None


class Collector:
    """Takes Processes whose job has ended."""

    def __init__(
        self,
        processes: ProcessStore,
        logs: LogKeeper,
        rules: CollectRules,
        *,
        key: SigningKey,
        traces: TraceReader,
        actor: Actor,
    ) -> None:
        self._actor = actor
        self._processes = processes
        self._logs = logs
        self._rules = rules
        self._traces = traces
        self._key = key
        self._errands: Errands[Carried] = Errands(rules.carrying_by, actor)
        self._ended: dict[str, _Ended] = {}

    @property
    def under_way(self) -> frozenset[str]:
        """The Processes whose outputs are being carried between two rounds."""
        return self._errands.under_way

    def collect(self) -> int:
        """Finish all that has ended; how many were moved on."""
        rules = self._rules
        claimed = self._processes.claim(
            Phase.COLLECTING,
            runner=self._actor.id,
            limit=max(1, rules.batch - len(self.under_way)),
            now=self._actor.clock.now(),
        )
        # A Runner that was struck off finds its own Processes free, until it notices.
        claimed = [entry for entry in claimed if entry.id not in self.under_way]
        moved = {entry.id for entry in claimed}
        deadline = self._actor.clock.monotonic() + PATIENCE_SECONDS
        try:
            for entry in claimed:
                self._begin_to_read(entry)
            for entry in claimed:
                self._actor.guard()
                self._begin_to_carry(entry, deadline)
            soon = self._actor.clock.monotonic() + CARRYING_SECONDS
            for process_id in self._errands.wait(max(deadline, soon)):
                moved.add(process_id)
                self._actor.guard()
                self._finish(process_id)
        finally:
            self._processes.let_go(moved - self.under_way, runner=self._actor.id)
        return len(moved)

    def close(self) -> None:
        """End what is being done beside."""
        self._errands.close()
        self._ended.clear()
        self._traces.close()

    def _begin_to_read(self, entry: Claimed) -> None:
        """The traces of all are read while one after the other is collected."""
        folder = self._rules.contexts.of(entry.id)
        with suppress(StagingFailed):
            left = folder.left()
            if _has_run_traced(entry, left):
                self._traces.begin(entry, left, folder.traces(_TRACE_BYTES, _pods(entry)))

    def _begin_to_carry(self, entry: Claimed, deadline: float) -> None:
        """Have its outputs carried; or move it on, when there is nothing to be carried now."""
        try:
            change = self._examine(entry, deadline)
        except (NotStanding, DatabaseUnavailable):
            raise
        except Exception:
            # What one program leaves must not end the work for all others.
            log.exception("collecting Process %s failed", entry.id)
            change = self._again(entry, _MISTAKE)
        if change is not None:
            self._apply(entry, change)

    def _finish(self, process_id: str) -> None:
        ended = self._ended.pop(process_id)
        try:
            change = self._carried(ended, self._errands.take(process_id))
        except (NotStanding, DatabaseUnavailable):
            raise
        except StagingFailed as error:
            gone = _is_gone(self._rules.contexts.of(process_id), error)
            change = self._gone(ended.entry) if gone else self._again(ended.entry, str(error))
        except Exception:
            log.exception("carrying the outputs of Process %s failed", process_id)
            change = self._again(ended.entry, _MISTAKE)
        self._apply(ended.entry, change)

    def _apply(self, entry: Claimed, change: Change) -> None:
        lost = self._processes.apply([change], runner=self._actor.id, now=self._actor.clock.now())
        if change.phase is not entry.phase or lost:
            self._traces.forget(entry.id)
        if change.phase is Phase.DONE and not lost and not change.values.get("context_until"):
            # Last: until the end is durable, everything can be read again.
            self._rules.keeper.destroy([entry.id])

    def _examine(self, entry: Claimed, deadline: float) -> Change | None:
        """What is to be done with it; None when its outputs are being carried from now on."""
        folder = self._rules.contexts.of(entry.id)
        try:
            left = folder.left()
            if left.taken_by not in {None, entry.job_id}:
                return self._other_job(entry, left)
            if _has_not_begun(entry, left) and folder.exists():
                return self._anew(entry)
            place = self._place(entry)
            self._logs.finish(entry.id)
            read = None
            if _has_run_traced(entry, left):
                self._traces.begin(entry, left, folder.traces(_TRACE_BYTES, _pods(entry)))
                read = self._traces.take(entry.id, deadline - self._actor.clock.monotonic())
                if read is None:
                    return self._still_reading(entry)
        except StagingFailed as error:
            gone = _is_gone(folder, error)
            return self._gone(entry) if gone else self._again(entry, str(error))
        made = {REPORT: read.report, PAGE: read.page} if read else {}
        wanted = self._rules.kept_back(entry.spec)
        load = Load(self._rules.output, made, _about(entry), wanted, _pods(entry))
        holds = partial(self._holds, entry, self._errands.actor)
        self._errands.begin(entry.id, partial(carry_out, folder, place, load, holds))
        self._ended[entry.id] = _Ended(entry, left, read)
        return None

    def _carried(self, ended: _Ended, carried: Carried) -> Change:
        entry = ended.entry
        attested = attestation(entry, ended.left, self._key)
        verdict = judge(entry.slurm_state, ended.left)
        if carried.too_much:
            reason = f"its outputs are too much to be carried: {carried.too_much}"
            verdict = replace(verdict, state=_FAILED, reason=reason)
        if entry.sealing is not None:
            verdict = judge_seal(verdict, attested)
        verdict = tell_full(verdict, ended.left)
        return self._finished(entry, verdict, carried, attested, ended.read)

    def _anew(self, entry: Claimed) -> Change:
        """A job that Slurm has lost before it took its context has done nothing, and what has been
        absent for so long is not coming back. If it did, one of the two would find the context
        taken.
        """
        detail = f"Slurm has lost job {entry.job_id} before it began: again"
        values = {
            "job_id": None,
            "slurm_reason": None,
            "nodes": None,
            "started_at": None,
            "ended_at": None,
            "missing_since": None,
            "expected_start": None,
            "reason": None,
        }
        after, phase = ProcessState.QUEUED, Phase.ACCEPTED
        return Change(entry.id, entry.state, after, entry.phase, phase, "runner", detail, values)

    def _still_reading(self, entry: Claimed) -> Change:
        values = {"not_before": self._actor.clock.now() + READING_AGAIN}
        return Change(
            entry.id, entry.state, entry.state, entry.phase, entry.phase, "runner", "", values
        )

    def _holds(self, entry: Claimed, actor: Actor) -> bool:
        actor.guard()
        return self._processes.holds(entry.id, runner=self._actor.id)

    def _other_job(self, entry: Claimed, left: Left) -> Change:
        """Of two jobs for one Process, the one that has the context is the one that counts."""
        detail = f"job {entry.job_id} did nothing: the context belongs to job {left.taken_by}"
        values = {
            "job_id": left.taken_by,
            "slurm_state": None,
            "ended_at": None,
            "missing_since": None,
        }
        return Change(
            entry.id,
            entry.state,
            entry.state,
            entry.phase,
            Phase.SUBMITTED,
            "runner",
            detail,
            values,
        )

    def _gone(self, entry: Claimed) -> Change:
        """A context that is missing may come back with its file system; not for ever."""
        now = self._actor.clock.now()
        if entry.ended_at is None or now - entry.ended_at < MISSING_CONTEXT_KEPT:
            return self._again(entry, "its context is missing")
        detail = f"its context has been missing for {now - entry.ended_at}"
        values = {"reason": detail}
        after = ProcessState.SYSTEM_ERROR
        return Change(
            entry.id, entry.state, after, entry.phase, Phase.DONE, "runner", detail, values
        )

    def _again(self, entry: Claimed, detail: str) -> Change:
        values = {"not_before": self._actor.clock.now() + self._rules.retry, "reason": detail}
        change = Change(
            entry.id, entry.state, entry.state, entry.phase, entry.phase, "runner", detail, values
        )
        return again(entry, change)

    def _finished(
        self,
        entry: Claimed,
        verdict: Verdict,
        carried: Carried,
        attested: Attestation | None,
        read: Read | None,
    ) -> Change:
        until = self._rules.keeper.retention.until(verdict.state, self._actor.clock.now())
        files = [
            {"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256}
            for file in carried.files
        ]
        reviewed = self._rules.reviewing.store_of(entry.spec) is not None
        values = {
            "exit_code": verdict.exit_code if verdict.exit_code is not None else entry.exit_code,
            "reason": verdict.reason,
            "outputs_location": None if reviewed else carried.location,
            "review": ReviewState.WAITING if reviewed else None,
            "review_location": carried.location if reviewed else None,
            "manifest_sha256": carried.manifest_sha256,
            "context_until": until,
            "progress": None,
            "outputs": files,
            "outputs_ignored": [str(entry) for entry in carried.ignored],
            "attestation": attested.model_dump(mode="json") if attested else None,
            "attested": attested.sealed if attested else None,
            "traced": read.summary.model_dump(mode="json") if read else None,
            "trace_report": packed(read.report) if read else None,
        }
        detail = f"{verdict.reason or 'the program ended with exit code 0'}; "
        detail += f"{len(files)} files carried to {carried.location}"
        if reviewed:
            detail += ", where they wait for a review"
        if until:
            detail += f"; its context is kept until {until:%Y-%m-%d %H:%M} UTC"
        if read:
            detail += f"; its trace says {read.summary.verdict}"
        after = verdict.state
        return Change(
            entry.id, entry.state, after, entry.phase, Phase.DONE, "runner", detail, values
        )

    def _place(self, entry: Claimed) -> Place:
        outputs = entry.spec.outputs
        destination = outputs.destination if outputs else self._rules.default_destination
        assert destination is not None, "checked when the Process was accepted"
        location = f"{destination}/{entry.id}"
        if store := self._rules.reviewing.store_of(entry.spec):
            location = f"{store}:{entry.id}"
        watch = Watch(self._processes, self._errands.actor, entry.id, "carrying")
        return self._rules.destinations.place(location, watch)
