"""The composition root: from Settings to working objects. Nobody else sees Settings whole."""

import hashlib
import logging
import os
import pwd
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property

from slurmbridge.bridge.checks import Rules, check, untrusted
from slurmbridge.bridge.collect import Collector, CollectRules
from slurmbridge.bridge.crates import CratePacker
from slurmbridge.bridge.desk import Desk, new_ulid
from slurmbridge.bridge.dispatch import Dispatcher, DispatchRules
from slurmbridge.bridge.examine import (
    Avoidance,
    Examiner,
    ExaminerRules,
    known_capability,
)
from slurmbridge.bridge.logs import LogKeeper
from slurmbridge.bridge.observe import Observer, Patience
from slurmbridge.bridge.reading import ReadingProcess, TraceReader
from slurmbridge.bridge.recover import Recoverer, RecoverRules
from slurmbridge.bridge.render import Renderer
from slurmbridge.bridge.standing import Actor, Standing, beats_of
from slurmbridge.clock import Absences, Clock
from slurmbridge.container.helpers import HelperBuilder, source_sha256
from slurmbridge.container.images import DEFAULT_DEFINITIONS, ImageBuilder
from slurmbridge.container.sif import SifReader
from slurmbridge.container.signing import SigningKey, key_problem, load_key
from slurmbridge.container.trust import ImageKeeper, SignatureRule
from slurmbridge.context.folder import Contexts
from slurmbridge.context.results import Results
from slurmbridge.context.tree import Bounds
from slurmbridge.errors import ConfigurationError, HelpersMissing, SlurmBridgeError
from slurmbridge.model import ComputeCapability, Helpers, Image, ProcessSpec
from slurmbridge.rules import parse_rules
from slurmbridge.runner import Cadence, Runner, Verbs
from slurmbridge.scheduler import Scheduler
from slurmbridge.scheduler.commands import CommandScheduler, job_usage
from slurmbridge.scheduler.native import NativeScheduler, native_is_usable
from slurmbridge.script import DEFAULT_TEMPLATES, Templates
from slurmbridge.settings import Settings, Transport
from slurmbridge.shell import LocalFiles, LocalShell
from slurmbridge.store import (
    Database,
    HelperStore,
    ImageStore,
    KeyStore,
    Limits,
    LogStore,
    NodeStore,
    ProcessStore,
    Roster,
    RunnerStatus,
    SiteStore,
    TokenStore,
)
from slurmbridge.trace.judge import SiteRules, default_rules

log = logging.getLogger(__name__)
_MIB = 1024 * 1024
PREVIEW_ID = "0" * 26


def _now() -> datetime:
    return datetime.now(UTC)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


