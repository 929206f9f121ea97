"""What the report of an examined node means, and what may be offered because of it. Pure."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from slurmbridge.model import ComputeCapability, NodeReadiness, Partition, RefusedPartition
from slurmbridge.spec import Limits, ProcessSpec, TraceLevel

REPORT_BYTES_LIMIT = 64 * 1024


class Concern(StrEnum):
    """What is lost when a check fails."""

    SEAL = "seal"
    TRACE = "trace"
    WARNING = "warning"
    FACT = "fact"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at. `wrong` says what is the matter and what to do about it."""

    key: str
    concern: Concern
    means: str
    fine: Callable[[str], bool] = lambda _value: True
    wrong: str = ""


def _yes(value: str) -> bool:
    return value == "yes"


def _not_yes(value: str) -> bool:
    return value != "yes"


def _path(value: str) -> bool:
    return value.startswith("/")


def _one_of(*words: str) -> Callable[[str], bool]:
    return lambda value: value in words


def _holds(*words: str) -> Callable[[str], bool]:
    return lambda value: set(words) <= set(value.split())


def _only(*words: str) -> Callable[[str], bool]:
    return lambda value: set(value.split()) <= {*words, "absent"}


def _at_least(least: int) -> Callable[[str], bool]:
    return lambda value: value.isdecimal() and int(value) >= least


def _at_least_or_none(least: int) -> Callable[[str], bool]:
    # df prints "-" for a file system that counts no inodes.
    return lambda value: value == "-" or _at_least(least)(value)


def _unlimited_or(least: int) -> Callable[[str], bool]:
    return lambda value: value == "unlimited" or _at_least(least)(value)


def _skew_below(limit: float) -> Callable[[str], bool]:
    return lambda value: re.fullmatch(r"\d+(\.\d+)?", value) is not None and float(value) <= limit


def _version(*least: int) -> Callable[[str], bool]:
    def fine(value: str) -> bool:
        found = re.search(r"\d+(?:\.\d+)+", value)
        return found is not None and tuple(map(int, found.group().split("."))) >= least

    return fine


_SEAL, _TRACE, _WARNING, _FACT = Concern.SEAL, Concern.TRACE, Concern.WARNING, Concern.FACT
_CONF = "apptainer.conf on the node"

