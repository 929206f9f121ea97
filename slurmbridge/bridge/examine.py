"""Examining nodes: a small job on each says what the node can do. Nothing here waits."""

import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from slurmbridge import __version__
from slurmbridge.bridge.readiness import (
    REPORT_BYTES_LIMIT,
    excluded,
    judge,
    offered,
    unable,
    unready,
)
from slurmbridge.container.apptainer import CLOSED
from slurmbridge.context.folder import Contexts
from slurmbridge.errors import NoNodeReady, RequestError, StagingFailed, SubmissionRefused
from slurmbridge.lifecycle import SlurmState, classify
from slurmbridge.model import ComputeCapability, NodeReadiness
from slurmbridge.scheduler import ClusterNode, JobReport, Scheduler, Submission
from slurmbridge.script import Directive, DoctorContext, Script, Templates
from slurmbridge.shell import NotPlain
from slurmbridge.spec import ProcessSpec
from slurmbridge.store import Examination, NodeStore, SiteStore

log = logging.getLogger(__name__)
FOLDER = ".doctor"
# Few at a time: the Runner that asks has Processes to move on.
BATCH = 4
# What one host has written, another may see this much later: so long does NFS keep what it knows.
UNSEEN = timedelta(seconds=60)
# A job that was submitted is known to Slurm within this time.
UNKNOWN = timedelta(seconds=120)
LEFT_FILES_KEPT = timedelta(days=1)
# How often Slurm is asked which nodes there are.
CLUSTER_KEPT = timedelta(minutes=5)
KNOWN_KEPT = timedelta(seconds=5)
# These ends are the node's own doing; others, such as CANCELLED, say nothing of it.
_ITS_OWN = frozenset(
    {SlurmState.COMPLETED, SlurmState.FAILED, SlurmState.TIMEOUT, SlurmState.OUT_OF_MEMORY}
)


@dataclass(frozen=True, slots=True)
class ExaminerRules:
    """Places, and how often things are done."""

    contexts: Contexts
    images: Path
    every: timedelta
    retry: timedelta
    # After this time it is said that there is no answer yet.
    answer: timedelta
    # How often Slurm is asked about examinations that are under way.
    look: timedelta


def job_name(asked: Examination) -> str:
    """The name of an examination's job, and of its report: by it the job is found after a crash."""
    return f"sb-doctor-{asked.node}-{asked.began:%Y%m%dT%H%M%S%f}"


def known_capability(site: SiteStore, nodes: NodeStore) -> ComputeCapability | None:
    """What is offered by what is known of cluster and nodes; None before the first report."""
    capability = site.capability()
    return capability and offered(capability, known_nodes(nodes))


def known_nodes(nodes: NodeStore) -> list[NodeReadiness]:
    """What is known of each node that was ever examined."""
    return [row.readiness for row in nodes.all() if row.readiness is not None]


class Avoidance:
    """Which nodes a job has to keep away from, by what is known of them.

    Asked for every Process, so that what was read is believed for some seconds.
    """

    def __init__(self, site: SiteStore, nodes: NodeStore, *, clock: Callable[[], datetime]) -> None:
        self._site = site
        self._nodes = nodes
        self._clock = clock
        self._known: tuple[datetime, ComputeCapability | None] | None = None

    def __call__(self, spec: ProcessSpec) -> tuple[str, ...]:
        """Names of nodes.

        Raises:
            NoNodeReady: there is none that may run it.
        """
        now = self._clock()
        if self._known is None or now - self._known[0] >= KNOWN_KEPT:
            self._known = (now, known_capability(self._site, self._nodes))
        capability = self._known[1]
        if capability is None:
            return ()
        if problem := unready(capability, spec):
            raise NoNodeReady(problem)
        return excluded(capability, spec)


