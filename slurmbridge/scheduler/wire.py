"""Slurm's text: the argv of its programs, and what they print. Pure.

Fields that Slurm or the site fills with free text come last in each format, so that a separator
in them breaks nothing.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from slurmbridge.errors import (
    ReplyUnreadable,
    SchedulerUnavailable,
    SubmissionNotSent,
    SubmissionRefused,
)
from slurmbridge.lifecycle import SlurmStatus, read_status
from slurmbridge.model import ComputeCapability, Gres, Partition
from slurmbridge.scheduler import ClusterNode, JobReport
from slurmbridge.shell import Reply

SUBMIT = ("sbatch", "--parsable")
QUEUE = (
    "squeue",
    "--me",
    "--states=all",
    "--noheader",
    "--Format=JobID:|,State:|,exit_code:|,StartTime:|,EndTime:|,NodeList:|,RestartCnt:|,"
    "Reason:|,Name:|",
)
PARTITIONS = ("sinfo", "--noheader", "--format=%P|%a|%D|%c|%m|%l|%G")
NODES = ("sinfo", "--noheader", "--Node", "--format=%P|%T|%N")
CONFIGURATION = ("scontrol", "show", "config")
STATISTICS = ("sdiag",)
USER_NAME = ("id", "-un")
HISTORY_NAMES_PER_CALL = 500

_UNAVAILABLE = re.compile(
    r"unable to contact slurm controller|socket timed out|connection (refused|timed out|reset)"
    r"|zero bytes were transmitted|unable to establish con|slurmdbd.*(not available|down)"
    r"|communication connection failure|transport endpoint|i/o error|backup controller",
    re.IGNORECASE,
)
_NOT_SENT = re.compile(r"connect failure|connection refused", re.IGNORECASE)
# Slurm's words for limits that other jobs' ends resolve.
# What time resolves: limits, and nodes to keep away from of which the bridge does not know yet that
# they left the cluster. A submitter names no node.
_PASSING = re.compile(
    r"job violates accounting/qos policy|(qos|assoc)\w*(max|grp|min)\w*"
    r"|maxjobcount|slurm temporarily unable to accept job|rate limit|invalid node name",
    re.IGNORECASE,
)
_GONE = re.compile(r"already completing or completed|invalid job id", re.IGNORECASE)
# A node in these states starts jobs. What else Slurm says of it stands behind the word: sinfo
# writes a sign, such as `*` for one that does not answer, and slurmctld `+DRAIN`.
_NODE_UP = re.compile(
    r"(idle|mixed|allocated|completing|planned)[+-]?(\+(cloud|completing|planned|dynamic_norm))*",
    re.IGNORECASE,
)
_UNSET = {"", "N/A", "NONE", "None", "Unknown", "None assigned", "(null)"}


def refusal(message: str) -> SubmissionRefused | SchedulerUnavailable:
    """The error that Slurm's own words mean."""
    text = " ".join(message.split()).removeprefix("sbatch: error: ")
    text = text.replace("sbatch: error: ", "").removeprefix("Batch job submission failed: ")
    if _NOT_SENT.search(text):
        return SubmissionNotSent(f"Slurm cannot be reached: {text}")
    if _UNAVAILABLE.search(text):
        return SchedulerUnavailable(f"Slurm did not answer: {text}")
    return SubmissionRefused(
        f"Slurm refused the job: {text}", retry=_PASSING.search(text) is not None
    )


def read_submit(reply: Reply) -> int:
    """The job id that `sbatch --parsable` printed, as `ID` or `ID;CLUSTER`.

    Sites wrap sbatch and print text of their own round it, so the id is the one line of that form.

    Raises:
        SubmissionRefused, SchedulerUnavailable, ReplyUnreadable.
    """
    if reply.exit_code != 0:
        raise refusal(reply.stderr or reply.stdout or f"sbatch ended with {reply.exit_code}")
    ids = re.findall(r"^(\d+)(?:;[\w.-]+)?\s*$", reply.stdout, re.MULTILINE)
    if len(ids) != 1:
        raise ReplyUnreadable(f"sbatch printed no single job id but {reply.stdout[:200]!r}")
    return int(ids[0])


def read_queue(reply: Reply) -> list[JobReport]:
    """What squeue printed for QUEUE."""
    _must_succeed("squeue", reply)
    return _read_lines("squeue", reply.stdout, 9, _queue_line)


