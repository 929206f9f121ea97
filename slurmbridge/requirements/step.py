"""The job that installs requirements: its argv and the values of its template. Pure."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import urlsplit

from slurmbridge import __version__
from slurmbridge.container.apptainer import CLOSED, DEFAULT_PATH, ROOT_FOLDER, Bind
from slurmbridge.model import Image
from slurmbridge.requirements.text import Requirements
from slurmbridge.script import Directive, RequirementsContext

# Where a Process finds what was installed.
TARGET = "/requirements"
_MIB = 1024 * 1024
# Beside what is installed, for pip itself.
_PIP_MIB = 1024
# In memory, with a size: what is downloaded, unpacked and installed.
WORK = "/work"
_LINES = "/requirements.txt"
# The node's own are the last two: names must be found.
_ETC = ("passwd", "group", "hostname", "hosts", "resolv.conf")
_WHEELHOUSE = "/wheelhouse"
_CERTIFICATES = "/certificates.pem"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# What keeps pip from the node's network. All else closes this container, too.
_OFFLINE = frozenset({"--net", "--network=none"})


@dataclass(frozen=True, slots=True)
class Index:
    """An index that the site allows. `certificates` is a file of CA certificates on the nodes."""

    name: str
    url: str
    certificates: str | None = None
    proxy: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        for url in filter(None, (self.url, self.proxy)):
            parts = urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError(f"{url!r} is no address of an index or proxy")
            if parts.username is not None or parts.password is not None:
                raise ValueError(f"the index {self.name} must need no credentials")
            if not url.isascii() or not url.isprintable() or " " in url:
                raise ValueError(f"{url!r} holds a character that no address can have")


@dataclass(frozen=True, slots=True)
class Wheelhouse:
    """A folder of wheels that every node sees."""

    name: str
    folder: str

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What the installation may take. Size and number of files count downloads, too."""

    size_mib: int = 4096
    files: int = 200_000
    minutes: int = 30
    cpus: int = 2


def job_name(key: str, attempt: int) -> str:
    """The name of an attempt's job, by which it is found again after a crash."""
    return f"sb-requirements-{key}-{attempt}"


@dataclass(frozen=True, slots=True)
class Step:
    """One installation. `folder` is its own and is named by the key; attempts begin at 1."""

    folder: str
    key: str
    attempt: int
    requirements: Requirements
    image: Image
    source: Index | Wheelhouse
    limits: StepLimits = StepLimits()
    sources_built: bool = False
    account: str | None = None
    partition: str | None = None
    exclude: tuple[str, ...] = ()

    @property
    def job_name(self) -> str:
        """See `job_name`."""
        return job_name(self.key, self.attempt)

    def context(self, template_digest: str) -> RequirementsContext:
        """The values of the template."""
        limits, container = self.limits, self._container()
        text = self.requirements.text.encode()
        return RequirementsContext(
            version=Directive(__version__),
            template_digest=Directive(template_digest),
            job_name=Directive(self.job_name),
            account=Directive(self.account) if self.account else None,
            partition=Directive(self.partition) if self.partition else None,
            exclude=Directive(",".join(self.exclude)) if self.exclude else None,
            cpus_per_task=Directive(str(limits.cpus)),
            memory=Directive(f"{limits.size_mib + _PIP_MIB}M"),
            # Slurm's limit comes second: the script has something to say of its own.
            time_limit=Directive(str(limits.minutes + 5)),
            working_directory=Directive(self.folder),
            job_log=Directive(f"{self.folder}/job.{self.attempt}.log"),
            attempt=Directive(str(self.attempt)),
            requirements_folder=self.folder,
            lines_sha256=Directive(hashlib.sha256(text).hexdigest()),
            image_path=self.image.path,
            image_sha256=Directive(self.image.sha256),
            image_offset=Directive(str(self.image.squashfs_offset)),
            work_bytes=Directive(str(limits.size_mib * _MIB)),
            work_files=Directive(str(limits.files)),
            pip_seconds=Directive(str(limits.minutes * 60)),
            seal=(*container, *self._pip()),
            compile=(*container, *_COMPILE),
        )

    def _container(self) -> tuple[str, ...]:
        """Everything up to the command."""
        pod = f"{self.folder}/making.{self.attempt}/pod"
        binds = [
            Bind(f"{pod}/work", WORK, writable=True),
            Bind(f"{pod}/requirements.txt", _LINES),
            *(Bind(f"{pod}/etc/{name}", f"/etc/{name}") for name in _ETC),
            # Lists the keys of the service user, whatever the namespace.
            Bind("/dev/null", "/proc/keys"),
        ]
        match self.source:
            case Wheelhouse(folder=folder):
                binds.append(Bind(folder, _WHEELHOUSE))
            case Index(certificates=str(file)):
                binds.append(Bind(file, _CERTIFICATES))
            case Index():
                pass
            case _:
                assert_never(self.source)
        return (
            *(word for word in CLOSED if word not in _OFFLINE),
            f"--cwd={WORK}",
            *(f"--mount={bind.argument()}" for bind in binds),
            ROOT_FOLDER,
            # The image's own variables are for programs.
            "env",
            "-i",
            f"PATH={self.image.environment.get('PATH', DEFAULT_PATH)}",
            f"HOME={WORK}/tmp",  # noqa: S108 (the container's own)
            f"TMPDIR={WORK}/tmp",  # noqa: S108
            "LC_ALL=C.UTF-8",
            # Neither the image's configuration of pip nor a user's.
            "PIP_CONFIG_FILE=/dev/null",
        )

    def _pip(self) -> Iterator[str]:
        yield from ("python3", "-I", "-m", "pip", "install", f"--target={WORK}/requirements")
        yield from ("--no-input", "--disable-pip-version-check", "--no-cache-dir", "--no-compile")
        yield from ("--no-warn-script-location", "--no-color", "--progress-bar=off")
        # Twice: only so does it say why it takes no wheel.
        yield from ("--verbose", "--verbose", "--retries=2", "--timeout=20")
        yield f"--report={WORK}/report.json"
        if not self.sources_built:
            yield "--only-binary=:all:"
        if self.requirements.hashed:
            yield "--require-hashes"
        match self.source:
            case Wheelhouse():
                yield from ("--no-index", f"--find-links={_WHEELHOUSE}")
            case Index(url=url, certificates=certificates, proxy=proxy):
                yield f"--index-url={url}"
                parts = urlsplit(url)
                if parts.scheme == "http":
                    yield f"--trusted-host={parts.netloc}"
                if certificates is not None:
                    yield f"--cert={_CERTIFICATES}"
                if proxy is not None:
                    yield f"--proxy={proxy}"
            case _:
                assert_never(self.source)
        yield f"--requirement={_LINES}"


# By the sources' hash: times are no part of the image, and nobody can write to it.
_COMPILE = (
    "python3", "-I", "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash",
    "-s", f"{WORK}/requirements", "-p", TARGET, f"{WORK}/requirements",
)  # fmt: skip


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name an index or wheelhouse")
