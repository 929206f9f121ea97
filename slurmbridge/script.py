"""From a ScriptContext to the sbatch script. The only home of Jinja2."""

import hashlib
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jinja2

from slurmbridge.errors import ConfigurationError

ENTRY = "process.sbatch.j2"
DOCTOR = "doctor.sbatch.j2"
REQUIREMENTS = "requirements.sbatch.j2"
# They make no Process's script. parts/requirements_mount.j2 does.
_OTHERS = frozenset(
    {
        DOCTOR,
        REQUIREMENTS,
        "parts/requirements_claim.j2",
        "parts/requirements_pod.j2",
        "parts/requirements_run.j2",
    }
)
# All that make the script of an installation.
_OF_REQUIREMENTS = (*sorted(_OTHERS - {DOCTOR}), "parts/image.j2")
_PACKAGE = Path(__file__).parent
# A wheel carries the templates inside the package; a checkout has them beside it.
DEFAULT_TEMPLATES = next(
    (path for path in (_PACKAGE / "sbatch_templates",) if path.is_dir()),
    _PACKAGE.parent / "sbatch_templates",
)


class Directive(str):
    """Text that may stand on an #SBATCH line or in a comment, and is not quoted.

    Quoting protects nothing there: a newline ends the comment, and the rest would run. So only
    characters that mean nothing to the shell are taken.
    """

    __slots__ = ()
    PATTERN = re.compile(r"[A-Za-z0-9._:/@%,=+-]+")

    def __new__(cls, text: str) -> "Directive":
        if not cls.PATTERN.fullmatch(text):
            raise ValueError(f"{text!r} cannot stand on an #SBATCH line")
        return super().__new__(cls, text)


@dataclass(frozen=True, slots=True)
class ScriptContext:
    """Every variable of the templates. Optional ones may be tested with `if`, nothing more."""

    version: Directive
    process_id: Directive
    template_digest: Directive
    job_name: Directive
    account: Directive | None
    partition: Directive | None
    exclude: Directive | None
    nodes: Directive
    tasks: Directive
    tasks_per_node: Directive
    cpus_per_task: Directive
    memory: Directive
    gres: Directive | None
    time_limit: Directive
    warn_signal: Directive | None
    warn_seconds: Directive | None
    working_directory: Directive
    job_log: Directive
    context: str
    image_path: str
    image_sha256: Directive
    image_offset: Directive
    tmp_bytes: Directive
    shm_bytes: Directive
    helper_folder: str
    sbseal_sha256: Directive
    sbprobe_sha256: Directive
    log_limit: Directive
    output_in_memory: bool
    output_bytes: Directive
    output_inodes: Directive
    code_sha256: Directive | None
    seal: tuple[str, ...]
    traced: bool
    trace_filtered: bool
    trace_calls: str
    trace_string_limit: Directive
    trace_limit: Directive
    trace_stops: bool
    requirements_path: str
    requirements_sha256: Directive | None
    # Whether the program runs in pods, one on each node; whether they have a network; whether MPI
    # starts it; and whether it has workers in all pods, and of which framework.
    pods: bool
    networked: bool
    mpi: bool
    bind: bool
    workers: bool
    spark: bool
    dask: bool
    ray: bool
    program_mib: Directive
    workers_mib: Directive
    cpus_per_node: Directive


@dataclass(frozen=True, slots=True)
class DoctorContext:
    """Every variable of the template that examines a node."""

    version: Directive
    template_digest: Directive
    job_name: Directive
    partition: Directive
    node: Directive
    working_directory: Directive
    job_log: Directive
    images: str
    report: str
    seal: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RequirementsContext:
    """Every variable of the template that installs requirements."""

    version: Directive
    template_digest: Directive
    job_name: Directive
    account: Directive | None
    partition: Directive | None
    exclude: Directive | None
    cpus_per_task: Directive
    memory: Directive
    time_limit: Directive
    working_directory: Directive
    job_log: Directive
    attempt: Directive
    requirements_folder: str
    lines_sha256: Directive
    image_path: str
    image_sha256: Directive
    image_offset: Directive
    work_bytes: Directive
    work_files: Directive
    pip_seconds: Directive
    seal: tuple[str, ...]
    compile: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """What is submitted, and its SHA-256."""

    text: str
    sha256: str