class Site:
    """One configured installation."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.database)
        self._stores = {name: store.folder for name, store in settings.stores.items()}

    @cached_property
    def _templates(self) -> Templates:
        return Templates(self._settings.templates or DEFAULT_TEMPLATES)

    @cached_property
    def _renderer(self) -> Renderer:
        limits = self._settings.limits
        return Renderer(
            self._templates,
            self._settings.contexts,
            log_limit=limits.log_file_mib * _MIB,
            output_limit=limits.output_mib * _MIB,
            trace_limit=limits.trace_mib * _MIB,
            avoid=Avoidance(SiteStore(self._database), NodeStore(self._database), clock=_now),
        )

    @cached_property
    def _contexts(self) -> Contexts:
        return Contexts(LocalFiles(), self._settings.contexts)

    @cached_property
    def _key(self) -> SigningKey:
        return load_key(self._settings.signing_key)

    @cached_property
    def _rules(self) -> Rules:
        stores = self._settings.stores
        return Rules(
            readable_stores=frozenset(name for name, store in stores.items() if store.read),
            writable_stores=frozenset(name for name, store in stores.items() if store.write),
            has_default_destination=self._settings.default_destination is not None,
            signature_required=self._settings.image_trust.required,
            trace_mib=self._settings.limits.trace_mib,
            trace_minimum=self._settings.trace_minimum,
        )

    @cached_property
    def _trace_rules(self) -> SiteRules:
        path = self._settings.trace_rules
        if path is None:
            return default_rules()
        try:
            text = path.read_bytes()
            return SiteRules(parse_rules(text), hashlib.sha256(text).hexdigest())
        except OSError as error:
            raise ConfigurationError(f"trace_rules: {path}: {error.strerror}") from error
        except ConfigurationError as error:
            raise ConfigurationError(f"trace_rules: {path}: {error}") from error

    def desk(self) -> Desk:
        """What the API serves."""
        results = Results(self._stores)
        return Desk(
            self._database, self._rules, self._helpers, results, clock=_now, new_id=new_ulid
        )

    def migrate(self) -> None:
        """Bring the database's schema up to date."""
        self._database.migrate()

    def render(self, spec: ProcessSpec) -> str:
        """Exactly the script that would be submitted, with an id of zeros.

        Raises:
            InvalidProcess: it would not be accepted.
        """
        self._database.check_schema()
        images = ImageStore(self._database)
        capability = known_capability(SiteStore(self._database), NodeStore(self._database))
        check(spec, self._rules, images=images.latest(), capability=capability)
        image = images.get(spec.image)
        helpers = self.build_helpers()
        return self._renderer.render(PREVIEW_ID, spec, image, helpers).text

    def build_helpers(self, *, force: bool = False) -> Helpers:
        """The sealing helpers of this version, built if need be.

        Raises:
            HelpersMissing
        """
        builder = self._helper_builder()
        return builder.build() if force else builder.ensure()

    def _helper_builder(self) -> HelperBuilder:
        folder = self._settings.images
        return HelperBuilder(self._helpers, LocalShell(), folder=folder, clock=_now)

    @cached_property
    def _helpers(self) -> HelperStore:
        return HelperStore(self._database, source_sha256())

    def definition_names(self) -> list[str]:
        """The images that can be built."""
        return self._builder().names()

    def build_image(self, name: str, *, force: bool, on_line: Callable[[str], None]) -> Image:
        """Build an image from its definition and record it; or take the one that is recorded."""
        return self._builder().build(name, force=force, on_line=on_line)

    def _builder(self) -> ImageBuilder:
        return ImageBuilder(
            ImageStore(self._database),
            SifReader(LocalShell()),
            definitions=self._settings.definitions or DEFAULT_DEFINITIONS,
            images=self._settings.images,
            mirror=self._settings.mirror,
            key=self._settings.image_trust.key,
            clock=_now,
        )

    def images(self) -> ImageStore:
        """What is recorded of images."""
        self._database.check_schema()
        return ImageStore(self._database)

    def why_refused(self, image: Image) -> str | None:
        """Why nothing may start with this image; None when it may."""
        return untrusted(image, signature_required=self._settings.image_trust.required)

    def image_keeper(self) -> ImageKeeper:
        """Who adds, verifies and revokes images, in the name of the user who runs this."""
        trust = self._settings.image_trust
        return ImageKeeper(
            self.images(),
            SifReader(LocalShell()),
            SignatureRule(trust.key, trust.required),
            images=self._settings.images,
            user=_user(),
            clock=_now,
        )

    def token_names(self) -> list[tuple[str, datetime]]:
        """Who may use the API, and since when."""
        return TokenStore(self._database).all()

    def remove_token(self, name: str) -> bool:
        """End a token; whether there was one."""
        return TokenStore(self._database).remove(name)

    def check(self) -> list[str]:
        """What prevents work although the configuration can be read."""
        settings = self._settings
        folders = {"contexts": settings.contexts, "images": settings.images}
        folders |= {
            f"stores.{name}.folder": store.folder for name, store in settings.stores.items()
        }
        found = [
            f"{key}: {folder} is not a folder"
            for key, folder in folders.items()
            if not folder.is_dir()
        ]
        found += [
            f"{key}: {folders[key]} cannot be written to"
            for key in self._written()
            if folders[key].is_dir() and not os.access(folders[key], os.W_OK)
        ]
        key = settings.image_trust.key
        if key is not None and not os.access(key, os.R_OK):
            found.append(f"image_trust.key: {key} cannot be read")
        found += filter(None, [key_problem(settings.signing_key)])
        try:
            assert self._trace_rules
        except ConfigurationError as error:
            found.append(str(error))
        try:
            assert self._templates.digest
            assert self._templates.doctor_digest
        except SlurmBridgeError as error:
            found.append(f"templates: {error}")
        try:
            self._database.check_schema()
            found += filter(None, [self._helper_builder().problem()])
        except HelpersMissing as error:
            found.append(f"the sealing helpers: {error}")
        except SlurmBridgeError as error:
            found.append(f"database: {error}")
        return found

    def _written(self) -> list[str]:
        stores = self._settings.stores.items()
        written = [f"stores.{name}.folder" for name, store in stores if store.write]
        return ["contexts", "images", *written]

    def scheduler(self) -> Scheduler:
        """The way to Slurm that the configuration asks for.

        Raises:
            ConfigurationError: pyslurm is asked for and cannot be used.
        """
        slurm = self._settings.slurm
        shell = LocalShell()
        if slurm.transport is Transport.COMMANDS:
            return CommandScheduler(shell, timeout_seconds=slurm.timeout_seconds)
        problem = native_is_usable()
        if problem is None:
            return NativeScheduler(shell, timeout_seconds=slurm.timeout_seconds)
        if slurm.transport is Transport.PYSLURM:
            raise ConfigurationError(f"slurm.transport is pyslurm, but {problem}")
        return CommandScheduler(shell, timeout_seconds=slurm.timeout_seconds)

    def examiner(self, scheduler: Scheduler, *, look_seconds: float) -> Examiner:
        """Who examines nodes; Slurm is asked about the jobs no more often than this."""
        doctor = self._settings.doctor
        rules = ExaminerRules(
            contexts=self._contexts,
            images=self._settings.images,
            every=timedelta(hours=doctor.every_hours),
            retry=timedelta(minutes=doctor.retry_minutes),
            answer=timedelta(minutes=doctor.answer_minutes),
            look=timedelta(seconds=look_seconds),
        )
        nodes = NodeStore(self._database)
        return Examiner(nodes, scheduler, self._templates, rules, clock=_now)

    def crate_packer(self) -> CratePacker:
        """Who packs finished Processes."""
        self._database.check_schema()
        return CratePacker(
            ProcessStore(self._database),
            ImageStore(self._database),
            Results(self._stores),
            self._usage,
        )

    def _usage(self, job_id: int) -> Mapping[str, str]:
        seconds = self._settings.slurm.timeout_seconds
        return job_usage(LocalShell(), job_id, timeout_seconds=seconds)

    def known_capability(self, fresh: ComputeCapability | None = None) -> ComputeCapability | None:
        """What was last reported of the cluster, or just now, with what is known of its nodes."""
        self._database.check_schema()
        site, nodes = SiteStore(self._database), NodeStore(self._database)
        if fresh is not None:
            site.record_capability(fresh)
        return known_capability(site, nodes)

    def runner(self, scheduler: Scheduler) -> Runner:
        """A Runner with an id of its own."""
        settings = self._settings
        status = RunnerStatus(
            id=f"{socket.gethostname()}-{os.getpid()}-{new_ulid()[-6:]}",
            host=socket.gethostname(),
            transport=scheduler.name,
            heartbeat_at=_now(),
            scheduler_error=None,
        )
        beats = beats_of(settings.runner.lease_seconds)
        cadence = Cadence(
            settings.runner.idle_seconds,
            settings.slurm.poll_seconds,
            settings.slurm.capability_seconds,
            beats.every_seconds,
        )
        clock = Clock()
        standing = Standing(Roster(self._database), status, beats, clock)
        verbs = self._verbs(scheduler, Actor(status.id, clock, standing.check))
        site, processes = SiteStore(self._database), ProcessStore(self._database)
        return Runner(verbs, scheduler, site, processes, standing, cadence, clock=clock)

    def run_runner(self, stop: Callable[[], bool]) -> None:
        """Work as a Runner until told to stop.

        Without sealing helpers it works, too: what is submitted waits, and says for what.
        """
        KeyStore(self._database).register(self._key.public, now=_now())
        try:
            self.build_helpers()
        except HelpersMissing as error:
            log.warning("%s", error)
        # One that was taken for dead, as after a long pause, makes room for a new one.
        while not stop():
            self.runner(self.scheduler()).run(stop)

    def _verbs(self, scheduler: Scheduler, actor: Actor) -> Verbs:
        settings = self._settings
        processes = ProcessStore(self._database)
        limit = settings.limits.log_kib * 1024
        logs = LogKeeper(LogStore(self._database), self._contexts, limit_bytes=limit)
        rules = RecoverRules(self._contexts, timedelta(seconds=settings.runner.retry_seconds))
        return Verbs(
            dispatcher=self._dispatcher(processes, scheduler, actor),
            observer=Observer(
                processes, scheduler, self._patience(actor), actor, taken_by=self._taken_by
            ),
            recoverer=Recoverer(processes, scheduler, rules, self._patience(actor), actor),
            collector=self._collector(processes, logs, actor),
            logs=logs,
            examiner=(
                self.examiner(scheduler, look_seconds=10)
                if self._settings.doctor.every_hours
                else None
            ),
        )

    def _taken_by(self, process_id: str) -> int | None:
        return self._contexts.of(process_id).taken_by()

    def _patience(self, actor: Actor) -> Patience:
        slurm = self._settings.slurm
        often = slurm.poll_seconds + self._settings.runner.retry_seconds
        absences = Absences(actor.clock.monotonic, most=timedelta(seconds=2 * often))
        return Patience(self._absence, absences)

    def _absence(self) -> timedelta:
        """Longer than a submission can be on its way: its sender gives up, and then Slurm does."""
        slurm = self._settings.slurm
        capability = SiteStore(self._database).capability()
        message_timeout = capability.message_timeout_seconds if capability else None
        on_its_way = slurm.timeout_seconds + 2 * (message_timeout or 0)
        return timedelta(seconds=max(slurm.absence_seconds, on_its_way))

    def _dispatcher(
        self, processes: ProcessStore, scheduler: Scheduler, actor: Actor
    ) -> Dispatcher:
        settings = self._settings
        in_progress = settings.slurm.in_progress
        rules = DispatchRules(
            contexts=self._contexts,
            stores=self._stores,
            staging=Bounds(settings.limits.input_mib * _MIB, files=1_000_000),
            batch=settings.runner.batch,
            retry=timedelta(seconds=settings.runner.retry_seconds),
            signature_required=settings.image_trust.required,
            in_progress=Limits(in_progress.cluster, in_progress.account, in_progress.partition),
        )
        images = ImageStore(self._database)
        return Dispatcher(processes, images, self._helpers, scheduler, self._renderer, rules, actor)

    def _collector(self, processes: ProcessStore, logs: LogKeeper, actor: Actor) -> Collector:
        settings = self._settings
        rules = CollectRules(
            contexts=self._contexts,
            stores=self._stores,
            default_destination=settings.default_destination,
            output=Bounds(settings.limits.output_mib * _MIB, settings.limits.output_files),
            batch=settings.runner.batch,
            retry=timedelta(seconds=settings.runner.retry_seconds),
        )
        traces = TraceReader(self._trace_rules, ReadingProcess)
        return Collector(processes, logs, rules, key=self._key, traces=traces, actor=actor)
