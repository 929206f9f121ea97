"""One cluster, put together: how it is reached, what a Runner does for it, how it is examined."""

import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path

from slurmbridge.bridge.checks import Reviewing
from slurmbridge.bridge.collect import Collector, CollectRules
from slurmbridge.bridge.deliver import Delivery, Sent, Shared
from slurmbridge.bridge.desk import new_ulid
from slurmbridge.bridge.dispatch import Dispatcher, DispatchRules
from slurmbridge.bridge.examine import Avoidance, Examiner, ExaminerRules, known_capability
from slurmbridge.bridge.keeping import Keeper, Retention
from slurmbridge.bridge.logs import LogKeeper
from slurmbridge.bridge.observe import Observer, Patience
from slurmbridge.bridge.reading import ReadingProcess, TraceReader
from slurmbridge.bridge.recover import Recoverer, RecoverRules
from slurmbridge.bridge.render import Equipment, Renderer
from slurmbridge.bridge.requirements import Installer, InstallRules, Source, unfit
from slurmbridge.bridge.review import Reviewer, ReviewRules
from slurmbridge.bridge.standing import Actor, Standing, beats_of
from slurmbridge.clock import Absences, Clock
from slurmbridge.container.apptainer import OutputRules
from slurmbridge.container.signing import SigningKey
from slurmbridge.context.approval import Approved
from slurmbridge.context.cache import Cache, Shelves
from slurmbridge.context.carrying import Destinations, Writing
from slurmbridge.context.commits import Mirrors
from slurmbridge.context.copying import Pace, Reading
from slurmbridge.context.folder import Contexts
from slurmbridge.context.origins import Origins
from slurmbridge.context.patterns import kept_back
from slurmbridge.context.reading import read_small
from slurmbridge.context.results import Results
from slurmbridge.context.tree import Bounds
from slurmbridge.model import ComputeCapability, Helpers, Image, InstalledRequirements
from slurmbridge.requirements import BYTES_LIMIT, IMAGE_FILE, MADE
from slurmbridge.runner import Cadence, Runner, Verbs
from slurmbridge.scheduler import Scheduler
from slurmbridge.scheduler.commands import job_usage
from slurmbridge.scheduler.manners import PoliteScheduler
from slurmbridge.script import DEFAULT_TEMPLATES, Templates
from slurmbridge.sections import ClusterSettings, OutputPlace
from slurmbridge.settings import Settings
from slurmbridge.shell import LocalShell
from slurmbridge.spec import ProcessSpec
from slurmbridge.store import (
    ContextLedger,
    Database,
    HelperStore,
    ImageStore,
    InstallationStore,
    KeyStore,
    Limits,
    LogStore,
    NodeStore,
    ProcessStore,
    ReviewLedger,
    Roster,
    RunnerStatus,
    SiteStore,
)
from slurmbridge.stores import DataStore, open_store
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
    def _opened(self) -> dict[str, DataStore]:
        """The Data Stores that are no folders."""
        return {
            name: open_store(name, store)
            for name, store in self.settings.stores.items()
            if name not in self.stores
        }

    @cached_property
    def remote(self) -> dict[str, Reading]:
        """Those of them from which inputs come."""
        stores = self.settings.stores
        return {
            name: Reading(store, Pace(stores[name].parallel))
            for name, store in self._opened.items()
            if stores[name].read
        }

    @cached_property
    def origins(self) -> Origins:
        """Where code and inputs come from."""
        urls = {name: mirror.url for name, mirror in self.settings.mirrors.items()}
        return Origins(self.stores, self.remote, Mirrors(LocalShell(), urls))

    @cached_property
    def destinations(self) -> Destinations:
        """Where outputs can be carried."""
        stores = self.settings.stores
        written = {
            name: Writing(store, Pace(stores[name].parallel))
            for name, store in self._opened.items()
            if stores[name].write
        }
        return Destinations(self.stores, written)

    @cached_property
    def reviewing(self) -> Reviewing:
        """Whose outputs are reviewed."""
        review = self.settings.review
        accounts = None if review.accounts is None else frozenset(review.accounts)
        return Reviewing(review.store, accounts)

    @cached_property
    def results(self) -> Results:
        """What was carried, for reading it again."""
        return Results(self.stores, lambda: self._opened)

    def close(self) -> None:
        """Let go of the connections."""
        for store in self.__dict__.get("_opened", {}).values():
            store.close()


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
        files, root = self._reach.files, self.settings.contexts
        kept = self._common.settings.cache
        unused = timedelta(hours=kept.unused_hours)
        shelves = Shelves(kept.size_mib << 20, kept.least_mib << 20, unused)
        return Contexts(files, root, spool, Cache(files, root, shelves) if kept.size_mib else None)

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
            outputs=OutputRules(
                limits.output_mib * _MIB,
                limits.output_files,
                in_memory=limits.output_place is OutputPlace.MEMORY,
            ),
            trace_limit=limits.trace_mib * _MIB,
            avoid=Avoidance(self._site, self._nodes, clock=now),
        )

    def render(self, process_id: str, spec: ProcessSpec, image: Image, helpers: Helpers) -> str:
        """What would be submitted."""
        found = self._delivery.named(image, helpers)
        equipment = None
        if spec.requirements is not None:
            # Known when they are installed.
            none = "0" * 64
            path = self._install_rules.folder / none / MADE / IMAGE_FILE
            nothing = InstalledRequirements(key=none, sha256=none, size_bytes=0, lock=())
            equipment = Equipment(str(path), nothing)
        return self._renderer.render(process_id, spec, *found, equipment).text

    @cached_property
    def _install_rules(self) -> InstallRules:
        site, own = self._common.settings.requirements, self.settings.requirements
        partition = own.partition or site.partition
        return InstallRules(
            folder=own.folder or site.folder or self.images / "requirements",
            sources={
                name: Source(source.place(name), source.sources_built)
                for name, source in site.sources.items()
            },
            usual=site.usual_source,
            limits=site.limits,
            account=own.account or site.account,
            partition=partition,
            believed=timedelta(minutes=site.failure_minutes),
            avoid=lambda: unfit(known_capability(self._site, self._nodes), partition),
        )

    def _installer(self, scheduler: Scheduler) -> Installer:
        common = self._common
        return Installer(
            InstallationStore(self._database, self.name),
            self._reach.files,
            scheduler,
            self.templates,
            self._install_rules,
            read=lambda place: read_small(place, common.stores, common.remote, limit=BYTES_LIMIT),
            clock=now,
        )

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
        verbs = self._verbs(
            scheduler, Actor(status.id, self._clock, standing.check, standing.seconds_left)
        )
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
        keeper = self._keeper(scheduler, actor)
        return Verbs(
            dispatcher=self._dispatcher(scheduler, keeper, actor),
            observer=Observer(
                self.processes,
                scheduler,
                self._patience(),
                actor,
                taken_by=lambda process_id: self.contexts.of(process_id).taken_by(),
            ),
            recoverer=Recoverer(self.processes, scheduler, rules, self._patience(), actor),
            collector=self._collector(logs, keeper, actor),
            keeper=keeper,
            reviewer=self._reviewer(actor),
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

    def _keeper(self, scheduler: Scheduler, actor: Actor) -> Keeper:
        kept = self._common.settings.retention
        own, keys = self._common.key().public, KeyStore(self._database)
        return Keeper(
            self.contexts,
            ContextLedger(self._database, self.name),
            scheduler,
            Retention(
                failed=timedelta(hours=kept.failed_hours) if kept.failed_hours else None,
                orphans=timedelta(hours=kept.orphan_hours) if kept.orphan_hours else None,
            ),
            actor,
            mark=own,
            ours=lambda: {own, *(key.public_key for key in keys.all())},
        )

    def _reviewer(self, actor: Actor) -> Reviewer:
        settings, store = self._common.settings, self._common.reviewing.store
        rules = ReviewRules(
            waiting=self._common.stores[store] if store else None,
            destinations=self._common.destinations,
            default_destination=settings.default_destination,
            retry=self._retry,
            carrying_by=partial(ThreadPoolExecutor, settings.runner.moves, "release"),
        )
        return Reviewer(self.processes, ReviewLedger(self._database), rules, actor)

    def _dispatcher(self, scheduler: Scheduler, keeper: Keeper, actor: Actor) -> Dispatcher:
        settings = self._common.settings
        in_progress = self.settings.slurm.in_progress
        rules = DispatchRules(
            contexts=self.contexts,
            keeper=keeper,
            origins=self._common.origins,
            destinations=self._common.destinations,
            staging=Bounds(settings.limits.input_mib * _MIB, files=1_000_000),
            batch=settings.runner.batch,
            retry=self._retry,
            signature_required=settings.image_trust.required,
            in_progress=Limits(in_progress.cluster, in_progress.account, in_progress.partition),
            delivery=self._delivery,
            staging_by=partial(ThreadPoolExecutor, settings.runner.moves, "stage"),
            installer=self._installer(scheduler),
            approved=Approved(settings.code.approved) if settings.code.approved else None,
        )
        images = ImageStore(self._database)
        helpers = self._common.helpers
        return Dispatcher(self.processes, images, helpers, scheduler, self._renderer, rules, actor)

    def _collector(self, logs: LogKeeper, keeper: Keeper, actor: Actor) -> Collector:
        settings = self._common.settings
        rules = CollectRules(
            contexts=self.contexts,
            keeper=keeper,
            destinations=self._common.destinations,
            default_destination=settings.default_destination,
            output=Bounds(settings.limits.output_mib * _MIB, settings.limits.output_files),
            batch=settings.runner.batch,
            retry=self._retry,
            reviewing=self._common.reviewing,
            kept_back=lambda spec: kept_back(settings.outputs.patterns(spec.account)),
            carrying_by=partial(ThreadPoolExecutor, settings.runner.moves, "carry"),
        )
        network = self.settings.slurm.private_network
        traces = TraceReader(self._common.trace_rules(), ReadingProcess, network=network)
        key = self._common.key()
        return Collector(self.processes, logs, rules, key=key, traces=traces, actor=actor)