def _read_lines(
    program: str, text: str, fields: int, read: Callable[[list[str]], JobReport]
) -> list[JobReport]:
    """Lines of so many fields, the last of them free text.

    A job of another origin may carry a name with a newline in it, which makes lines that mean
    nothing. They are passed over: that a job is missing is never taken for its end. When nothing
    can be read, the whole answer is not understood.
    """
    found: list[JobReport] = []
    unreadable = ""
    for line in text.split("\n"):
        if line.strip():
            try:
                found.append(read([field.strip() for field in line.split("|", fields - 1)]))
            except ValueError:
                unreadable = unreadable or line
    if unreadable and not found:
        raise ReplyUnreadable(
            f"{program} printed what is not understood, beginning with {unreadable[:200]!r}"
        )
    return found


def _queue_line(fields: list[str]) -> JobReport:
    job_id, state, code, start, end, nodes, restarts, reason, name = fields
    status = read_status(state)
    exit_code, signal = _exit_pair(code)
    return JobReport(
        job_id=int(job_id),
        job_name=name.removesuffix("|"),
        status=status,
        reason=_text(reason),
        exit_code=exit_code,
        signal=signal,
        nodes=_text(nodes),
        started_at=_time(start) if _has_started(status) else None,
        # For a job that has not ended squeue prints the latest end that it may have.
        ended_at=_time(end) if _has_ended(status) else None,
        # Of a job that waits, the start that Slurm expects.
        expected_start=_time(start) if not _has_started(status) else None,
        restarts=int(restarts),
        source="squeue",
    )


def history(job_names: Sequence[str], since: datetime) -> tuple[str, ...]:
    """Ask accounting for every job record, also of earlier attempts, with one of these names.

    Without --starttime sacct begins at midnight.
    """
    return (
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        "--duplicates",
        f"--starttime={since.astimezone(UTC):%Y-%m-%dT%H:%M:%S}",
        "--endtime=now",
        f"--name={','.join(job_names)}",
        "--format=JobIDRaw,State,ExitCode,Start,End,NodeList,Reason,JobName",
    )


def read_history(reply: Reply) -> list[JobReport]:
    """What sacct printed for `history`. The last record of a job id is its latest attempt."""
    _must_succeed("sacct", reply)
    reports = _read_lines("sacct", reply.stdout, 8, _history_line)
    return list({report.job_id: report for report in reports}.values())


def _history_line(fields: list[str]) -> JobReport:
    job_id, state, code, start, end, nodes, reason, name = fields
    exit_code, signal = _exit_pair(code)
    return JobReport(
        job_id=int(job_id),
        job_name=name,
        status=read_status(state),
        reason=_text(reason),
        exit_code=exit_code,
        signal=signal,
        nodes=_text(nodes),
        started_at=_time(start),
        ended_at=_time(end),
        source="sacct",
    )


# What accounting knows of a job's use, in sacct's own words; the last two are of its batch step.
USAGE = (
    "JobID", "JobName", "Account", "Partition", "QOS", "State", "ExitCode", "Submit", "Start",
    "End", "ElapsedRaw", "NNodes", "NodeList", "ReqTRES", "AllocTRES", "TotalCPU",
)  # fmt: skip
STEP_USAGE = ("MaxRSS", "AveCPU")


def usage(job_id: int) -> tuple[str, ...]:
    """Ask accounting what a job has used. Times are in UTC where the environment says so."""
    fields = ",".join((*USAGE, *STEP_USAGE))
    return ("sacct", "--noheader", "--parsable2", f"--jobs={job_id}", f"--format={fields}")


def read_usage(reply: Reply) -> dict[str, str]:
    """What sacct printed for `usage`, word for word; empty when it does not know the job yet."""
    _must_succeed("sacct", reply)
    found: dict[str, str] = {}
    for line in reply.stdout.splitlines():
        fields = line.split("|")
        if len(fields) != len(USAGE) + len(STEP_USAGE):
            raise ReplyUnreadable(f"sacct printed {line[:200]!r}")
        named = dict(zip((*USAGE, *STEP_USAGE), fields, strict=True))
        step = named["JobID"].partition(".")[2]
        if not step:
            found |= {name: named[name] for name in USAGE if named[name]}
        elif step == "batch":
            found |= {name: named[name] for name in STEP_USAGE if named[name]}
    return found