class Templates:
    """A folder of templates, read once."""

    def __init__(self, folder: Path) -> None:
        if not (folder / ENTRY).is_file():
            raise ConfigurationError(f"the templates folder {folder} holds no {ENTRY}")
        self.folder = folder
        self.digest = digest(folder)
        try:
            self._entry = _environment(folder).get_template(ENTRY)
        except jinja2.TemplateError as error:
            raise ConfigurationError(f"the templates in {folder} are broken: {error}") from error

    def render(self, context: ScriptContext) -> Script:
        """The script that these values make."""
        values = {field.name: getattr(context, field.name) for field in _FIELDS}
        try:
            text = self._entry.render(values)
        except (jinja2.TemplateError, TypeError) as error:
            raise ConfigurationError(f"the templates in {self.folder} fail: {error}") from error
        return Script(text, hashlib.sha256(text.encode()).hexdigest())

    @property
    def doctor_digest(self) -> str:
        """The SHA-256 of the template that examines a node."""
        try:
            return hashlib.sha256((self.folder / DOCTOR).read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigurationError(
                f"the templates folder {self.folder} holds no {DOCTOR} that can be read"
            ) from error

    def render_doctor(self, context: DoctorContext) -> Script:
        """The script that examines a node."""
        values = {field.name: getattr(context, field.name) for field in fields(DoctorContext)}
        try:
            text = _environment(self.folder).get_template(DOCTOR).render(values)
        except (jinja2.TemplateError, TypeError) as error:
            raise ConfigurationError(f"{self.folder / DOCTOR} fails: {error}") from error
        return Script(text, hashlib.sha256(text.encode()).hexdigest())

    @property
    def requirements_digest(self) -> str:
        """One SHA-256 over the templates that install requirements."""
        try:
            return _digest(self.folder, _OF_REQUIREMENTS)
        except OSError as error:
            raise ConfigurationError(
                f"the templates folder {self.folder} cannot install requirements: {error.filename}"
            ) from error

    def render_requirements(self, context: RequirementsContext) -> Script:
        """The script that installs requirements."""
        values = {field.name: getattr(context, field.name) for field in fields(RequirementsContext)}
        try:
            text = _environment(self.folder).get_template(REQUIREMENTS).render(values)
        except (jinja2.TemplateError, TypeError) as error:
            raise ConfigurationError(f"{self.folder / REQUIREMENTS} fails: {error}") from error
        return Script(text, hashlib.sha256(text.encode()).hexdigest())


_FIELDS = fields(ScriptContext)


def digest(folder: Path) -> str:
    """One SHA-256 over the names and contents of all templates that make a Process's script."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.j2")))
    return _digest(folder, (name for name in names if name not in _OTHERS))


def _digest(folder: Path, names: Iterable[str]) -> str:
    whole = hashlib.sha256()
    for name in names:
        content = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        whole.update(f"{content}  {name}\n".encode())
    return whole.hexdigest()


def quote(value: Any) -> str:
    """How a variable appears in a script: quoted for the shell, unless it is a Directive."""
    if isinstance(value, Directive):
        return str(value)
    if isinstance(value, str):
        return shlex.quote(value)
    if isinstance(value, jinja2.Undefined):
        return str(value)  # StrictUndefined raises here, and names the variable.
    raise TypeError(f"a template variable of type {type(value).__name__} cannot be written")


def _environment(folder: Path) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        finalize=quote,
        autoescape=False,  # noqa: S701 (HTML's escapes would corrupt a script; finalize quotes)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )


def words(values: Iterable[str]) -> bytes:
    """A list as the script reads it with `mapfile -d ''`: each item ended by NUL."""
    return b"".join(value.encode() + b"\0" for value in values)
