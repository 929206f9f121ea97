"""Requirements of Processes: installed by a job, once for all that ask. Nothing here waits."""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import assert_never

from slurmbridge.bridge.render import Equipment
from slurmbridge.context.reading import Read
from slurmbridge.errors import (
    InvalidProcess,
    NotThere,
    RequirementsAwaited,
    SchedulerUnavailable,
    SiteError,
    StagingFailed,
    SubmissionNotSent,
    SubmissionRefused,
)
from slurmbridge.lifecycle import classify
from slurmbridge.model import ComputeCapability, Image, InstalledRequirements
from slurmbridge.requirements import (
    FILES,
    IMAGE_FILE,
    MADE,
    Fault,
    Index,
    Installed,
    NotInstalled,
    Requirements,
    Step,
    StepLimits,
    Wheelhouse,
    job_name,
    key,
    read_outcome,
    read_requirements,
)
from slurmbridge.scheduler import JobReport, Scheduler, Submission, SubmitOutcome
from slurmbridge.script import Templates
from slurmbridge.shell import Files, Kind, NotPlain
from slurmbridge.spec import Contract, ProcessSpec
from slurmbridge.store import Installation, InstallationState, InstallationStore

log = logging.getLogger(__name__)
# What one host has written, another may see this much later: so long does NFS keep what it knows.
UNSEEN = timedelta(seconds=60)
# A job that was submitted is known to Slurm within this time.
UNKNOWN = timedelta(seconds=120)
# Before it is tried again what may have gone away by itself, and what the site has to mend.
PASSING, MENDING = timedelta(seconds=30), timedelta(minutes=5)
# For what was found out, and for what Slurm says of jobs.
LOOK = timedelta(seconds=1)
# Within this time most are installed.
SMALL = timedelta(seconds=30)
# How the reason begins for which a Process waits.
AWAITED = "its requirements are being installed"
# Which nodes to keep away from.
Avoid = Callable[[], tuple[str, ...]]
_FOLDER_MODE = 0o700


@dataclass(frozen=True, slots=True)
class Source:
    """An index or a wheelhouse of the site, and whether what has no wheel is built."""

    place: Index | Wheelhouse
    sources_built: bool = False