def cancel(job_ids: Iterable[int], *, kill: bool = False) -> tuple[str, ...]:
    """End these jobs; with `kill`, whatever is left of them, the batch script and all steps."""
    how = ("--signal=KILL", "--full") if kill else ()
    return ("scancel", *how, *(str(job_id) for job_id in job_ids))


def hold(job_ids: Iterable[int]) -> tuple[str, ...]:
    """Let these jobs not start, as far as they have not yet."""
    return ("scontrol", "hold", ",".join(str(job_id) for job_id in job_ids))


def read_hold(reply: Reply) -> None:
    """Raise only when the controller did not answer: a job that runs or is gone is not held."""
    if reply.exit_code != 0 and _UNAVAILABLE.search(reply.stderr):
        raise SchedulerUnavailable(f"scontrol hold failed: {' '.join(reply.stderr.split())[:300]}")


def read_backlog(reply: Reply) -> int:
    """How many messages are on their way from slurmctld to slurmdbd, of what sdiag printed."""
    _must_succeed("sdiag", reply)
    found = re.search(r"^DBD Agent queue size:\s*(\d+)", reply.stdout, re.MULTILINE)
    if not found:
        raise ReplyUnreadable("sdiag names no DBD Agent queue size")
    return int(found.group(1))


def read_cancel(reply: Reply) -> None:
    """Raise unless every complaint of scancel is about a job that is gone already."""
    complaints = [line for line in reply.stderr.splitlines() if line.strip()]
    serious = [line for line in complaints if not _GONE.search(line)]
    if serious or (reply.exit_code != 0 and not complaints):
        raise SchedulerUnavailable(f"scancel failed: {' '.join(serious) or reply.exit_code}")


def associations(user: str) -> tuple[str, ...]:
    """Ask which accounts a user may charge."""
    return (
        "sacctmgr",
        "--noheader",
        "--parsable2",
        "show",
        "user",
        f"name={user}",
        "withassoc",
        "format=Account,DefaultAccount",
    )


def read_capability(
    config: Reply, partitions: Reply, accounts: Reply, *, nodes: Sequence[ClusterNode] = ()
) -> ComputeCapability:
    """Put together what scontrol, sinfo and sacctmgr say."""
    _must_succeed("scontrol", config)
    _must_succeed("sinfo", partitions)
    _must_succeed("sacctmgr", accounts)
    cluster = re.search(r"^ClusterName\s*=\s*(\S+)", config.stdout, re.MULTILINE)
    version = re.search(r"^SLURM_VERSION\s*=\s*(\S+)", config.stdout, re.MULTILINE)
    if not cluster or not version:
        raise ReplyUnreadable("scontrol show config names no cluster or no version")
    rows = [line.split("|") for line in accounts.stdout.splitlines() if line.strip()]
    return ComputeCapability(
        cluster=cluster.group(1),
        slurm_version=version.group(1),
        partitions=tuple(
            _with_names(partition, nodes) for partition in read_partitions(partitions.stdout)
        ),
        accounts=tuple(sorted({row[0] for row in rows if row[0]})),
        message_timeout_seconds=_seconds(config.stdout, "MessageTimeout"),
        min_job_age_seconds=_seconds(config.stdout, "MinJobAge"),
        call_limits=_call_limits(config.stdout),
        default_account=next((row[1] for row in rows if len(row) > 1 and row[1]), None),
    )


def _seconds(config: str, name: str) -> int | None:
    found = re.search(rf"^{name}\s*=\s*(\d+) sec", config, re.MULTILINE)
    return int(found.group(1)) if found else None


def _call_limits(config: str) -> str:
    found = re.search(r"^SlurmctldParameters\s*=\s*(\S+)", config, re.MULTILINE)
    words = found.group(1).split(",") if found else ()
    return ",".join(word for word in words if word.startswith("rl_"))


def _with_names(partition: Partition, nodes: Sequence[ClusterNode]) -> Partition:
    names = tuple(node.name for node in nodes if partition.name in node.partitions)
    return partition.model_copy(update={"node_names": names})


