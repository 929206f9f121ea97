"""The composition root: from Settings to working objects. Nobody else sees Settings whole."""

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property

from slurmbridge.bridge.checks import Rules, check
from slurmbridge.bridge.collect import Collector, CollectRules
from slurmbridge.bridge.desk import Desk, new_ulid
from slurmbridge.bridge.dispatch import Dispatcher, DispatchRules
from slurmbridge.bridge.logs import LogKeeper
from slurmbridge.bridge.observe import Observer
from slurmbridge.bridge.recover import Recoverer, RecoverRules
from slurmbridge.bridge.render import Renderer
from slurmbridge.container.images import DEFAULT_DEFINITIONS, ImageBuilder
from slurmbridge.context.tree import Bounds
from slurmbridge.errors import ConfigurationError, SlurmBridgeError
from slurmbridge.model import Image, ProcessSpec
from slurmbridge.runner import Cadence, Runner, Verbs
from slurmbridge.scheduler import Scheduler
from slurmbridge.scheduler.commands import CommandScheduler
from slurmbridge.scheduler.native import NativeScheduler, native_is_usable
from slurmbridge.script import DEFAULT_TEMPLATES, Templates
from slurmbridge.settings import Settings, Transport
from slurmbridge.shell import LocalShell
from slurmbridge.store import (
    Database,
    ImageStore,
    ProcessStore,
    RunnerStatus,
    SiteStore,
    TokenStore,
)

_MIB = 1024 * 1024
PREVIEW_ID = "0" * 26


def _now() -> datetime:
    return datetime.now(UTC)


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
        limit = self._settings.limits.log_file_mib * _MIB
        return Renderer(self._templates, self._settings.contexts, limit)

    @cached_property
    def _rules(self) -> Rules:
        stores = self._settings.stores
        return Rules(
            readable_stores=frozenset(name for name, store in stores.items() if store.read),
            writable_stores=frozenset(name for name, store in stores.items() if store.write),
            has_default_destination=self._settings.default_destination is not None,
        )

    def desk(self) -> Desk:
        """What the API serves."""
        return Desk(self._database, self._rules, clock=_now, new_id=new_ulid)

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
        known = {image.name for image in images.all()}
        check(spec, self._rules, images=known, capability=SiteStore(self._database).capability())
        image = images.get(spec.image)
        return self._renderer.render(PREVIEW_ID, spec, image).text

    def definition_names(self) -> list[str]:
        """The images that can be built."""
        return self._builder().names()

    def build_image(self, name: str, *, force: bool, on_line: Callable[[str], None]) -> Image:
        """Build an image from its definition and record it; or take the one that is recorded."""
        return self._builder().build(name, force=force, on_line=on_line)

    def _builder(self) -> ImageBuilder:
        return ImageBuilder(
            ImageStore(self._database),
            definitions=self._settings.definitions or DEFAULT_DEFINITIONS,
            images=self._settings.images,
            mirror=self._settings.mirror,
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
        try:
            assert self._templates.digest
        except SlurmBridgeError as error:
            found.append(f"templates: {error}")
        try:
            self._database.check_schema()
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
        cadence = Cadence(
            settings.runner.idle_seconds,
            settings.slurm.poll_seconds,
            settings.slurm.capability_seconds,
            timedelta(seconds=settings.runner.lease_seconds),
        )
        verbs = self._verbs(scheduler, status.id)
        site, processes = SiteStore(self._database), ProcessStore(self._database)
        return Runner(verbs, scheduler, site, processes, status, cadence)

    def run_runner(self, stop: Callable[[], bool]) -> None:
        """Work as a Runner until told to stop."""
        self.runner(self.scheduler()).run(stop)

    def _verbs(self, scheduler: Scheduler, runner: str) -> Verbs:
        settings = self._settings
        processes = ProcessStore(self._database)
        absence = timedelta(seconds=settings.slurm.absence_seconds)
        lease = timedelta(seconds=settings.runner.lease_seconds)
        retry = timedelta(seconds=settings.runner.retry_seconds)
        logs = LogKeeper(processes, settings.contexts, limit_bytes=settings.limits.log_kib * 1024)
        rules = RecoverRules(runner, settings.contexts, absence, lease, retry)
        recoverer = Recoverer(processes, scheduler, rules, clock=_now)
        return Verbs(
            dispatcher=self._dispatcher(processes, scheduler, runner),
            observer=Observer(processes, scheduler, absence=absence, clock=_now),
            recoverer=recoverer,
            collector=self._collector(processes, logs, runner),
            logs=logs,
        )

    def _dispatcher(self, processes: ProcessStore, scheduler: Scheduler, runner: str) -> Dispatcher:
        settings = self._settings
        rules = DispatchRules(
            runner=runner,
            contexts=settings.contexts,
            stores=self._stores,
            staging=Bounds(settings.limits.input_mib * _MIB, files=1_000_000),
            batch=settings.runner.batch,
            lease=timedelta(seconds=settings.runner.lease_seconds),
            retry=timedelta(seconds=settings.runner.retry_seconds),
        )
        images = ImageStore(self._database)
        return Dispatcher(processes, images, scheduler, self._renderer, rules, clock=_now)

    def _collector(self, processes: ProcessStore, logs: LogKeeper, runner: str) -> Collector:
        settings = self._settings
        rules = CollectRules(
            runner=runner,
            contexts=settings.contexts,
            stores=self._stores,
            default_destination=settings.default_destination,
            output=Bounds(settings.limits.output_mib * _MIB, settings.limits.output_files),
            batch=settings.runner.batch,
            lease=timedelta(seconds=settings.runner.lease_seconds),
            retry=timedelta(seconds=settings.runner.retry_seconds),
        )
        return Collector(processes, logs, rules, clock=_now)