@dataclass(frozen=True, slots=True)
class InstallRules:
    """Places and limits. Without sources, nothing is installed."""

    # On the cluster.
    folder: Path
    sources: Mapping[str, Source]
    usual: str | None = None
    limits: StepLimits = field(default_factory=StepLimits)
    account: str | None = None
    partition: str | None = None
    # How long a failure that a submitter can mend is believed.
    believed: timedelta = timedelta(minutes=10)
    avoid: Avoid = field(default=lambda: ())


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be installed, for which image, and where it will lie."""

    key: str
    folder: Path
    requirements: Requirements
    image: Image
    source: Source


# Of a project by the contract of SANE.
BESIDE = "requirements.txt"


class Installer:
    """Sees to it that requirements are installed. Any number may work on one database."""

    def __init__(
        self,
        installations: InstallationStore,
        files: Files,
        scheduler: Scheduler,
        templates: Templates,
        rules: InstallRules,
        *,
        read: Read,
        clock: Callable[[], datetime],
    ) -> None:
        self._installations = installations
        self._files = files
        self._scheduler = scheduler
        self._templates = templates
        self._rules = rules
        self._read_location = read
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[datetime, Installation]] = {}
        self._jobs: tuple[datetime, Mapping[str, JobReport]] | None = None

    def of(
        self,
        spec: ProcessSpec,
        image: Image,
        *,
        architecture: str,
        beside: Callable[[str], bytes | None] = lambda _name: None,
    ) -> Equipment | None:
        """What a Process is equipped with; None when it asks for nothing. `beside` reads a file of
        code that is packed. Raises as `provide`.
        """
        location, content = spec.requirements, None
        if location is not None:
            content = self._read_location(location)
        elif spec.contract is Contract.SANE and spec.code:
            # A script that needs nothing has none beside it.
            location = f"{spec.code.source}/{BESIDE}"
            with suppress(NotThere):
                packed = spec.code.is_packed
                content = beside(BESIDE) if packed else self._read_location(location)
        if location is None or content is None:
            return None
        name, source = location.partition(":")[2], spec.requirements_source
        return self.provide(content, image, name=name, source=source, architecture=architecture)

    def provide(
        self,
        content: bytes,
        image: Image,
        *,
        name: str,
        source: str | None,
        architecture: str,
    ) -> Equipment | None:
        """What the requirements file `name` asks for, installed; None when that is nothing. `image`
        is as its nodes find it.

        Raises:
            InvalidProcess: the submitter has to mend it.
            RequirementsAwaited: a job installs them.
            StagingFailed: they cannot be installed now.
        """
        wanted = self._wanted(content, image, name, source, architecture)
        if not wanted.requirements.lines:
            return None
        return self._told(wanted, self._current(wanted))

    def _wanted(
        self, content: bytes, image: Image, name: str, source: str | None, architecture: str
    ) -> _Wanted:
        chosen = self._rules.sources.get(source or self._rules.usual or "")
        if chosen is None:
            what = f"no source {source!r} of requirements" if source else "no requirements"
            raise InvalidProcess(f"this site installs {what}")
        requirements = read_requirements(content, name=name)
        name = key(
            requirements,
            image,
            chosen.place,
            architecture=architecture,
            sources_built=chosen.sources_built,
        )
        return _Wanted(name, self._rules.folder / name, requirements, image, chosen)

    def _told(self, wanted: _Wanted, row: Installation) -> Equipment:
        match row.state:
            case InstallationState.MADE:
                assert row.installed is not None
                return Equipment(str(wanted.folder / MADE / IMAGE_FILE), row.installed)
            case InstallationState.ASKED:
                job = f" by job {row.job_id}" if row.job_id is not None else ""
                raise RequirementsAwaited(
                    f"{AWAITED}{job}",
                    retry_after=LOOK if self._clock() - row.asked_at < SMALL else None,
                )
            case InstallationState.FAILED:
                again = f"it is tried anew from {self._again(row):%H:%M:%S} UTC on"
                if _fault(row).is_site:
                    told = f"its requirements cannot be installed now: {row.sentence}; {again}"
                    raise StagingFailed(told)
                raise InvalidProcess(f"{row.sentence}; {again}")
        assert_never(row.state)

    # --- how far it is ---

    def _current(self, wanted: _Wanted) -> Installation:
        """The row, as far as it can be moved on now; not looked at anew within a second."""
        with self._lock:
            now = self._clock()
            seen_at, row = self._known.get(wanted.key, (None, None))
            if seen_at is None or row is None or not timedelta(0) <= now - seen_at < LOOK:
                row = self._advanced(wanted, self._installations.get(wanted.key))
                self._known = {
                    name: known for name, known in self._known.items() if now - known[0] < LOOK
                }
                self._known[wanted.key] = now, row
            return row

    def _advanced(self, wanted: _Wanted, row: Installation | None) -> Installation:
        if row is None:
            return self._ask(wanted, None)
        match row.state:
            case InstallationState.ASKED:
                return self._followed(wanted, row)
            case InstallationState.MADE:
                assert row.installed is not None
                there = self._is_there(wanted, row.installed.size_bytes)
                return row if there else self._ask(wanted, row)
            case InstallationState.FAILED:
                return self._ask(wanted, row) if self._clock() >= self._again(row) else row
        assert_never(row.state)

    def _again(self, row: Installation) -> datetime:
        """From when on a failure is not believed any more."""
        assert row.ended_at is not None
        fault = _fault(row)
        if not fault.is_site:
            return row.ended_at + self._rules.believed
        return row.ended_at + (PASSING if fault.is_transient else MENDING)

    def _followed(self, wanted: _Wanted, row: Installation) -> Installation:
        """An attempt that was asked for, with what its job has left, or what Slurm says of it."""
        if ended := self._ended(wanted, row):
            return ended
        try:
            report = self._job(wanted, row)
        except SiteError as error:
            log.warning("requirements %s: %s", wanted.key, error)
            return row
        now = self._clock()
        if report is None:
            return row if now - row.asked_at < UNKNOWN else self._ask(wanted, row)
        if row.job_id != report.job_id:
            self._installations.bind(row, report.job_id)
            row = self._stored(row)
        if not classify(report.status).final:
            return row
        if report.ended_at is None or now - report.ended_at < UNSEEN:
            return row
        log.warning("job %s ended (%s) and left nothing", report.job_id, report.status)
        return self._ask(wanted, row)

    def _job(self, wanted: _Wanted, row: Installation) -> JobReport | None:
        now = self._clock()
        if self._jobs is None or not timedelta(0) <= now - self._jobs[0] < LOOK:
            self._jobs = now, {report.job_name: report for report in self._scheduler.jobs()}
        return self._jobs[1].get(job_name(row.key, row.attempt))

    def _stored(self, row: Installation) -> Installation:
        found = self._installations.get(row.key)
        assert found is not None, "rows are never removed"
        return found

    # --- asking ---

    def _ask(self, wanted: _Wanted, seen: Installation | None) -> Installation:
        """Say that the next attempt is about to be submitted, and submit it; unless somebody else
        was first.
        """
        attempt = max([seen.attempt if seen else 0, *self._attempts(wanted)]) + 1
        asked = Installation(wanted.key, attempt, InstallationState.ASKED, self._clock())
        if not self._installations.ask(seen, asked):
            return self._stored(asked)
        try:
            self._prepare(wanted, seen)
            # As where the database is another one.
            if ended := self._ended(wanted, asked):
                return ended
            step = self._step(wanted, attempt)
            script = self._templates.render_requirements(
                step.context(self._templates.requirements_digest)
            )
        except SiteError as error:
            return self._failed(asked, Fault.ENDED, str(error))
        try:
            [outcome] = self._scheduler.submit([Submission(step.job_name, script.text)])
        except SiteError as error:
            outcome = SchedulerUnavailable(str(error))
        return self._outcome(asked, outcome)

    def _outcome(self, asked: Installation, outcome: SubmitOutcome) -> Installation:
        match outcome:
            case int():
                self._installations.bind(asked, outcome)
                log.info("job %s installs the requirements %s", outcome, asked.key)
                return self._stored(asked)
            case SubmissionRefused(retry=retry):
                fault = Fault.ENDED if retry else Fault.SITE
                return self._failed(asked, fault, f"the job that installs them: {outcome}")
            case SubmissionNotSent():
                return self._failed(asked, Fault.ENDED, str(outcome))
            case SchedulerUnavailable():
                # Whether the job exists is not known; it is found by its name, or given up.
                log.warning("requirements %s: %s", asked.key, outcome)
                return asked
            case Exception():
                raise outcome
        assert_never(outcome)

    def _step(self, wanted: _Wanted, attempt: int) -> Step:
        rules = self._rules
        return Step(
            str(wanted.folder),
            wanted.key,
            attempt,
            wanted.requirements,
            wanted.image,
            wanted.source.place,
            rules.limits,
            sources_built=wanted.source.sources_built,
            account=rules.account,
            partition=rules.partition,
            exclude=rules.avoid(),
        )

    # --- files ---

    def _attempts(self, wanted: _Wanted) -> list[int]:
        """The numbers of the attempts that have left something."""
        parts = (name.rpartition(".") for name in self._names(wanted))
        return [
            int(number)
            for what, _, number in parts
            if what in {"claim", "making", "failed"} and number.isdecimal()
        ]

    def _names(self, wanted: _Wanted) -> list[str]:
        try:
            return [entry.name for entry in self._files.list(wanted.folder)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unusable(wanted.folder, error) from error

    def _prepare(self, wanted: _Wanted, seen: Installation | None) -> None:
        """The list of requirements; what broken attempts have left is removed. Of attempts that are
        not known, as with another database, a job may be at work.

        Raises:
            StagingFailed
        """
        folder, text = wanted.folder, wanted.requirements.text.encode()
        try:
            self._files.make_folder(folder, mode=_FOLDER_MODE, parents=True)
            broken = {f"making.{number}" for number in range(1, seen.attempt + 1 if seen else 1)}
            names = set(self._names(wanted))
            broken |= {MADE} if MADE in names and not self._made(wanted) else set()
            for name in broken & names:
                with suppress(FileNotFoundError):
                    self._files.remove_tree(folder / name)
            self._files.write(folder / "requirements.txt", text)
        except OSError as error:
            raise _unusable(folder, error) from error

    def _is_there(self, wanted: _Wanted, size_bytes: int) -> bool:
        """Whether the image is where it was made. That it is the same is checked on the node."""
        try:
            found = self._files.look(wanted.folder / MADE / IMAGE_FILE)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _unusable(wanted.folder, error) from error
        return found.kind is Kind.FILE and found.size_bytes == size_bytes

    def _made(self, wanted: _Wanted) -> Installed | None:
        """What was made, by whichever attempt, if it is whole."""
        found = read_outcome(self._left(wanted.folder / MADE))
        if isinstance(found, Installed) and self._is_there(wanted, found.size_bytes):
            return found
        return None

    def _ended(self, wanted: _Wanted, row: Installation) -> Installation | None:
        """The row, moved on by what lies there; None when nothing does."""
        names = self._names(wanted)
        if MADE in names and (found := self._made(wanted)):
            entry = InstalledRequirements(
                key=wanted.key, sha256=found.sha256, size_bytes=found.size_bytes, lock=found.lock
            )
            self._installations.made(row, entry, now=self._clock())
            return self._stored(row)
        failed = wanted.folder / f"failed.{row.attempt}"
        if failed.name not in names:
            return None
        outcome = read_outcome(self._left(failed))
        if isinstance(outcome, Installed):
            outcome = NotInstalled(fault=Fault.SITE, sentence=f"{failed} holds what it cannot")
        for line in outcome.said:
            log.info("requirements %s: %s", wanted.key, line)
        return self._failed(row, outcome.fault, outcome.sentence)

    def _failed(self, row: Installation, fault: Fault, sentence: str) -> Installation:
        if self._installations.failed(row, fault, sentence, now=self._clock()):
            log.warning("requirements %s: %s", row.key, sentence)
        return self._stored(row)

    def _left(self, folder: Path) -> Mapping[str, bytes]:
        """What an attempt has left; nothing as long as it has not ended."""
        found = {}
        for name, limit in FILES.items():
            try:
                found[name] = self._files.read(folder / name, limit=limit)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except NotPlain as error:
                raise StagingFailed(f"{folder / name}: {error}") from error
            except OSError as error:
                raise _unusable(folder, error) from error
        return found


def _fault(row: Installation) -> Fault:
    try:
        return Fault(row.fault or "")
    except ValueError:
        # A later version may know more.
        return Fault.OTHER


def _unusable(folder: Path, error: OSError) -> StagingFailed:
    return StagingFailed(f"{folder} cannot be used: {error.strerror}")


def unfit(capability: ComputeCapability | None, partition: str | None) -> tuple[str, ...]:
    """The nodes that are known not to install anything; none when that would leave none."""
    found = capability and capability.partition(partition)
    if not capability or not found:
        return ()
    within = [node for node in capability.nodes if node.node in found.node_names]
    known = tuple(
        node.node for node in within if node.can_seal is False or node.facts.get("mksquashfs") == ""
    )
    return known if len(known) < len(within) else ()
