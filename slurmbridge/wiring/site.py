"""One configured installation: what its parts need, and what is done on its own host."""

import hashlib
import logging
import os
import pwd
import shutil
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from pathlib import Path

from slurmbridge.bridge.checks import Clusters, Rules, check, untrusted
from slurmbridge.bridge.crates import CratePacker
from slurmbridge.bridge.desk import Desk, new_ulid
from slurmbridge.container.helpers import HelperBuilder, source_sha256
from slurmbridge.container.images import DEFAULT_DEFINITIONS, ImageBuilder, Packages
from slurmbridge.container.sif import SifReader
from slurmbridge.container.signing import SigningKey, key_problem, load_key
from slurmbridge.container.trust import ImageKeeper, SignatureRule
from slurmbridge.errors import (
    ConfigurationError,
    HelpersMissing,
    RequestError,
    SlurmBridgeError,
)
from slurmbridge.model import Helpers, Image
from slurmbridge.rules import parse_rules
from slurmbridge.scheduler.manners import PoliteScheduler
from slurmbridge.settings import Settings
from slurmbridge.shell import LocalShell
from slurmbridge.spec import ProcessSpec
from slurmbridge.store import (
    Database,
    HelperStore,
    ImageStore,
    KeyStore,
    ProcessStore,
    TokenStore,
)
from slurmbridge.trace.judge import SiteRules, default_rules
from slurmbridge.wiring.cluster import ClusterSite, Common, now