# Every key of a report, and those that are worked out from it. The order is that of the sentences.
CHECKS: tuple[Check, ...] = (
    Check("node", _FACT, "the node that ran the examination"),
    Check("machine", _FACT, "the architecture"),
    Check("clock", _FACT, "the node's clock, in seconds"),
    Check("unshare", _FACT, "the version of util-linux"),
    Check("starter_suid", _FACT, "whether Apptainer's setuid starter is installed"),
    Check("conf_overlay", _FACT, "`enable overlay` in apptainer.conf"),
    Check("conf_underlay", _FACT, "`enable underlay` in apptainer.conf"),
    Check("conf_setuid", _FACT, "`allow setuid` in apptainer.conf"),
    Check("kernel", _SEAL, "the kernel's version", _version(5, 11),
          "the kernel is {value}: 5.11 or later is needed, for overlays in user namespaces and to "
          "close all descriptors"),
    Check("user_namespaces", _SEAL, "how many user namespaces a user may have", _at_least(1),
          "user.max_user_namespaces is {value}: set it above 0 with sysctl"),
    Check("mount_namespaces", _SEAL, "how many mount namespaces a user may have", _at_least(1),
          "user.max_mnt_namespaces is {value}: set it above 0 with sysctl"),
    Check("network_namespaces", _SEAL, "how many network namespaces a user may have", _at_least(1),
          "user.max_net_namespaces is {value}: set it above 0 with sysctl"),
    Check("userns_clone", _SEAL, "whether ordinary users may make user namespaces",
          _one_of("absent", "1"),
          "kernel.unprivileged_userns_clone is {value}: set it to 1 with sysctl"),
    Check("namespaces", _SEAL, "whether a user and a mount namespace are given", _yes,
          "no user and mount namespace is given ({value}): allow unprivileged user namespaces; "
          "unshare has to be that of util-linux 2.38 or later"),
    Check("tmpfs", _SEAL, "whether a tmpfs can be mounted in them", _yes,
          "no tmpfs can be mounted in a user namespace ({value}): on Ubuntu, "
          "kernel.apparmor_restrict_unprivileged_userns has to be 0"),
    Check("bind", _SEAL, "whether binds can be made in them", _yes,
          "no bind can be made in a user namespace ({value}): look for AppArmor or SELinux rules"),
    Check("network", _SEAL, "whether a network namespace is given", _yes,
          "no network namespace is given ({value}): set user.max_net_namespaces above 0"),
    Check("proc", _SEAL, "whether a new /proc can be mounted", _yes,
          "no new /proc can be mounted ({value}): nothing may be mounted below the node's /proc"),
    Check("seccomp", _SEAL, "what seccomp filters may do", _holds("errno", "kill_process", "allow"),
          "the kernel's seccomp offers {value}: it needs CONFIG_SECCOMP_FILTER"),
    Check("fuse", _SEAL, "whether /dev/fuse can be opened", _yes,
          "/dev/fuse cannot be opened ({value}): load the module fuse, and give the device mode "
          "0666"),
    Check("squashfuse", _SEAL, "where squashfuse_ll is", _path,
          "squashfuse_ll is missing: install squashfuse"),
    Check("images", _SEAL, "whether the folder of images is seen", _yes,
          "the folder of images is not seen by the service user: mount it on the node"),
    Check("apptainer", _SEAL, "Apptainer's version", _version(1, 4, 5),
          "Apptainer is {value}: install 1.4.5 or later"),
    Check("conf_user", _SEAL, "`allow user ns` in apptainer.conf", _one_of("yes", "absent"),
          f"`allow user ns` is {{value}}: set it to yes in {_CONF}"),
    Check("conf_pid", _SEAL, "`allow pid ns` in apptainer.conf", _one_of("yes", "absent"),
          f"`allow pid ns` is {{value}}: set it to yes in {_CONF}"),
    Check("conf_ipc", _SEAL, "`allow ipc ns` in apptainer.conf", _one_of("yes", "absent"),
          f"`allow ipc ns` is {{value}}: set it to yes in {_CONF}"),
    Check("conf_uts", _SEAL, "`allow uts ns` in apptainer.conf", _one_of("yes", "absent"),
          f"`allow uts ns` is {{value}}: set it to yes in {_CONF}"),
    Check("conf_user_bind", _SEAL, "`user bind control` in apptainer.conf",
          _one_of("yes", "absent"),
          f"`user bind control` is {{value}}: no input can be bound; set it to yes in {_CONF}"),
    Check("conf_layers", _SEAL, "whether overlay or underlay is enabled",
          lambda value: value != "no no",
          f"`enable overlay` and `enable underlay` are both no: set one to yes in {_CONF}"),
    Check("conf_nv", _SEAL, "`always use nv` in apptainer.conf", _not_yes,
          f"`always use nv` binds the host's devices and sockets: set it to no in {_CONF}"),
    Check("conf_rocm", _SEAL, "`always use rocm` in apptainer.conf", _not_yes,
          f"`always use rocm` binds the host's devices: set it to no in {_CONF}"),
    Check("container", _SEAL, "whether a container starts as a Process's does", _yes,
          "no container starts ({value}): run `apptainer --debug exec --userns` on the node as the "
          "service user"),
    Check("contexts_free_mib", _SEAL, "free space for contexts, in MiB", _at_least(100),
          "{value} MiB are free for contexts: make room"),
    Check("contexts_free_inodes", _SEAL, "how many files contexts may still have",
          _at_least_or_none(1000), "{value} more files fit where contexts lie: make room"),
    Check("clock_skew", _SEAL, "how far the node's clock is off, in seconds", _skew_below(60),
          "the clock is {value} s off: let NTP set it, for the times of jobs mean nothing"),
    Check("strace", _TRACE, "strace's version", _version(6, 6),
          "strace is {value}: install 6.6 or later"),
    Check("ptrace_scope", _TRACE, "Yama's ptrace_scope", _one_of("absent", "0", "1", "2"),
          "kernel.yama.ptrace_scope is {value}: set it to 1; that needs a reboot"),
    Check("seccomp", _TRACE, "what seccomp filters may do", _holds("trace"),
          "the kernel's seccomp offers {value}: strace needs `trace`"),
    Check("ptrace", _TRACE, "whether strace can trace with a seccomp filter", _yes,
          "strace cannot trace ({value}): allow ptrace among a user's own processes"),
    Check("zstd", _TRACE, "where zstd is", _path, "zstd is missing: install it"),
    Check("mksquashfs", _WARNING, "where mksquashfs is", _path,
          "mksquashfs is missing: install squashfs-tools where requirements are to be installed"),
    Check("clock_skew", _WARNING, "how far the node's clock is off, in seconds", _skew_below(5),
          "the clock is {value} s off: let NTP set it"),
    Check("apparmor_userns", _WARNING, "whether AppArmor restricts user namespaces",
          _one_of("absent", "0"),
          "kernel.apparmor_restrict_unprivileged_userns is {value}: programs without a profile "
          "lose their rights in user namespaces"),
    Check("setuid", _WARNING, "whether Apptainer can run as root", _one_of("no"),
          "Apptainer's setuid starter is installed and allowed: slurmbridge never uses it; remove "
          f"it, or set `allow setuid` to no in {_CONF}"),
    Check("conf_hostfs", _WARNING, "`mount hostfs` in apptainer.conf", _not_yes,
          "`mount hostfs` is yes: slurmbridge switches it off for its containers"),
    Check("conf_bind", _WARNING, "`bind path` in apptainer.conf",
          _only("/etc/localtime", "/etc/hosts"),
          "`bind path` names {value}: slurmbridge switches these binds off for its containers"),
    Check("conf_session_mib", _WARNING, "`sessiondir max size` in apptainer.conf",
          lambda value: value == "absent" or _at_least(64)(value),
          "`sessiondir max size` is {value}: programs have that many MiB in /dev"),
    Check("contexts_free_mib", _WARNING, "free space for contexts, in MiB", _at_least(1024),
          "only {value} MiB are free for contexts"),
    Check("tmp_free_mib", _WARNING, "free space in the node's /tmp, in MiB", _at_least(100),
          "only {value} MiB are free in the node's /tmp"),
    Check("hard_processes", _WARNING, "how many processes a job may have, by its hard limit",
          _unlimited_or(Limits().processes),
          "jobs may have {value} processes: Processes that ask for more cannot start "
          "(LimitNPROC of slurmd)"),
    Check("hard_open_files", _WARNING, "how many files a job may have open, by its hard limit",
          _unlimited_or(Limits().open_files),
          "jobs may have {value} files open: Processes that ask for more cannot start "
          "(LimitNOFILE of slurmd)"),
)  # fmt: skip
DERIVED = frozenset({"clock_skew", "conf_layers", "setuid"})


