"""What a submitter can ask for. Touches the database only: nothing here waits for Slurm."""

import json
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from slurmbridge.bridge.checks import ONE_CLUSTER, Clusters, Rules, check, untrusted
from slurmbridge.bridge.examine import known_capability
from slurmbridge.bridge.review import is_held_back
from slurmbridge.context.left import TRACE
from slurmbridge.context.results import Results
from slurmbridge.errors import (
    DatabaseUnavailable,
    Forbidden,
    HelpersMissing,
    NotTraced,
    NotWaiting,
    RequestError,
    SchedulerUnavailable,
    Unauthenticated,
)
from slurmbridge.lifecycle import ProcessState, ReviewState
from slurmbridge.model import (
    Attestation,
    ClusterStatus,
    ComputeCapability,
    Event,
    ListedImage,
    Process,
    PublicKey,
)
from slurmbridge.spec import ProcessSpec, TraceLevel
from slurmbridge.store import (
    Database,
    HelperStore,
    Idempotency,
    ImageStore,
    KeyStore,
    LogStore,
    NodeStore,
    ProcessStore,
    ReviewLedger,
    Roster,
    SiteStore,
    TokenStore,
)
from slurmbridge.stores import Source

LOG_STREAMS = ("stdout", "stderr", "job")
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
# A Runner that has been silent for longer is taken for gone.
RUNNER_SILENCE = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether work can be done now; `problems` says what prevents it."""

    problems: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """No problem."""
        return not self.problems


class Desk:
    """The front of the bridge."""

    def __init__(
        self,
        database: Database,
        rules: Rules,
        helpers: HelperStore,
        results: Results,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
        clusters: Clusters = ONE_CLUSTER,
    ) -> None:
        self._database = database
        self._clusters = clusters
        self._processes = ProcessStore(database)
        self._logs = LogStore(database)
        self._images = ImageStore(database)
        self._tokens = TokenStore(database)
        self._roster = Roster(database)
        self._keys = KeyStore(database)
        self._helpers = helpers
        self._results = results
        self._rules = rules
        self._clock = clock
        self._new_id = new_id
        self._reviews = ReviewLedger(database)

    def submit(self, spec: ProcessSpec, *, by: str) -> Process:
        """Accept a Process. It is durable when this returns.

        Raises:
            InvalidProcess: it asks for something that this site does not have.
        """
        return self._processes.get(self._accept(spec, by, None))

    def submit_once(self, spec: ProcessSpec, *, by: str, key: str) -> tuple[Process, bool]:
        """Accept a Process, and whether it is a new one: who asks again for the same with the same
        key gets the Process that was accepted then.

        Raises:
            InvalidProcess
            IdempotencyConflict: the key was used for something else.
        """
        # What is compared is what was understood: one request can be written in many ways.
        request = json.dumps(spec.model_dump(mode="json"), sort_keys=True)
        idempotency = Idempotency(key, sha256(request.encode()).hexdigest())
        known = self._processes.accepted_as(idempotency, by=by)
        offered = None if known else self._accept(spec, by, idempotency)
        # Of two that ask at the same time, one was first.
        accepted = known or self._processes.accepted_as(idempotency, by=by)
        assert accepted is not None
        return self._processes.get(accepted), accepted == offered

    def _accept(self, spec: ProcessSpec, by: str, idempotency: Idempotency | None) -> str:
        images = self._images.latest()
        cluster = self._clusters.chosen(spec.cluster, spec.account)
        check(
            spec,
            self._rules,
            images=images,
            capability=self._known(cluster),
            networked=cluster in self._clusters.networked,
        )
        process_id = self._new_id()
        now = self._clock()
        processes = ProcessStore(self._database, cluster)
        processes.add([(process_id, spec)], by=by, now=now, idempotency=idempotency)
        return process_id

    def _known(self, cluster: str) -> ComputeCapability | None:
        database = self._database
        return known_capability(SiteStore(database, cluster), NodeStore(database, cluster))

    def inspect(self, process_id: str, *, by: str | None = None) -> Process:
        """One Process, as `by` may see it; None: somebody on a host of the bridge.

        Raises:
            UnknownProcess
        """
        process = self._processes.get(process_id)
        return process if self._may_see(process, by) else self._covered(process)

    def _covered(self, process: Process) -> Process:
        review = process.review and process.review.model_copy(update={"location": None})
        # The program has chosen the names.
        hidden = {"outputs": (), "outputs_ignored": (), "traced": None, "review": review}
        return process.model_copy(update=hidden)

    def _may_see(self, process: Process, by: str | None) -> bool:
        """Whether somebody may see all of it; None is somebody on a host of the bridge."""
        if by is None or not is_held_back(process, self._rules.reviewing):
            return True
        return self._tokens.may_review(by)

    def _must_see(self, process_id: str, by: str | None) -> None:
        """Raises UnknownProcess, Forbidden."""
        if self._may_see(self._processes.get(process_id), by):
            return
        raise Forbidden(
            f"what Process {process_id} says and leaves is held back until its review lets it out"
        )

    def decide(self, process_id: str, *, release: bool, by: str, reason: str | None) -> Process:
        """Let out the outputs of a Process, or have them destroyed.

        Raises:
            UnknownProcess
            Forbidden: the token of `by` is not for this, or the Process is his own.
            NotWaiting: there is nothing to decide (any more).
        """
        process = self._processes.get(process_id)
        if not self._tokens.may_review(by):
            raise Forbidden(f"the token of {by} is not one of a reviewer")
        if by == process.submitted_by:
            raise Forbidden("nobody decides on the outputs of his own Processes")
        now = self._clock()
        if not self._reviews.decide(process_id, release=release, by=by, reason=reason, now=now):
            raise NotWaiting(_why_not_waiting(self._processes.get(process_id)))
        return self._processes.get(process_id)

    def page(
        self,
        *,
        limit: int = 50,
        before: str | None = None,
        states: Sequence[ProcessState] = (),
        label: tuple[str, str] | None = None,
        review: ReviewState | None = None,
        by: str | None = None,
    ) -> list[Process]:
        """Processes, newest first, as `by` may see them."""
        found = self._processes.page(
            limit=limit, before=before, states=states, label=label, review=review
        )
        held = [process for process in found if is_held_back(process, self._rules.reviewing)]
        if not held or self._may_see(held[0], by):
            return found
        hidden = {process.id for process in held}
        return [self._covered(one) if one.id in hidden else one for one in found]

    def cancel(self, process_id: str, *, by: str) -> Process:
        """Ask for the end of a Process. Raises UnknownProcess, IllegalTransition."""
        return self._processes.request_cancel(process_id, by=by, now=self._clock())

    def log(
        self,
        process_id: str,
        stream: str,
        *,
        offset: int = 0,
        limit: int = 1 << 20,
        by: str | None = None,
    ) -> bytes:
        """What the program printed so far, from a byte offset on.

        Raises:
            UnknownProcess
            Forbidden: a review holds it back.
        """
        self._must_see(process_id, by)
        return self._logs.read(process_id, stream, offset=offset, limit=limit)

    def script(self, process_id: str) -> str | None:
        """The sbatch script of a Process, once it is rendered. Raises UnknownProcess."""
        return self._processes.script(process_id)

    def attestation(self, process_id: str) -> Attestation | None:
        """What the container of a Process was found to be. Raises UnknownProcess."""
        return self._processes.attestation(process_id)

    def trace_report(self, process_id: str, *, by: str | None = None) -> bytes:
        """What a traced Process did, a TraceReport as JSON.

        Raises:
            UnknownProcess
            Forbidden
            NotTraced
        """
        self._must_see(process_id, by)
        found = self._processes.trace_report(process_id)
        if found is None:
            raise NotTraced(self._why_not_traced(process_id))
        return found

    def _why_not_traced(self, process_id: str) -> str:
        process = self._processes.get(process_id)
        if process.spec.trace is TraceLevel.OFF:
            return f"Process {process_id} is not traced: its specification says off"
        if not process.state.final:
            return f"Process {process_id} has not ended: its trace is read then"
        return f"Process {process_id} has no trace: its program was not started"

    def open_trace(
        self, process_id: str, *, by: str | None = None
    ) -> AbstractContextManager[Source]:
        """The trace itself, compressed by zstd, as it was carried.

        Raises:
            UnknownProcess
            Forbidden
            NotTraced
            StagingFailed: it is not there any more.
        """
        self._must_see(process_id, by)
        process = self._processes.get(process_id)
        waits = process.review.location if process.review else None
        location = process.outputs_location or waits
        if location is None or process.traced is None:
            raise NotTraced(self._why_not_traced(process_id))
        return self._results.open(location, TRACE)

    def keys(self) -> list[PublicKey]:
        """The keys with which Runners of this bridge sign, the latest first."""
        return self._keys.all()

    def events(self, process_id: str) -> list[Event]:
        """What was observed and done, with sources. Raises UnknownProcess."""
        return self._processes.events(process_id)

    def capability(self, cluster: str | None = None) -> ComputeCapability:
        """What a cluster offers, as last reported, and what its nodes were found able to do.

        Raises:
            RequestError: there is no such cluster, or none is named and none is usual.
            SchedulerUnavailable: no Runner has reported yet.
        """
        chosen = cluster or self._clusters.usual
        if chosen not in self._clusters.names:
            known = ", ".join(self._clusters.names)
            raise RequestError(f"there is no cluster {cluster or 'by default'!r} (known: {known})")
        capability = self._known(chosen)
        if capability is None:
            raise SchedulerUnavailable("no Runner has reported on the cluster yet")
        return capability

    def clusters(self) -> list[ClusterStatus]:
        """Every cluster of this site, and how it goes there."""
        runners = self._roster.runners(since=self._clock() - RUNNER_SILENCE)
        calls = self._roster.calls()
        found = []
        for name in self._clusters.names:
            here = [runner for runner in runners if runner.cluster == name]
            errors = sorted({entry.scheduler_error for entry in here if entry.scheduler_error})
            found.append(
                ClusterStatus(
                    name=name,
                    usual=name == self._clusters.usual,
                    runners=len(here),
                    reached=any(entry.scheduler_error is None for entry in here),
                    problems=tuple(errors),
                    in_progress=self._processes.in_progress(name),
                    scheduler_calls={kind: made for kind, (made, _) in calls.get(name, {}).items()},
                    scheduler_failures={
                        kind: failed for kind, (_, failed) in calls.get(name, {}).items() if failed
                    },
                )
            )
        return found

    def images(self) -> list[ListedImage]:
        """The images that are recorded, newest first."""
        required = self._rules.signature_required
        found: list[ListedImage] = []
        named: set[str] = set()
        for image in self._images.all():
            latest = image.name not in named
            named.add(image.name)
            runs = latest and untrusted(image, signature_required=required) is None
            found.append(ListedImage(**image.model_dump(), runs=runs))
        return found

    def authenticate(self, token: str) -> str:
        """The name that a bearer token belongs to.

        Raises:
            Unauthenticated
        """
        name = self._tokens.name_of(token_hash(token))
        if name is None:
            raise Unauthenticated("the bearer token is not known")
        return name

    def add_token(self, name: str, *, reviews: bool = False) -> str:
        """Make a token. It is returned this once; only its hash is kept."""
        token = f"sb_{secrets.token_urlsafe(32)}"
        self._tokens.add(name, token_hash(token), now=self._clock(), reviews=reviews)
        return token

    def readiness(self) -> Readiness:
        """Whether what is submitted now would be worked on now."""
        try:
            self._database.check_schema()
            runners = self._roster.runners(since=self._clock() - RUNNER_SILENCE)
        except DatabaseUnavailable as error:
            return Readiness((str(error),))
        if not runners:
            return Readiness(("no Runner is alive: accepted Processes wait",))
        # With several clusters, one that is silent does not keep work from the others.
        errors = sorted({r.scheduler_error for r in runners if r.scheduler_error})
        if errors and all(runner.scheduler_error for runner in runners):
            return Readiness(tuple(errors))
        try:
            self._helpers.get()
        except (HelpersMissing, DatabaseUnavailable) as error:
            return Readiness((str(error),))
        return Readiness(())


def _why_not_waiting(process: Process) -> str:
    review = process.review
    if review is None:
        return f"no review of Process {process.id} is waited for"
    word = review.state.value.lower()
    return f"the outputs of Process {process.id} are {word}, by {review.by} at {review.at}"


def token_hash(token: str) -> str:
    """What is stored of a token. It has 256 random bits, so that no slow hash is needed."""
    return sha256(token.encode(errors="surrogateescape")).hexdigest()


def ulid_time(ulid: str) -> datetime:
    """When an id was made, to the millisecond."""
    number = 0
    for letter in ulid[:10]:
        number = number << 5 | _BASE32.index(letter)
    return datetime.fromtimestamp(number / 1000, UTC)


def new_ulid() -> str:
    """A new id: 26 letters and digits that sort by time (ULID)."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_BASE32[number >> shift & 31] for shift in range(125, -1, -5))
