"""From accepted Processes to Slurm jobs: context, script, intent, submission, job id.

What takes long, such as staging, is begun in one round and gone on with in a later one.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, assert_never

from slurmbridge.bridge.checks import untrusted
from slurmbridge.bridge.deliver import Delivery, Shared
from slurmbridge.bridge.errands import Canceled, Errands, Watch
from slurmbridge.bridge.keeping import Keeper
from slurmbridge.bridge.render import Equipment, Renderer
from slurmbridge.bridge.requirements import AWAITED, Installer
from slurmbridge.bridge.seal import sealing
from slurmbridge.bridge.standing import Actor
from slurmbridge.context.approval import Approved
from slurmbridge.context.cache import Linked
from slurmbridge.context.carrying import Destinations
from slurmbridge.context.folder import ContextFolder, Contexts, ContextTaken
from slurmbridge.context.origins import Origins
from slurmbridge.context.staging import below_sha256
from slurmbridge.context.tree import Bounds
from slurmbridge.errors import (
    HelpersMissing,
    ImageRefused,
    InvalidProcess,
    NoNodeReady,
    NotStanding,
    RequirementsAwaited,
    SchedulerUnavailable,
    SiteError,
    SlurmBridgeError,
    StagingFailed,
    SubmissionNotSent,
    SubmissionRefused,
    UnknownImage,
)
from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.model import Helpers, Image
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
# How long a round waits for what it has begun: most is done by then.
PATIENCE_SECONDS = 0.3
# Of a Process's staged files, those whose checksums are kept.
INPUTS_KEPT = 10_000
_BUSY = ProcessState.INITIALIZING
# Why a Process may not be prepared, or not now.
_UNREADY = (
    Canceled,
    ContextTaken,
    HelpersMissing,
    ImageRefused,
    InvalidProcess,
    NoNodeReady,
    RequirementsAwaited,
    StagingFailed,
    UnknownImage,
)


@dataclass(frozen=True, slots=True)
class Ready:
    """A Process whose context is prepared and whose script is rendered."""

    claimed: Claimed
    script: Script
    image: Image
    # What its container has to be found to be, and by which helpers.
    sealing: Mapping[str, Any]
    equipment: Equipment | None = None


@dataclass(frozen=True, slots=True)
class DispatchRules:
    """Limits and places."""

    contexts: Contexts
    keeper: Keeper
    # Where code and inputs come from.
    origins: Origins
    destinations: Destinations
    staging: Bounds
    batch: int
    retry: timedelta
    signature_required: bool = False
    in_progress: Limits = UNLIMITED
    delivery: Delivery = field(default_factory=Shared)
    installer: Installer | None = None
    # None: whatever was staged may run.
    approved: Approved | None = None
    # What submits while the next batch is being prepared.
    beside: Callable[[], Executor] = lambda: ThreadPoolExecutor(1, thread_name_prefix="submit")
    # What stages; as long as the Runner lives.
    staging_by: Callable[[], Executor] = lambda: ThreadPoolExecutor(4, thread_name_prefix="stage")


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
        self._errands: Errands[Ready | Change] = Errands(rules.staging_by, actor)

    @property
    def under_way(self) -> frozenset[str]:
        """The Processes whose preparation goes on between two rounds."""
        return self._errands.under_way

    def close(self) -> None:
        """End what is being prepared."""
        self._errands.close()

    def dispatch(self) -> int:
        """Submit what waits, up to a bound; the number of Processes that were taken.

        While one batch is being submitted, the next is prepared.
        """
        taken: set[str] = set()
        try:
            with self._rules.beside() as pool:
                self._dispatch(pool, taken)
        finally:
            self._processes.let_go(taken - self.under_way, runner=self._actor.id)
        return len(taken)

    def mark_revoked(self) -> None:
        """Let the nodes know which images are revoked. Raises StagingFailed."""
        revoked = [image for image in self._images.all() if image.revoked_at is not None]
        self._rules.delivery.revoke(revoked)

    def _dispatch(self, pool: Executor, taken: set[str]) -> None:
        waiting: _Waiting | None = None
        deadline = self._actor.clock.monotonic() + PATIENCE_SECONDS
        # Bounded, because meanwhile nothing is observed, canceled or collected.
        for turn in range(BATCHES + 1):
            ready = self._next(taken, waiting, deadline) if turn < BATCHES else None
            if waiting and not self._record(waiting[0], waiting[1].result()):
                self._put_back(ready or [])
                return
            if ready is None:
                return
            waiting = (ready, pool.submit(self._submit, ready)) if ready else None

    def _next(
        self, taken: set[str], waiting: "_Waiting | None", deadline: float
    ) -> list[Ready] | None:
        """What can be submitted next; None when there is nothing to be done now."""
        try:
            claimed = self._claim()
            taken |= {entry.id for entry in claimed}
            prepared = self._prepare(claimed) + self._take_prepared(taken, deadline)
            failed = [outcome for outcome in prepared if isinstance(outcome, Change)]
            self._apply(failed)
            ready = self._intend([entry for entry in prepared if isinstance(entry, Ready)])
            return ready if claimed or prepared else None
        except SlurmBridgeError:
            # What Slurm has said of those before is not lost over it.
            if waiting:
                self._record(waiting[0], waiting[1].result())
            raise

    def _claim(self) -> list[Claimed]:
        return self._processes.claim(
            Phase.ACCEPTED,
            runner=self._actor.id,
            # What needs no staging goes on, however much is being staged.
            limit=max(1, self._rules.batch - len(self.under_way)),
            now=self._actor.clock.now(),
            limits=self._rules.in_progress,
        )

    def _prepare(self, claimed: Sequence[Claimed]) -> list[Ready | Change]:
        """Prepare what is quickly done, and begin with what is not."""
        images = self._images.latest() if claimed else {}
        done: list[Ready | Change] = []
        for entry in claimed:
            if entry.id in self.under_way:
                # A Runner that was struck off finds its own Processes free, until it notices.
                continue
            if self._takes_long(entry, images):
                work = partial(self._try_to_prepare, entry, images, self._errands.actor)
                self._errands.begin(entry.id, work)
            else:
                done.append(self._try_to_prepare(entry, images, self._actor))
        return done

    def _takes_long(self, entry: Claimed, images: Mapping[str, Image]) -> bool:
        if entry.spec.code or entry.spec.inputs or entry.spec.requirements:
            return True
        outputs = entry.spec.outputs
        if outputs and self._rules.destinations.is_remote(outputs.destination):
            return True
        image = images.get(entry.spec.image)
        return image is not None and self._rules.delivery.brings(image)

    def _take_prepared(self, taken: set[str], deadline: float) -> list[Ready | Change]:
        """What came of all that was begun and is done."""
        done: list[Ready | Change] = []
        for process_id in self._errands.wait(deadline):
            taken.add(process_id)
            done.append(self._errands.take(process_id))
        return done

    def _try_to_prepare(
        self, entry: Claimed, images: Mapping[str, Image], actor: Actor
    ) -> Ready | Change:
        try:
            return self._prepare_one(entry, images, actor)
        except SlurmBridgeError:
            raise
        except Exception:
            # What one Process asks for must not end the work for all others.
            log.exception("preparing Process %s failed", entry.id)
            state = self._processes.get(entry.id).state
            detail = "preparing failed by a mistake of the bridge; see its log"
            return self._ended(replace(entry, state=state), ProcessState.SYSTEM_ERROR, detail)

    def _prepare_one(
        self, entry: Claimed, images: Mapping[str, Image], actor: Actor
    ) -> Ready | Change:
        if entry.cancel_requested:
            return self._canceled(entry)
        before = entry
        actor.guard()
        folder = self._rules.contexts.of(entry.id)
        try:
            image = self._image(entry, images)
            self._renderer.avoid(entry.spec)
            image = self._rules.delivery.image(image)
            helpers = self._rules.delivery.helpers(self._helpers.get())
            self._check_destination(entry)
            code_sha256: str | None = None
            equipment = self._equipment(entry, image, helpers)
            prepared = self._renderer.prepared(entry.id, entry.spec, image, equipment)
            folder.make(prepared.command, prepared.environment, prepared.expected_facts)
            if entry.spec.code or entry.spec.inputs:
                # Told once, however often it is tried.
                if not entry.reason or entry.reason.startswith(AWAITED):
                    begun = self._kept(entry, _BUSY, entry.phase, "staging", reason=None)
                    self._apply([begun])
                    entry = replace(entry, state=_BUSY)
                code_sha256 = self._stage(entry, folder, actor)
            script = self._renderer.render(
                entry.id, entry.spec, image, helpers, equipment, code_sha256=code_sha256
            )
            return Ready(entry, script, image, sealing(prepared, helpers), equipment)
        except _UNREADY as error:
            return self._not_ready(before, entry, error)

    def _not_ready(self, before: Claimed, entry: Claimed, error: Exception) -> Change:
        """What follows when it cannot be prepared. `before` is as it was when it was taken."""
        match error:
            case Canceled():
                return self._canceled(entry)
            case InvalidProcess() | UnknownImage():
                return self._ended(entry, ProcessState.EXECUTOR_ERROR, str(error))
            case ImageRefused():
                return self._ended(entry, ProcessState.SYSTEM_ERROR, str(error))
            case ContextTaken(job_id=job_id):
                values = {"job_id": job_id, "slurm_state": None, "missing_since": None}
                detail = f"its context was taken by job {job_id}"
                return self._change(entry, ProcessState.QUEUED, Phase.SUBMITTED, detail, **values)
        # A full or missing file system is mended, or a node, and what waited for it then runs.
        soon = error.retry_after if isinstance(error, RequirementsAwaited) else None
        return again(before, self._later(entry, ProcessState.QUEUED, entry.phase, str(error), soon))

    def _canceled(self, entry: Claimed) -> Change:
        return self._ended(entry, ProcessState.CANCELED, "canceled before it was submitted")

    def _image(self, entry: Claimed, images: Mapping[str, Image]) -> Image:
        image = images.get(entry.spec.image)
        if image is None:
            raise UnknownImage(f"no image named {entry.spec.image!r} is recorded any more")
        required = self._rules.signature_required
        if problem := untrusted(image, signature_required=required):
            raise ImageRefused(problem)
        return image

    def _equipment(self, entry: Claimed, image: Image, helpers: Helpers) -> Equipment | None:
        installer = self._rules.installer
        if installer is None:
            return None
        spec, rules = entry.spec, self._rules
        folder = rules.contexts.of(entry.id)

        def beside(name: str) -> bytes | None:
            assert spec.code is not None
            return folder.beside(spec.code, name, rules.origins, rules.staging)

        return installer.of(spec, image, architecture=helpers.architecture, beside=beside)

    def _check_destination(self, entry: Claimed) -> None:
        """A file where a folder would have to be is found out before the program runs."""
        if entry.spec.outputs:
            problem = self._rules.destinations.problem(entry.spec.outputs.destination)
            if problem:
                raise InvalidProcess(problem)

    def _stage(self, entry: Claimed, folder: ContextFolder, actor: Actor) -> str | None:
        """Copy code and inputs in; the digest of the code, if there is some."""
        rules = self._rules
        watch = Watch(self._processes, actor, entry.id, "staging", ends_with_cancel=True)
        copied = folder.stage(entry.spec, replace(rules.origins, watch=watch), rules.staging)
        size = sum(file.size_bytes for file in copied)
        detail = f"staged {len(copied)} files, {size} bytes"
        if there := sum(file.size_bytes for file in copied if isinstance(file, Linked)):
            detail += f", {there} of them from the cache"
        inputs = [asdict(file) for file in copied[:INPUTS_KEPT]]
        code_sha256 = below_sha256(copied, "code") if entry.spec.code else None
        if rules.approved and code_sha256:
            rules.approved.require(code_sha256)
        values = {"inputs": inputs, "code_sha256": code_sha256}
        self._apply([self._kept(entry, entry.state, entry.phase, detail, **values)])
        return code_sha256

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
                    progress=None,
                    script=entry.script.text,
                    script_sha256=entry.script.sha256,
                    image_sha256=entry.image.sha256,
                    sealing=entry.sealing,
                    requirements=(
                        entry.equipment.found.model_dump(mode="json") if entry.equipment else None
                    ),
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
        left = self._actor.seconds_left
        submissions = [
            Submission(entry.claimed.job_name, entry.script.text, left) for entry in ready
        ]
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

    def _later(
        self,
        entry: Claimed,
        state: ProcessState,
        phase: Phase,
        detail: str,
        after: timedelta | None = None,
    ) -> Change:
        not_before = self._actor.clock.now() + (after or self._rules.retry)
        return self._change(
            entry, state, phase, detail, not_before=not_before, reason=detail, progress=None
        )

    def _ended(self, entry: Claimed, state: ProcessState, detail: str) -> Change:
        values = {"ended_at": self._actor.clock.now(), "reason": detail, "progress": None}
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
        # Only now: another Runner that holds it may be using the context.
        done = [change.process_id for change in changes if change.phase is Phase.DONE]
        self._rules.keeper.destroy([one for one in done if one not in lost])
        return lost