def read_report(text: str) -> dict[str, str]:
    """The lines of a report. Keys that are not known, and what is no line, are passed over."""
    known = {check.key for check in CHECKS} - DERIVED | {"complete"}
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value.strip() for key, separator, value in pairs if separator and key in known}


def judge(node: str, text: str, *, asked_at: datetime, read_at: datetime) -> NodeReadiness:
    """What a report says of a node. What is not known cannot be relied on.

    The report was written between `asked_at` and `read_at`, by the bridge's clock.
    """
    facts = read_report(text)
    facts |= _derived(facts, asked_at, read_at)
    found = {concern: _failures(concern, facts) for concern in Concern}
    problems = list(found[_SEAL])
    if facts.pop("complete", None) != "yes":
        problems.insert(0, "the report is not complete: see the job's log")
    if facts.get("node", node) != node:
        problems.insert(0, f"the report is of the node {facts['node']}")
    return NodeReadiness(
        node=node,
        observed_at=read_at,
        can_seal=not problems,
        can_trace=not problems and not found[_TRACE],
        problems=tuple(problems),
        trace_problems=tuple(found[_TRACE]),
        warnings=(*found[_WARNING], *found[_FACT]),
        facts=facts,
    )


def _failures(concern: Concern, facts: Mapping[str, str]) -> list[str]:
    found = []
    for check in CHECKS:
        if check.concern is not concern:
            continue
        value = facts.get(check.key)
        if value is None:
            found.append(f"not known: {check.means} (the report has no line {check.key!r})")
        elif not check.fine(value):
            found.append(check.wrong.format(value=value.removeprefix("no: ") or "missing"))
    return found


