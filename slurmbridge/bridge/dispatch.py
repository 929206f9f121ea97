"""From accepted Processes to Slurm jobs: context, script, intent, submission, job id."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_never

from slurmbridge.bridge.checks import untrusted
from slurmbridge.bridge.collect import remove
from slurmbridge.bridge.deliver import Delivery, Shared
from slurmbridge.bridge.render import Renderer
from slurmbridge.bridge.seal import sealing
from slurmbridge.bridge.standing import Actor
from slurmbridge.context.copying import Reading
from slurmbridge.context.folder import ContextFolder, Contexts, ContextTaken
from slurmbridge.context.tree import Bounds
from slurmbridge.errors import (
    HelpersMissing,
    ImageRefused,
    InvalidProcess,
    NoNodeReady,
    NotStanding,
    SchedulerUnavailable,
    SiteError,
    SlurmBridgeError,
    StagingFailed,
    SubmissionNotSent,
    SubmissionRefused,
    UnknownImage,
)
from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.model import Image
from slurmbridge.scheduler import Scheduler, Submission, SubmitOutcome
from slurmbridge.script import Script
from slurmbridge.store import (
    UNLIMITED,
    Change,
    Claimed,
    HelperStore,
    ImageStore,
    Limits,
    ProcessStore,
    again,
)

log = logging.getLogger(__name__)
BATCHES = 4
# Of a Process's staged files, those whose checksums are kept.
INPUTS_KEPT = 10_000
_BUSY = ProcessState.INITIALIZING


@dataclass(frozen=True, slots=True)
class Ready:
    """A Process whose context is prepared and whose script is rendered."""

    claimed: Claimed
    script: Script
    image: Image
    # What its container has to be found to be, and by which helpers.
    sealing: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DispatchRules:
    """Limits and places."""

    contexts: Contexts
    # Those that are folders, and the others.
    stores: Mapping[str, Path]
    staging: Bounds
    batch: int
    retry: timedelta
    signature_required: bool = False
    in_progress: Limits = UNLIMITED
    delivery: Delivery = field(default_factory=Shared)
    remote: Mapping[str, Reading] = field(default_factory=dict)
    # What submits while the next batch is being prepared.
    beside: Callable[[], Executor] = lambda: ThreadPoolExecutor(1, thread_name_prefix="submit")


_Waiting = tuple[list[Ready], Future[list[SubmitOutcome]]]


class Dispatcher:
    """Takes accepted Processes, oldest first, in batches."""

    def __init__(
        self,
        processes: ProcessStore,
        images: ImageStore,
        helpers: HelperStore,
        scheduler: Scheduler,
        renderer: Renderer,
        rules: DispatchRules,
        actor: Actor,
    ) -> None:
        self._actor = actor
        self._processes = processes
        self._images = images
        self._helpers = helpers
        self._scheduler = scheduler
        self._renderer = renderer
        self._rules = rules

    def dispatch(self) -> int:
        """Submit what waits, up to a bound; the number of Processes that were taken.

        While one batch is being submitted, the next is prepared.
        """
        taken: list[str] = []
        try:
            with self._rules.beside() as pool:
                self._dispatch(pool, taken)
        finally:
            self._processes.let_go(taken, runner=self._actor.id)
        return len(taken)

    def mark_revoked(self) -> None:
        """Let the nodes know which images are revoked. Raises StagingFailed."""
        revoked = [image for image in self._images.all() if image.revoked_at is not None]
        self._rules.delivery.revoke(revoked)

    def _dispatch(self, pool: Executor, taken: list[str]) -> None:
        waiting: _Waiting | None = None
        # Bounded, because meanwhile nothing is observed, canceled or collected.
        for turn in range(BATCHES + 1):
            claimed, ready = self._next(taken, waiting) if turn < BATCHES else ([], [])
            if waiting and not self._record(waiting[0], waiting[1].result()):
                self._put_back(ready)
                return
            if not claimed:
                return
            waiting = (ready, pool.submit(self._submit, ready)) if ready else None

    def _next(
        self, taken: list[str], waiting: "_Waiting | None"
    ) -> tuple[list[Claimed], list[Ready]]:
        try:
            claimed = self._claim()
            taken += [entry.id for entry in claimed]
            return claimed, self._intend(self._prepare(claimed))
        except SlurmBridgeError:
            # What Slurm has said of those before is not lost over it.
            if waiting:
                self._record(waiting[0], waiting[1].result())
            raise

    def _claim(self) -> list[Claimed]:
        return self._processes.claim(
            Phase.ACCEPTED,
            runner=self._actor.id,
            limit=self._rules.batch,
            now=self._actor.clock.now(),
            limits=self._rules.in_progress,
        )

    def _prepare(self, claimed: Sequence[Claimed]) -> list[Ready]:
        images = self._images.latest() if claimed else {}
        ready: list[Ready] = []
        failed: list[Change] = []
        for entry in claimed:
            outcome = self._try_to_prepare(entry, images)
            if isinstance(outcome, Ready):
                ready.append(outcome)
            else:
                failed.append(outcome)
        self._apply(failed)
        return ready

    def _try_to_prepare(self, entry: Claimed, images: Mapping[str, Image]) -> Ready | Change:
        try:
            return self._prepare_one(entry, images)
        except SlurmBridgeError:
            raise
        except Exception:
            # What one Process asks for must not end the work for all others.
            log.exception("preparing Process %s failed", entry.id)
            state = self._processes.get(entry.id).state
            detail = "preparing failed by a mistake of the bridge; see its log"
            return self._ended(replace(entry, state=state), ProcessState.SYSTEM_ERROR, detail)

    def _prepare_one(self, entry: Claimed, images: Mapping[str, Image]) -> Ready | Change:
        if entry.cancel_requested:
            return self._ended(entry, ProcessState.CANCELED, "canceled before it was submitted")
        before = entry
        self._actor.guard()
        folder = self._rules.contexts.of(entry.id)
        try:
            image = self._image(entry, images)
            self._renderer.avoid(entry.spec)
            image = self._rules.delivery.image(image)
            helpers = self._rules.delivery.helpers(self._helpers.get())
            self._check_destination(entry)
            prepared = self._renderer.prepared(entry.id, entry.spec, image)
            folder.make(prepared.command, prepared.environment, prepared.expected_facts)
            if entry.spec.code or entry.spec.inputs:
                # Told once, however often it is tried.
                if not entry.reason:
                    self._apply([self._kept(entry, _BUSY, entry.phase, "staging")])
                    entry = replace(entry, state=_BUSY)
                self._stage(entry, folder)
            script = self._renderer.render(entry.id, entry.spec, image, helpers)
            return Ready(entry, script, image, sealing(prepared, helpers))
        except (InvalidProcess, UnknownImage) as error:
            return self._ended(entry, ProcessState.EXECUTOR_ERROR, str(error))
        except ImageRefused as error:
            return self._ended(entry, ProcessState.SYSTEM_ERROR, str(error))
        except ContextTaken as error:
            values = {"job_id": error.job_id, "slurm_state": None, "missing_since": None}
            detail = f"its context was taken by job {error.job_id}"
            return self._change(entry, ProcessState.QUEUED, Phase.SUBMITTED, detail, **values)
        except (StagingFailed, HelpersMissing, NoNodeReady) as error:
            # A full or missing file system is mended, or a node, and what waited for it then runs.
            return again(before, self._later(entry, ProcessState.QUEUED, entry.phase, str(error)))

    def _image(self, entry: Claimed, images: Mapping[str, Image]) -> Image:
        image = images.get(entry.spec.image)
        if image is None:
            raise UnknownImage(f"no image named {entry.spec.image!r} is recorded any more")
        required = self._rules.signature_required
        if problem := untrusted(image, signature_required=required):
            raise ImageRefused(problem)
        return image

    def _check_destination(self, entry: Claimed) -> None:
        """A file where a folder would have to be is found out before the program runs."""
        if entry.spec.outputs:
            store, _, path = entry.spec.outputs.destination.partition(":")
            root = self._rules.stores.get(store)
            if root is None:
                raise StagingFailed(f"the store {store} is not configured any more")
            if not root.is_dir():
                raise StagingFailed(f"the folder of the store {store} is missing")
            for part in [root / path, *(root / path).parents]:
                if part.is_relative_to(root) and part.exists() and not part.is_dir():
                    raise InvalidProcess(f"{entry.spec.outputs.destination} leads through a file")

    def _stage(self, entry: Claimed, folder: ContextFolder) -> None:
        rules = self._rules
        copied = folder.stage(entry.spec, rules.stores, rules.staging, rules.remote)
        size = sum(file.size_bytes for file in copied)
        detail = f"staged {len(copied)} files, {size} bytes"
        inputs = [asdict(file) for file in copied[:INPUTS_KEPT]]
        self._apply([self._kept(entry, entry.state, entry.phase, detail, inputs=inputs)])

    def _intend(self, ready: list[Ready]) -> list[Ready]:
        """Say what is about to be done, before it is: from here on Slurm may know the job."""
        now = self._actor.clock.now()
        lost = self._apply(
            [
                self._kept(
                    entry.claimed,
                    ProcessState.INITIALIZING,
                    Phase.SUBMITTING,
                    f"context prepared; about to be submitted as {entry.claimed.job_name}",
                    intended_at=now,
                    script=entry.script.text,
                    script_sha256=entry.script.sha256,
                    image_sha256=entry.image.sha256,
                    sealing=entry.sealing,
                )
                for entry in ready
            ]
        )
        return [
            replace(entry, claimed=replace(entry.claimed, state=_BUSY, phase=Phase.SUBMITTING))
            for entry in ready
            if entry.claimed.id not in lost
        ]

    def _submit(self, ready: Sequence[Ready]) -> list[SubmitOutcome]:
        submissions = [Submission(entry.claimed.job_name, entry.script.text) for entry in ready]
        try:
            self._actor.guard()
        except NotStanding as error:
            return [SubmissionNotSent(str(error)) for _ in submissions]
        try:
            return self._scheduler.submit(submissions)
        except SiteError as error:
            return [SchedulerUnavailable(str(error)) for _ in submissions]

    def _record(self, ready: Sequence[Ready], outcomes: Sequence[SubmitOutcome]) -> bool:
        """Store what became of a batch. False when Slurm cannot be reached."""
        self._apply(
            [
                self._outcome(entry.claimed, outcome)
                for entry, outcome in zip(ready, outcomes, strict=True)
            ]
        )
        return not any(isinstance(outcome, SchedulerUnavailable) for outcome in outcomes)

    def _outcome(self, entry: Claimed, outcome: SubmitOutcome) -> Change:
        match outcome:
            case int():
                detail = f"Slurm accepted it as job {outcome}"
                return self._change(
                    entry, ProcessState.QUEUED, Phase.SUBMITTED, detail,
                    job_id=outcome, slurm_state="PENDING", reason=None,
                )  # fmt: skip
            case SubmissionRefused(retry=True):
                return self._later(entry, ProcessState.QUEUED, Phase.ACCEPTED, str(outcome))
            case SubmissionRefused():
                return self._ended(entry, ProcessState.EXECUTOR_ERROR, str(outcome))
            case SubmissionNotSent():
                return self._later(entry, ProcessState.QUEUED, Phase.ACCEPTED, str(outcome))
            case SchedulerUnavailable():
                detail = f"{outcome}: whether the job exists is not known yet"
                return self._later(entry, ProcessState.UNKNOWN, Phase.SUBMITTING, detail)
            case Exception():
                raise outcome
        assert_never(outcome)

    def _put_back(self, ready: Sequence[Ready]) -> None:
        detail = "Slurm cannot be reached: it will be tried again"
        self._apply(
            [
                self._later(entry.claimed, ProcessState.QUEUED, Phase.ACCEPTED, detail)
                for entry in ready
            ]
        )

    def _later(self, entry: Claimed, state: ProcessState, phase: Phase, detail: str) -> Change:
        not_before = self._actor.clock.now() + self._rules.retry
        return self._change(entry, state, phase, detail, not_before=not_before, reason=detail)

    def _ended(self, entry: Claimed, state: ProcessState, detail: str) -> Change:
        values = {"ended_at": self._actor.clock.now(), "reason": detail}
        return self._change(entry, state, Phase.DONE, detail, **values)

    def _kept(
        self, entry: Claimed, state: ProcessState, phase: Phase, detail: str, **values: Any
    ) -> Change:
        return replace(self._change(entry, state, phase, detail, **values), keep=True)

    def _change(
        self, entry: Claimed, state: ProcessState, phase: Phase, detail: str, **values: Any
    ) -> Change:
        source = self._scheduler.name if phase is Phase.SUBMITTED else "runner"
        return Change(entry.id, entry.state, state, entry.phase, phase, source, detail, values)

    def _apply(self, changes: Sequence[Change]) -> frozenset[str]:
        lost = self._processes.apply(changes, runner=self._actor.id, now=self._actor.clock.now())
        for change in changes:
            # Only now: another Runner that holds it may be using the context.
            if change.phase is Phase.DONE and change.process_id not in lost:
                remove(self._rules.contexts.of(change.process_id))
        return lost