log = logging.getLogger(__name__)
PREVIEW_ID = "0" * 26
# Before a Runner begins anew that could not begin, as where the database is away.
_AGAIN_SECONDS = 2.0


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
        self._stores = settings.store_folders
        self._clusters: dict[str, ClusterSite] = {}

    @cached_property
    def _common(self) -> Common:
        return Common(
            self._settings,
            self._database,
            self._helpers,
            lambda: self._key,
            lambda: self._trace_rules,
        )

    def cluster(self, name: str | None = None) -> ClusterSite:
        """What is done for one cluster; for the usual one when none is named.

        Raises:
            RequestError: there is none of this name, or none is usual.
        """
        known = self._settings.by_cluster
        chosen = name or self._settings.usual_cluster
        if chosen is None or chosen not in known:
            there = ", ".join(known)
            what = f"there is no cluster {chosen!r}" if chosen else "name a cluster"
            raise RequestError(f"{what} (there are: {there})")
        if chosen not in self._clusters:
            self._clusters[chosen] = ClusterSite(chosen, known[chosen], self._common)
        return self._clusters[chosen]

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
            output_mib=self._settings.limits.output_mib,
            output_files=self._settings.limits.output_files,
            trace_minimum=self._settings.trace_minimum,
            requirement_sources=frozenset(self._settings.requirements.sources),
            has_default_source=self._settings.requirements.usual_source is not None,
            reviewing=self._common.reviewing,
            mirrors=frozenset(self._settings.mirrors),
            approved_only=self._settings.code.approved is not None,
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

    @property
    def _chooser(self) -> Clusters:
        clusters = self._settings.by_cluster
        accounts = {
            name: frozenset(cluster.accounts)
            for name, cluster in clusters.items()
            if cluster.accounts is not None
        }
        networked = frozenset(name for name, one in clusters.items() if one.slurm.private_network)
        return Clusters(tuple(clusters), self._settings.usual_cluster, accounts, networked)

    def desk(self) -> Desk:
        """What the API serves."""
        return Desk(
            self._database,
            self._rules,
            self._helpers,
            self._common.results,
            clusters=self._chooser,
            clock=now,
            new_id=new_ulid,
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
        clusters = self._chooser
        cluster = self.cluster(clusters.chosen(spec.cluster, spec.account))
        check(
            spec,
            self._rules,
            images=images.latest(),
            capability=cluster.known_capability(),
            networked=cluster.name in clusters.networked,
        )
        return cluster.render(PREVIEW_ID, spec, images.get(spec.image), self.build_helpers())

    def build_helpers(self, *, force: bool = False) -> Helpers:
        """The sealing helpers of this version, built if need be.

        Raises:
            HelpersMissing
        """
        builder = self._helper_builder()
        return builder.build() if force else builder.ensure()

    def _helper_builder(self) -> HelperBuilder:
        folder = self._settings.images
        return HelperBuilder(self._helpers, LocalShell(), folder=folder, clock=now)

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
            packages=Packages(self._settings.mirror, self._settings.index),
            key=self._settings.image_trust.key,
            clock=now,
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
            clock=now,
        )

    def token_names(self) -> list[tuple[str, datetime, bool]]:
        """Who may use the API, since when, and whether to review."""
        return TokenStore(self._database).all()

    def remove_token(self, name: str) -> bool:
        """End a token; whether there was one."""
        return TokenStore(self._database).remove(name)

    def check(self) -> list[str]:
        """What prevents work although the configuration can be read."""
        settings = self._settings
        folders = self._folders()
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
        if settings.mirrors and not shutil.which("git"):
            found.append("mirrors: git is missing on this host")
        found += filter(None, [key_problem(settings.signing_key)])
        try:
            assert self._trace_rules
        except ConfigurationError as error:
            found.append(str(error))
        for name in settings.by_cluster:
            try:
                assert self.cluster(name).templates.digest
                assert self.cluster(name).templates.doctor_digest
                if settings.requirements.sources:
                    assert self.cluster(name).templates.requirements_digest
            except SlurmBridgeError as error:
                found.append(f"{self._prefix(name)}templates: {error}")
        try:
            self._database.check_schema()
            found += filter(None, [self._helper_builder().problem()])
        except HelpersMissing as error:
            found.append(f"the sealing helpers: {error}")
        except SlurmBridgeError as error:
            found.append(f"database: {error}")
        return found

    def _prefix(self, cluster: str) -> str:
        return f"clusters.{cluster}." if self._settings.clusters else ""

    def _folders(self) -> dict[str, Path]:
        """The folders of this host, by their keys."""
        folders = {"images": self._settings.images}
        for name, cluster in self._settings.by_cluster.items():
            if cluster.remote_files:
                folders["spool"] = self._settings.spool
            else:
                folders[f"{self._prefix(name)}contexts"] = cluster.contexts
        stores = self._settings.store_folders.items()
        return folders | {f"stores.{name}.folder": folder for name, folder in stores}

    def _written(self) -> list[str]:
        stores, waiting = self._settings.stores, self._settings.review.store
        read = [name for name in stores if not stores[name].write and name != waiting]
        unwritten = {f"stores.{name}.folder" for name in read}
        return [key for key in self._folders() if key not in unwritten]

    def crate_packer(self) -> CratePacker:
        """Who packs finished Processes."""
        self._database.check_schema()
        return CratePacker(
            ProcessStore(self._database),
            ImageStore(self._database),
            self._common.results,
            lambda cluster, job_id: self.cluster(cluster).usage(job_id),
        )

    def run_runner(self, stop: Callable[[], bool]) -> None:
        """Work as a Runner for each cluster until told to stop.

        Without sealing helpers it works, too: what is submitted waits, and says for what.
        """
        KeyStore(self._database).register(self._key.public, now=now())
        try:
            self.build_helpers()
        except HelpersMissing as error:
            log.warning("%s", error)
        clusters = [self.cluster(name) for name in self._settings.by_cluster]
        # What the configuration asks for and cannot be had ends it here, and not in a thread.
        ways = [cluster.scheduler() for cluster in clusters]
        first, *others = zip(clusters, ways, strict=True)
        threads = [threading.Thread(target=_run, args=(*other, stop)) for other in others]
        for thread in threads:
            thread.start()
        try:
            _run(*first, stop)
        finally:
            for thread in threads:
                thread.join()
            self._common.close()


def _run(cluster: ClusterSite, scheduler: PoliteScheduler, stop: Callable[[], bool]) -> None:
    """A Runner, and another whenever one was taken for dead, as after a long pause."""
    try:
        while not stop():
            try:
                cluster.runner(scheduler).run(stop)
            except SlurmBridgeError as error:
                log.warning("the Runner for %s ended: %s", cluster.name, error)
                time.sleep(_AGAIN_SECONDS)
    finally:
        cluster.close()