def _derived(facts: Mapping[str, str], asked_at: datetime, read_at: datetime) -> dict[str, str]:
    found = {}
    if (clock := facts.get("clock", "")).isdecimal() and len(clock) < 12:
        wrote_at = datetime.fromtimestamp(int(clock), UTC)
        early, late = (asked_at - wrote_at).total_seconds(), (wrote_at - read_at).total_seconds()
        # The report counts whole seconds.
        found["clock_skew"] = f"{max(early - 1, late, 0.0):.0f}"
    if "conf_overlay" in facts and "conf_underlay" in facts:
        found["conf_layers"] = f"{facts['conf_overlay']} {facts['conf_underlay']}"
    if "starter_suid" in facts and "conf_setuid" in facts:
        usable = facts["starter_suid"] == "yes" and facts["conf_setuid"] != "no"
        found["setuid"] = "yes" if usable else "no"
    return found


def unable(node: str, problem: str, *, now: datetime) -> NodeReadiness:
    """A node that could not even be examined cannot be relied on."""
    return NodeReadiness(
        node=node, observed_at=now, can_seal=False, can_trace=False, problems=(problem,)
    )


def offered(capability: ComputeCapability, nodes: Iterable[NodeReadiness]) -> ComputeCapability:
    """The capability with what its nodes can do, without the partitions that cannot seal."""
    known = {entry.node: entry for entry in nodes}
    names = sorted({name for entry in capability.partitions for name in entry.node_names})
    every = {name: known.get(name, NodeReadiness(node=name)) for name in names}
    partitions: list[Partition] = []
    refused: list[RefusedPartition] = []
    for entry in capability.partitions:
        within = [every[name] for name in entry.node_names]
        counted = entry.model_copy(
            update={
                "sealing_nodes": sum(node.can_seal is True for node in within),
                "tracing_nodes": sum(node.can_trace is True for node in within),
                "unexamined_nodes": sum(node.can_seal is None for node in within),
            }
        )
        if within and all(node.can_seal is False for node in within):
            reason = _none_of(within, "seal", lambda node: node.problems)
            refused.append(
                RefusedPartition(
                    name=entry.name,
                    default=entry.default,
                    node_names=entry.node_names,
                    reason=reason,
                )
            )
        else:
            partitions.append(counted)
    update = {
        "partitions": tuple(partitions),
        "refused": tuple(refused),
        "nodes": (*every.values(),),
    }
    return capability.model_copy(update=update)


def untraceable(capability: ComputeCapability, partition: Partition) -> str | None:
    """Why no node of a partition can trace; None where one can, or may."""
    within = _within(capability, partition)
    if not within or any(node.can_trace is not False for node in within):
        return None
    return _none_of(within, "trace", lambda node: node.problems or node.trace_problems)


def excluded(capability: ComputeCapability, spec: ProcessSpec) -> tuple[str, ...]:
    """The nodes that a Process's job has to avoid: they are known not to seal, or not to trace."""
    partition = capability.partition(spec.partition)
    if partition is None:
        return ()
    traced = spec.trace is not TraceLevel.OFF
    return tuple(
        node.node
        for node in _within(capability, partition)
        if node.can_seal is False or (traced and node.can_trace is False)
    )


def unready(capability: ComputeCapability, spec: ProcessSpec) -> str | None:
    """Why no node may run a Process now; None where one may."""
    for refused in capability.refused:
        if refused.name == spec.partition or (spec.partition is None and refused.default):
            return f"{refused.name} is not offered: {refused.reason}"
    partition = capability.partition(spec.partition)
    if partition is None or spec.trace is TraceLevel.OFF:
        return None
    problem = untraceable(capability, partition)
    return problem and f"a trace is not possible in {partition.name}: {problem}"


def _within(capability: ComputeCapability, partition: Partition) -> list[NodeReadiness]:
    return [node for node in capability.nodes if node.node in partition.node_names]


def _none_of(
    nodes: Collection[NodeReadiness],
    what: str,
    why: Callable[[NodeReadiness], tuple[str, ...]],
) -> str:
    first = next(iter(nodes))
    reason = next(iter(why(first)), "no reason is known")
    many = f"none of its {len(nodes)} nodes can" if len(nodes) > 1 else "its only node cannot"
    return f"{many} {what}; {first.node}: {reason}"
