"""One cluster, put together: how it is reached, what a Runner does for it, how it is examined."""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from slurmbridge.bridge.collect import Collector, CollectRules
from slurmbridge.bridge.deliver import Delivery, Sent, Shared
from slurmbridge.bridge.desk import new_ulid
from slurmbridge.bridge.dispatch import Dispatcher, DispatchRules
from slurmbridge.bridge.examine import Avoidance, Examiner, ExaminerRules, known_capability
from slurmbridge.bridge.logs import LogKeeper
from slurmbridge.bridge.observe import Observer, Patience
from slurmbridge.bridge.reading import ReadingProcess, TraceReader
from slurmbridge.bridge.recover import Recoverer, RecoverRules
from slurmbridge.bridge.render import Renderer
from slurmbridge.bridge.standing import Actor, Standing, beats_of
from slurmbridge.clock import Absences, Clock
from slurmbridge.container.signing import SigningKey
from slurmbridge.context.copying import Pace, Reading
from slurmbridge.context.folder import Contexts
from slurmbridge.context.tree import Bounds
from slurmbridge.model import ComputeCapability, Helpers, Image, ProcessSpec
from slurmbridge.runner import Cadence, Runner, Verbs
from slurmbridge.scheduler import Scheduler
from slurmbridge.scheduler.commands import job_usage
from slurmbridge.scheduler.manners import PoliteScheduler
from slurmbridge.script import DEFAULT_TEMPLATES, Templates
from slurmbridge.settings import ClusterSettings, Settings
from slurmbridge.store import (
    Database,
    HelperStore,
    ImageStore,
    Limits,
    LogStore,
    NodeStore,
    ProcessStore,
    Roster,
    RunnerStatus,
    SiteStore,
)
from slurmbridge.stores import open_store
from slurmbridge.trace.judge import SiteRules
from slurmbridge.wiring.reach import Reach, reach

_MIB = 1024 * 1024


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Common:
    """What all clusters of an installation share. What has to be read from files is asked for."""

    settings: Settings
    database: Database
    helpers: HelperStore
    key: Callable[[], SigningKey]
    trace_rules: Callable[[], SiteRules]

    @property
    def stores(self) -> dict[str, Path]:
        """The Data Stores' folders."""
        return self.settings.store_folders

    @cached_property
    def remote(self) -> dict[str, Reading]:
        """The Data Stores that are none, as inputs come from them."""
        return {
            name: Reading(open_store(name, store), Pace(store.parallel))
            for name, store in self.settings.stores.items()
            if name not in self.stores and store.read
        }