class Examiner:
    """Asks nodes, and takes their reports. Any number may work on one database."""

    def __init__(
        self,
        nodes: NodeStore,
        scheduler: Scheduler,
        templates: Templates,
        rules: ExaminerRules,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._nodes = nodes
        self._scheduler = scheduler
        self._templates = templates
        self._rules = rules
        self._clock = clock
        self._files = rules.contexts.files
        self._folder = rules.contexts.root / FOLDER
        self._cluster: tuple[datetime, ComputeCapability, list[ClusterNode]] | None = None
        self._looked_at: datetime | None = None
        self._jobs: dict[str, JobReport] = {}

    def examine(self) -> None:
        """One turn: take what has come, and ask what is due."""
        now = self._clock()
        capability, cluster = self.cluster()
        rows = {row.node: row for row in self._nodes.all()}
        self._forget(rows, cluster)
        self.take()
        due = [
            (rows.get(node.name, Examination(node.name)), partitions)
            for node in cluster
            if node.up and (partitions := open_partitions(capability, node.name))
        ]
        due = [pair for pair in due if is_due(pair[0], self._rules, now)]
        for row, partitions in due[:BATCH]:
            self.ask(row, partitions)

    def cluster(self) -> tuple[ComputeCapability, list[ClusterNode]]:
        """What Slurm says of partitions and nodes, not older than some minutes."""
        now = self._clock()
        if self._cluster is None or now - self._cluster[0] >= CLUSTER_KEPT:
            self._cluster = (now, self._scheduler.capability(), self._scheduler.nodes())
        return self._cluster[1:]

    def start(self, names: Collection[str]) -> list[str]:
        """Ask these nodes now, or all when none is named; those that are being waited for.

        Raises:
            RequestError: there is no node of such a name.
        """
        capability, cluster = self.cluster()
        known = {node.name: node for node in cluster}
        if unknown := sorted(set(names) - set(known)):
            there = ", ".join(known) or "none"
            raise RequestError(f"there is no node {', '.join(unknown)} (known: {there})")
        rows = {row.node: row for row in self._nodes.all()}
        for name in sorted(names or known):
            row = rows.get(name, Examination(name))
            if row.asked_at and self._clock() - row.asked_at < self._rules.answer:
                continue  # Somebody has just asked: their answer is as good.
            partitions = open_partitions(capability, name)
            self._cancel(row)
            if known[name].up and partitions:
                self.ask(row, partitions)
            else:
                self._not_now(row)
        return sorted(names or known)

    def ask(self, row: Examination, partitions: Iterable[str]) -> None:
        """Submit an examination, unless somebody else has just done so."""
        asked = replace(row, asked_at=self._clock(), job_id=None)
        script = {name: self._script(asked, name) for name in partitions}
        self._prepare_folder()
        if not self._nodes.ask(row, now=asked.began):
            return
        refusal = ""
        for one in script.values():
            [outcome] = self._scheduler.submit([Submission(job_name(asked), one.text)])
            if isinstance(outcome, int):
                self._nodes.bind(asked, outcome)
                return
            if not isinstance(outcome, SubmissionRefused):
                # Whether the job exists is not known; `take` finds it by its name, or gives up.
                log.warning("the examination of %s: %s", asked.node, outcome)
                return
            refusal = str(outcome)
        self._later(asked, f"it cannot be examined: {refusal}")

    def take(self) -> list[Examination]:
        """Take the reports that have come; what is still waited for."""
        missing = [
            row for row in self._nodes.all() if row.asked_at is not None and not self._read(row)
        ]
        now = self._clock()
        if missing and (self._looked_at is None or now - self._looked_at >= self._rules.look):
            self._looked_at = now
            self._jobs = {report.job_name: report for report in self._scheduler.jobs()}
            missing = [row for row in missing if not self._follow(row, now)]
        return missing

    def give_up(self, names: Collection[str]) -> None:
        """Wait no longer for these nodes."""
        for row in self._nodes.all():
            if row.asked_at is not None and row.node in names:
                self._cancel(row)
                self._later(row, f"{self.status(row)}, and was canceled")

    def status(self, row: Examination) -> str:
        """How far an examination is, in a sentence."""
        report = self._jobs.get(job_name(row))
        if report is None:
            job = f"job {row.job_id}" if row.job_id else "job"
            return f"the examination {job} has not answered for {self._waited(row)}"
        reason = f" ({report.reason})" if report.reason else ""
        state = str(report.status).lower()
        waited = self._waited(row)
        return f"the examination job {report.job_id} has been {state} for {waited}{reason}"

    def stage(self, row: Examination) -> str:
        """The same in a word or two."""
        report = self._jobs.get(job_name(row))
        if report is None:
            return f"job {row.job_id} submitted" if row.job_id else "asked"
        reason = f" ({report.reason})" if report.reason else ""
        return f"job {report.job_id} {str(report.status).lower()}{reason}"

    def _waited(self, row: Examination) -> str:
        minutes, seconds = divmod(int((self._clock() - row.began).total_seconds()), 60)
        if not minutes:
            return f"{seconds} s"
        return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"

    # --- one examination ---

    def _read(self, row: Examination) -> bool:
        text = self._content(self._folder / job_name(row))
        if text is None:
            return False
        now = self._clock()
        readiness = judge(row.node, text, asked_at=row.began, read_at=now)
        self._conclude(row, readiness)
        return True

    def _follow(self, row: Examination, now: datetime) -> bool:
        """Act on what Slurm says of a job without a report; whether it is over."""
        report = self._jobs.get(job_name(row))
        if report is None:
            if now - row.began < UNKNOWN:
                return False
            job = f"job {row.job_id}" if row.job_id else "its job"
            return self._later(row, f"{job} is not known to Slurm, and left no report")
        if row.job_id != report.job_id:
            self._nodes.bind(row, report.job_id)
            row = replace(row, job_id=report.job_id)
        if classify(report.status).final:
            return self._ended(row, report, now)
        if now - row.began >= self._rules.answer:
            self._remark(row, self.status(row))
        if now - row.began >= max(self._rules.every, self._rules.answer):
            self._cancel(row)
            return self._later(row, f"job {report.job_id} never started")
        return False

    def _ended(self, row: Examination, report: JobReport, now: datetime) -> bool:
        if report.ended_at is not None and now - report.ended_at < UNSEEN:
            return False
        if report.status.base not in _ITS_OWN:
            return self._later(row, f"the examination job {report.job_id} ended: {report.status}")
        said = (self._content(self._log(row)) or "").strip().splitlines()
        why = said[-1][:300] if said else f"the node may not see {self._rules.contexts.root}"
        problem = f"job {report.job_id} ended ({report.status}) and left no report: {why}"
        return self._conclude(row, unable(row.node, problem, now=now))

    def _not_now(self, row: Examination) -> None:
        asked = replace(row, asked_at=self._clock(), job_id=None)
        if self._nodes.ask(row, now=asked.began):
            self._later(asked, f"it starts no jobs now: see `sinfo --Node --nodes={row.node}`")

    def _later(self, row: Examination, remark: str) -> bool:
        """Nothing new is known: what was known stays, and it is tried again."""
        return self._conclude(row, _remarked(row, remark))

    def _remark(self, row: Examination, remark: str) -> None:
        readiness = _remarked(row, remark)
        if readiness != row.readiness:
            self._nodes.remark(row, readiness)

    def _conclude(self, row: Examination, readiness: NodeReadiness) -> bool:
        if self._nodes.conclude(row, readiness, now=self._clock()):
            for problem in (*readiness.problems, *readiness.trace_problems):
                log.warning("node %s: %s", row.node, problem)
            if readiness.remark:
                log.warning("node %s: %s", row.node, readiness.remark)
        for path in (self._folder / job_name(row), self._log(row)):
            with suppress(OSError):
                self._files.remove_file(path)
        return True

    def _cancel(self, row: Examination) -> None:
        if row.asked_at is not None and row.job_id is not None:
            self._scheduler.cancel([row.job_id])

    def _forget(self, rows: dict[str, Examination], cluster: Iterable[ClusterNode]) -> None:
        there = {node.name for node in cluster}
        for name in set(rows) - there if there else ():
            self._cancel(rows[name])
            self._nodes.forget(name)

    # --- files ---

    def _script(self, asked: Examination, partition: str) -> Script:
        report = self._folder / job_name(asked)
        return self._templates.render_doctor(
            DoctorContext(
                version=Directive(__version__),
                template_digest=Directive(self._templates.doctor_digest),
                job_name=Directive(job_name(asked)),
                partition=Directive(partition),
                node=Directive(asked.node),
                working_directory=Directive(str(self._folder)),
                job_log=Directive(str(self._log(asked))),
                images=str(self._rules.images),
                report=str(report),
                seal=CLOSED,
            )
        )

    def _content(self, path: Path) -> str | None:
        """What a job wrote; None when it is not there, or is no plain file."""
        try:
            return self._files.read(path, limit=REPORT_BYTES_LIMIT).decode(errors="replace")
        except (OSError, NotPlain):
            return None

    def _log(self, row: Examination) -> Path:
        return self._folder / f"{job_name(row)}.log"

    def _prepare_folder(self) -> None:
        try:
            self._files.make_folder(self._folder, mode=0o700, parents=True)
            old = (self._clock() - LEFT_FILES_KEPT).timestamp()
            for entry in self._files.list(self._folder):
                if entry.modified_at < old:
                    self._files.remove_file(self._folder / entry.name)
        except OSError as error:
            raise StagingFailed(f"{self._folder} cannot be used: {error.strerror}") from error


def is_due(row: Examination, rules: ExaminerRules, now: datetime) -> bool:
    """Whether a node is to be asked: never asked before, long ago, or without a good report."""
    if row.asked_at is not None:
        return False
    if row.observed_at is None or row.readiness is None:
        return True
    good = row.readiness.can_trace and row.readiness.remark is None
    return now - row.observed_at >= (rules.every if good else rules.retry)


def open_partitions(capability: ComputeCapability, node: str) -> tuple[str, ...]:
    """The partitions through which a node can be reached, the default one first."""
    found = [entry for entry in capability.partitions if entry.up and node in entry.node_names]
    return tuple(entry.name for entry in sorted(found, key=lambda entry: not entry.default))


def _remarked(row: Examination, remark: str) -> NodeReadiness:
    known = row.readiness or NodeReadiness(node=row.node)
    return known.model_copy(update={"remark": remark})