def read_nodes(reply: Reply) -> list[ClusterNode]:
    """What sinfo printed for NODES: a line for each node in each partition."""
    _must_succeed("sinfo", reply)
    found: dict[str, ClusterNode] = {}
    for line in reply.stdout.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 3 or not all(fields):
            raise ReplyUnreadable(f"sinfo printed a line that is not understood: {line[:200]!r}")
        partition, state, name = fields
        before = found[name].partitions if name in found else ()
        names = (*before, partition.removesuffix("*"))
        found[name] = ClusterNode(name, names, node_is_up(state))
    return sorted_nodes(found.values())


def node_is_up(state: str) -> bool:
    """Whether a node in this state, in sinfo's words or slurmctld's, starts jobs."""
    return _NODE_UP.fullmatch(state) is not None


def sorted_nodes(nodes: Iterable[ClusterNode]) -> list[ClusterNode]:
    """By name, and the partitions of each by name."""
    return sorted(
        (ClusterNode(node.name, tuple(sorted(node.partitions)), node.up) for node in nodes),
        key=lambda node: node.name,
    )


def read_partitions(text: str) -> tuple[Partition, ...]:
    """What sinfo printed for PARTITIONS: a line for each kind of node in each partition."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 7:
            raise ReplyUnreadable(f"sinfo printed a line that is not understood: {line[:200]!r}")
        name, up, nodes, cpus, memory, limit, gres = fields
        plain = name.removesuffix("*")
        before = found.get(plain)
        found[plain] = Partition(
            name=plain,
            default=name.endswith("*"),
            up=up == "up",
            nodes=int(nodes) + (before.nodes if before else 0),
            cpus_per_node=max(_count(cpus), before.cpus_per_node if before else 0),
            memory_mib_per_node=max(_count(memory), before.memory_mib_per_node if before else 0),
            time_limit_minutes=read_minutes(limit),
            gres=_most_gres(read_gres(gres), before.gres if before else ()),
        )
    return tuple(found.values())


def read_gres(text: str) -> tuple[Gres, ...]:
    """What sinfo printed of a node's generic resources: `gpu:a100:4(S:0-1),shard:16(S:0)`.

    What is counted otherwise than in whole pieces (`bandwidth:lustre:no_consume:4G`) is left out.
    """
    found = []
    for entry in re.sub(r"\([^)]*\)", "", text).split(","):
        match = re.fullmatch(r"([a-z][a-z0-9_]*)(?::([A-Za-z0-9][\w.-]*))?:(\d+)", entry)
        if match:
            found.append(Gres(name=match[1], kind=match[2], count=int(match[3])))
    return tuple(found)


def _most_gres(some: Iterable[Gres], others: Iterable[Gres]) -> tuple[Gres, ...]:
    most: dict[tuple[str, str], Gres] = {}
    for gres in (*some, *others):
        key = (gres.name, gres.kind or "")
        if key not in most or most[key].count < gres.count:
            most[key] = gres
    return tuple(most[key] for key in sorted(most))


def read_minutes(text: str) -> int | None:
    """A time limit as Slurm prints it (`1-00:00:00`, `10:00`, `infinite`) in whole minutes."""
    if text in {"infinite", "UNLIMITED", "n/a"}:
        return None
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text)
    if not match:
        raise ReplyUnreadable(f"Slurm printed a time limit that is not understood: {text!r}")
    days, hours, minutes, _ = (int(group or 0) for group in match.groups())
    return (days * 24 + hours) * 60 + minutes


def _must_succeed(program: str, reply: Reply) -> None:
    if reply.exit_code != 0:
        text = " ".join((reply.stderr or reply.stdout).split())
        raise SchedulerUnavailable(f"{program} ended with {reply.exit_code}: {text[:300]}")


def _count(text: str) -> int:
    return int(text.removesuffix("+"))


def _text(text: str) -> str | None:
    return None if text in _UNSET else text


def _time(text: str) -> datetime | None:
    return None if text in _UNSET else datetime.fromisoformat(text).replace(tzinfo=UTC)


def _exit_pair(text: str) -> tuple[int | None, int | None]:
    code, _, signal = text.partition(":")
    if not (code.isdecimal() and signal.isdecimal()):
        return None, None
    return int(code), int(signal) or None


def _has_started(status: SlurmStatus) -> bool:
    return status.base is not None and status.base.value != "PENDING"


def _has_ended(status: SlurmStatus) -> bool:
    return _has_started(status) and status.base is not None and status.base.value != "RUNNING"