class ClusterSite:
    """One cluster of an installation."""

    def __init__(self, name: str, settings: ClusterSettings, common: Common) -> None:
        self.name = name
        self.settings = settings
        self._common = common
        self._database = common.database
        self._clock = Clock()

    # --- places ---

    @cached_property
    def _reach(self) -> Reach:
        return reach(self.settings)

    @cached_property
    def contexts(self) -> Contexts:
        """Where its contexts lie."""
        spool = self._common.settings.spool if self.settings.remote_files else None
        return Contexts(self._reach.files, self.settings.contexts, spool)

    @cached_property
    def templates(self) -> Templates:
        """What its scripts are made from."""
        return Templates(self.settings.templates or DEFAULT_TEMPLATES)

    @property
    def images(self) -> Path:
        """Where its nodes find images and helpers."""
        return self.settings.images or self._common.settings.images

    @cached_property
    def _delivery(self) -> Delivery:
        if not self.settings.remote_files:
            return Shared()
        return Sent(self._reach.files, self.images)

    # --- what is known ---

    @cached_property
    def _site(self) -> SiteStore:
        return SiteStore(self._database, self.name)

    @cached_property
    def _nodes(self) -> NodeStore:
        return NodeStore(self._database, self.name)

    @cached_property
    def processes(self) -> ProcessStore:
        """Its Processes."""
        return ProcessStore(self._database, self.name)

    def known_capability(self, fresh: ComputeCapability | None = None) -> ComputeCapability | None:
        """What was last reported of it, or just now, with what is known of its nodes."""
        self._database.check_schema()
        if fresh is not None:
            self._site.record_capability(fresh)
        return known_capability(self._site, self._nodes)

    def usage(self, job_id: int) -> Mapping[str, str]:
        """What accounting knows of a job's use."""
        seconds = self.settings.slurm.timeout_seconds
        return job_usage(self._reach.shell, job_id, timeout_seconds=seconds)

    # --- scripts ---

    @cached_property
    def _renderer(self) -> Renderer:
        limits = self._common.settings.limits
        return Renderer(
            self.templates,
            self.settings.contexts,
            log_limit=limits.log_file_mib * _MIB,
            output_limit=limits.output_mib * _MIB,
            trace_limit=limits.trace_mib * _MIB,
            avoid=Avoidance(self._site, self._nodes, clock=now),
        )

    def render(self, process_id: str, spec: ProcessSpec, image: Image, helpers: Helpers) -> str:
        """What would be submitted."""
        found = self._delivery.named(image, helpers)
        return self._renderer.render(process_id, spec, *found).text

    # --- work ---

    def scheduler(self) -> PoliteScheduler:
        """The way to its Slurm.

        Raises:
            ConfigurationError: pyslurm is asked for and cannot be used.
        """
        return self._reach.scheduler(self.settings, self._clock)

    def examiner(self, scheduler: Scheduler, *, look_seconds: float) -> Examiner:
        """Who examines nodes; Slurm is asked about the jobs no more often than this."""
        doctor = self._common.settings.doctor
        rules = ExaminerRules(
            contexts=self.contexts,
            images=self.images,
            every=timedelta(hours=doctor.every_hours),
            retry=timedelta(minutes=doctor.retry_minutes),
            answer=timedelta(minutes=doctor.answer_minutes),
            look=timedelta(seconds=look_seconds),
        )
        return Examiner(self._nodes, scheduler, self.templates, rules, clock=now)

    def runner(self, scheduler: PoliteScheduler) -> Runner:
        """A Runner with an id of its own."""
        settings = self._common.settings
        host = socket.gethostname()
        status = RunnerStatus(
            id=f"{host}-{os.getpid()}-{new_ulid()[-6:]}",
            host=host,
            cluster=self.name,
            transport=scheduler.name,
            heartbeat_at=now(),
            scheduler_error=None,
        )
        beats = beats_of(settings.runner.lease_seconds)
        cadence = Cadence(
            idle_seconds=settings.runner.idle_seconds,
            poll_seconds=self.settings.slurm.poll_seconds,
            capability_seconds=self.settings.slurm.capability_seconds,
            beat_seconds=beats.every_seconds,
        )
        standing = Standing(Roster(self._database), status, beats, self._clock)
        verbs = self._verbs(scheduler, Actor(status.id, self._clock, standing.check))
        return Runner(
            verbs,
            scheduler,
            self._site,
            self.processes,
            standing,
            cadence,
            clock=self._clock,
        )

    def close(self) -> None:
        """Let go of the connection."""
        if "_reach" in self.__dict__:
            self._reach.close()

    def _verbs(self, scheduler: PoliteScheduler, actor: Actor) -> Verbs:
        settings = self._common.settings
        limit = settings.limits.log_kib * 1024
        logs = LogKeeper(
            LogStore(self._database),
            self.contexts,
            limit_bytes=limit,
            monotonic=self._clock.monotonic,
        )
        rules = RecoverRules(self.contexts, self._retry)
        return Verbs(
            dispatcher=self._dispatcher(scheduler, actor),
            observer=Observer(
                self.processes,
                scheduler,
                self._patience(),
                actor,
                taken_by=lambda process_id: self.contexts.of(process_id).taken_by(),
            ),
            recoverer=Recoverer(self.processes, scheduler, rules, self._patience(), actor),
            collector=self._collector(logs, actor),
            logs=logs,
            examiner=(
                self.examiner(scheduler, look_seconds=10) if settings.doctor.every_hours else None
            ),
            tally=scheduler.tally,
        )

    @property
    def _retry(self) -> timedelta:
        return timedelta(seconds=self._common.settings.runner.retry_seconds)

    def _patience(self) -> Patience:
        often = timedelta(seconds=self.settings.slurm.poll_seconds) + self._retry
        return Patience(self._absence, Absences(self._clock.monotonic, most=2 * often))

    def _absence(self) -> timedelta:
        """Longer than a submission can be on its way: its sender gives up, and then Slurm does."""
        slurm = self.settings.slurm
        capability = self._site.capability()
        message_timeout = capability.message_timeout_seconds if capability else None
        on_its_way = slurm.timeout_seconds + 2 * (message_timeout or 0)
        return timedelta(seconds=max(slurm.absence_seconds, on_its_way))

    def _dispatcher(self, scheduler: Scheduler, actor: Actor) -> Dispatcher:
        settings = self._common.settings
        in_progress = self.settings.slurm.in_progress
        rules = DispatchRules(
            contexts=self.contexts,
            stores=self._common.stores,
            remote=self._common.remote,
            staging=Bounds(settings.limits.input_mib * _MIB, files=1_000_000),
            batch=settings.runner.batch,
            retry=self._retry,
            signature_required=settings.image_trust.required,
            in_progress=Limits(in_progress.cluster, in_progress.account, in_progress.partition),
            delivery=self._delivery,
        )
        images = ImageStore(self._database)
        helpers = self._common.helpers
        return Dispatcher(self.processes, images, helpers, scheduler, self._renderer, rules, actor)

    def _collector(self, logs: LogKeeper, actor: Actor) -> Collector:
        settings = self._common.settings
        rules = CollectRules(
            contexts=self.contexts,
            stores=self._common.stores,
            default_destination=settings.default_destination,
            output=Bounds(settings.limits.output_mib * _MIB, settings.limits.output_files),
            batch=settings.runner.batch,
            retry=self._retry,
        )
        traces = TraceReader(self._common.trace_rules(), ReadingProcess)
        key = self._common.key()
        return Collector(self.processes, logs, rules, key=key, traces=traces, actor=actor)
