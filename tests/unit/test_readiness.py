"""What the lines of an examined node mean, and what is offered because of them."""

import re
from datetime import timedelta
from typing import Any

import pytest

from slurmbridge.bridge.checks import Rules, check
from slurmbridge.bridge.readiness import (
    CHECKS,
    DERIVED,
    Concern,
    excluded,
    judge,
    offered,
    read_report,
    unable,
    untraceable,
)
from slurmbridge.errors import InvalidProcess
from slurmbridge.model import ComputeCapability, NodeReadiness, Partition
from slurmbridge.script import DEFAULT_TEMPLATES, DOCTOR
from tests.support.specs import IMAGE, START, spec

# What node1 of the development cluster wrote.
GOOD = {
    "node": "node1",
    "clock": str(int(START.timestamp())),
    "machine": "x86_64",
    "kernel": "6.18.44-fc-v657",
    "user_namespaces": "96365",
    "mount_namespaces": "96365",
    "network_namespaces": "96365",
    "userns_clone": "absent",
    "apparmor_userns": "absent",
    "ptrace_scope": "absent",
    "seccomp": "kill_process kill_thread trap errno user_notif trace log allow",
    "unshare": "unshare from util-linux 2.42.4",
    "namespaces": "yes",
    "tmpfs": "yes",
    "bind": "yes",
    "network": "yes",
    "proc": "yes",
    "fuse": "yes",
    "squashfuse": "/usr/bin/squashfuse_ll",
    "images": "yes",
    "apptainer": "1.4.5",
    "starter_suid": "no",
    "container": "yes",
    "conf_user_bind": "yes",
    "conf_pid": "yes",
    "conf_ipc": "yes",
    "conf_uts": "yes",
    "conf_user": "yes",
    "conf_overlay": "yes",
    "conf_underlay": "yes",
    "conf_setuid": "yes",
    "conf_hostfs": "no",
    "conf_bind": "/etc/localtime  /etc/hosts",
    "conf_nv": "no",
    "conf_rocm": "no",
    "conf_session_mib": "64",
    "strace": "strace -- version 7.2",
    "ptrace": "yes",
    "zstd": "/usr/bin/zstd",
    "mksquashfs": "/usr/bin/mksquashfs",
    "contexts_free_mib": "76735",
    "contexts_free_inodes": "16268199",
    "tmp_free_mib": "76735",
    "hard_processes": "unlimited",
    "hard_open_files": "131072",
    "complete": "yes",
}
SECOND = timedelta(seconds=1)


def judged(without: str = "", **changes: str) -> NodeReadiness:
    lines = {key: value for key, value in (GOOD | changes).items() if key != without}
    text = "".join(f"{key}={value}\n" for key, value in lines.items())
    return judge("node1", text, asked_at=START, read_at=START + 2 * SECOND)


def test_the_good_node_can_seal_and_trace_without_a_word() -> None:
    good = judged()
    assert (good.can_seal, good.can_trace) == (True, True)
    assert (good.problems, good.trace_problems, good.warnings) == ((), (), ())
    assert good.facts["apptainer"] == "1.4.5"
    assert "complete" not in good.facts


def test_the_template_writes_each_key_of_the_table_once_and_no_other() -> None:
    text = (DEFAULT_TEMPLATES / DOCTOR).read_text().partition("examine() {")[2]
    written = re.findall(r"^ +(?:say|ask|try|kernel|conf) (\w+)", text, re.MULTILINE)
    assert sorted(written) == sorted({entry.key for entry in CHECKS} - DERIVED | {"complete"})


def test_each_check_that_can_fail_says_what_is_wrong() -> None:
    for entry in CHECKS:
        assert bool(entry.wrong) is (entry.concern is not Concern.FACT), entry.key


# A value that fails, and a word of what is said and of what to do.
FAILURES = [
    ("kernel", "3.10.0-1160.el7", "5.11 or later"),
    ("kernel", "", "5.11 or later"),
    ("user_namespaces", "0", "above 0 with sysctl"),
    ("user_namespaces", "absent", "above 0 with sysctl"),
    ("mount_namespaces", "0", "above 0"),
    ("network_namespaces", "0", "max_net_namespaces is 0"),
    ("userns_clone", "0", "set it to 1"),
    ("namespaces", "no: unshare: unshare failed: Operation not permitted (exit code 1)",
     "Operation not permitted"),
    ("tmpfs", "no: mount: permission denied. (exit code 32)", "apparmor_restrict"),
    ("bind", "no:  (exit code 1)", "SELinux"),
    ("network", "no: unshare: No space left on device (exit code 1)", "No space left"),
    ("proc", "no: unshare: mount /proc failed (exit code 1)", "below the node's /proc"),
    ("seccomp", "absent", "CONFIG_SECCOMP_FILTER"),
    ("fuse", "no: /dev/fuse: Permission denied (exit code 1)", "0666"),
    ("squashfuse", "", "install squashfuse"),
    ("images", "no:  (exit code 1)", "mount it"),
    ("apptainer", "", "install 1.4.5"),
    ("apptainer", "1.4.4", "install 1.4.5"),
    ("apptainer", "1.3.9-1.el9", "install 1.4.5"),
    ("conf_user", "no", "allow user ns"),
    ("conf_pid", "no", "allow pid ns"),
    ("conf_ipc", "no", "allow ipc ns"),
    ("conf_uts", "no", "allow uts ns"),
    ("conf_user_bind", "no", "user bind control"),
    ("conf_nv", "yes", "always use nv"),
    ("conf_rocm", "yes", "always use rocm"),
    ("container", "no: FATAL: kernel too old (exit code 255)", "kernel too old"),
    ("contexts_free_mib", "99", "make room"),
    ("contexts_free_inodes", "999", "make room"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "said"), FAILURES)
def test_what_prevents_the_seal_prevents_the_trace_and_is_said(
    key: str, value: str, said: str
) -> None:
    bad = judged(**{key: value})
    assert (bad.can_seal, bad.can_trace) == (False, False)
    assert said in bad.problems[0]
    assert len(bad.problems) == 1


def test_overlay_and_underlay_are_missed_only_together() -> None:
    assert judged(conf_overlay="no").can_seal
    assert judged(conf_underlay="no").can_seal
    assert "both no" in judged(conf_overlay="no", conf_underlay="no").problems[0]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("strace", "", "install 6.6"),
        ("strace", "strace -- version 6.1", "install 6.6"),
        ("ptrace_scope", "3", "set it to 1"),
        ("ptrace", "no: strace: attach: Operation not permitted (exit code 1)", "not permitted"),
        ("zstd", "", "install it"),
        ("seccomp", "kill_process errno allow", "`trace`"),
    ],
)
def test_what_prevents_the_trace_alone(key: str, value: str, said: str) -> None:
    bad = judged(**{key: value})
    assert (bad.can_seal, bad.can_trace, bad.problems) == (True, False, ())
    assert said in bad.trace_problems[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"apparmor_userns": "1"}, "lose their rights"),
        ({"starter_suid": "yes"}, "setuid starter"),
        ({"conf_hostfs": "yes"}, "mount hostfs"),
        ({"conf_bind": "/etc/localtime /data"}, "/data"),
        ({"conf_session_mib": "16"}, "16"),
        ({"contexts_free_mib": "1000"}, "only 1000 MiB"),
        ({"tmp_free_mib": "5"}, "only 5 MiB"),
        ({"mksquashfs": ""}, "squashfs-tools"),
        ({"hard_processes": "4095"}, "LimitNPROC"),
        ({"hard_open_files": "1024"}, "LimitNOFILE"),
    ],
)
def test_what_is_worth_a_warning(changes: dict[str, str], said: str) -> None:
    node = judged(**changes)
    assert node.can_trace
    [warning] = node.warnings
    assert said in warning


def test_a_setuid_starter_that_is_not_allowed_is_none() -> None:
    assert judged(starter_suid="yes", conf_setuid="no").warnings == ()


@pytest.mark.parametrize("value", ["1.4.5", "1.5.0", "1.4.5-1.el9", "1.10.0+ds", "2.0.0-rc.1"])
def test_versions_are_compared_by_their_numbers(value: str) -> None:
    assert judged(apptainer=value).can_seal


@pytest.mark.parametrize("key", sorted(GOOD))
def test_a_line_that_is_missing_is_never_taken_for_good(key: str) -> None:
    node = judged(without=key)
    concerns = {entry.concern for entry in CHECKS if entry.key == key}
    if Concern.SEAL in concerns or key in {"complete", "clock", "conf_overlay", "conf_underlay"}:
        assert node.can_seal is False
        assert re.search("not known|not complete", node.problems[0])
    elif Concern.TRACE in concerns:
        assert (node.can_seal, node.can_trace) == (True, False)
        assert "not known" in node.trace_problems[0]
    else:
        assert node.can_seal
        assert any("not known" in warning for warning in node.warnings)


@pytest.mark.parametrize("text", ["", "\n", "hello", "=\n", "\0\0", "complete=yes\n"])
def test_a_report_that_says_nothing_means_that_nothing_is_known(text: str) -> None:
    node = judge("node1", text, asked_at=START, read_at=START)
    assert (node.can_seal, node.can_trace) == (False, False)
    assert len(node.problems) > 10


def test_keys_that_are_not_known_are_passed_over() -> None:
    assert read_report("apptainer=1.4.5\nrm=-rf /\nclock_skew=0\n") == {"apptainer": "1.4.5"}


def test_the_report_of_another_node_is_not_this_ones() -> None:
    node = judged(node="node2")
    assert node.can_seal is False
    assert "node2" in node.problems[0]


@pytest.mark.parametrize(
    ("seconds", "can_seal", "warned"),
    [(0, True, False), (7, True, False), (8, True, True), (62, True, True), (63, False, True),
     (-6, True, False), (-7, True, True), (-61, True, True), (-62, False, True)],
)  # fmt: skip
def test_a_clock_is_off_by_how_far_it_lies_outside_of_the_examination(
    seconds: int, can_seal: bool, warned: bool
) -> None:
    # Asked at 0, read at 2, and the report counts whole seconds.
    node = judged(clock=str(int(START.timestamp()) + seconds))
    assert node.can_seal is can_seal
    assert any("the clock is" in warning for warning in node.warnings) is warned


@pytest.mark.parametrize("value", ["", "soon", "-1", "9" * 30])
def test_a_clock_that_cannot_be_read_is_not_known(value: str) -> None:
    assert judged(clock=value).can_seal is False


# --- what is offered ---


def partition(name: str, *nodes: str, default: bool = False) -> Partition:
    return Partition(
        name=name, default=default, up=True, nodes=len(nodes), cpus_per_node=4,
        memory_mib_per_node=4000, time_limit_minutes=60, node_names=nodes,
    )  # fmt: skip


def node(name: str, can_seal: bool | None, can_trace: bool | None) -> NodeReadiness:
    return NodeReadiness(
        node=name,
        can_seal=can_seal,
        can_trace=can_trace,
        problems=("no fuse",) if can_seal is False else (),
        trace_problems=("no strace",) if can_trace is False else (),
    )


CLUSTER = ComputeCapability(
    cluster="test",
    slurm_version="26.05.5",
    partitions=(
        partition("main", "n1", "n2", "n3", default=True),
        partition("third", "n3"),
        partition("old"),
    ),
    accounts=("research",),
)
RULES = Rules(frozenset(), frozenset(), has_default_destination=True)


def findings(capability: ComputeCapability, **changes: Any) -> list[tuple[str, str]]:
    try:
        check(spec(**changes), RULES, images={IMAGE.name: IMAGE}, capability=capability)
    except InvalidProcess as error:
        return list(error.fields)
    return []


def test_a_partition_says_how_many_of_its_nodes_can_what() -> None:
    seen = offered(CLUSTER, [node("n1", True, True), node("n3", True, False)])
    main, third, old = seen.partitions
    assert (main.sealing_nodes, main.tracing_nodes, main.unexamined_nodes) == (2, 1, 1)
    assert (third.sealing_nodes, third.tracing_nodes, third.unexamined_nodes) == (1, 0, 0)
    assert (old.sealing_nodes, old.unexamined_nodes) == (0, 0)
    assert [entry.node for entry in seen.nodes] == ["n1", "n2", "n3"]
    assert seen.nodes[1].can_seal is None
    assert seen.refused == ()


def test_a_partition_none_of_whose_nodes_can_seal_is_not_offered() -> None:
    seen = offered(CLUSTER, [node("n1", True, True), unable("n3", "no report", now=START)])
    assert [entry.name for entry in seen.partitions] == ["main", "old"]
    [refused] = seen.refused
    assert refused.name == "third"
    assert refused.reason == "its only node cannot seal; n3: no report"
    assert findings(seen, partition="third") == [
        ("partition", "third is not offered: its only node cannot seal; n3: no report")
    ]
    assert findings(seen) == []


def test_the_default_partition_is_refused_to_those_who_name_none() -> None:
    seen = offered(CLUSTER, [node(name, False, False) for name in ("n1", "n2", "n3")])
    reason = "none of its 3 nodes can seal; n1: no fuse"
    assert findings(seen) == [("partition", f"main is not offered: {reason}")]


def test_a_partition_with_a_node_that_was_not_examined_is_offered() -> None:
    seen = offered(CLUSTER, [node("n1", False, False), node("n3", False, False)])
    assert findings(seen) == []
    assert findings(seen, partition="third") != []


def test_a_trace_is_refused_where_no_node_can_trace() -> None:
    seen = offered(CLUSTER, [node("n3", True, False)])
    assert findings(seen, partition="third", trace="off") == []
    assert findings(seen, partition="third") == [
        ("trace", "is not possible in third: its only node cannot trace; n3: no strace")
    ]
    assert untraceable(seen, seen.partitions[0]) is None


def test_a_job_avoids_the_nodes_that_are_known_to_be_unable() -> None:
    seen = offered(CLUSTER, [node("n1", True, False), node("n3", False, False)])
    assert excluded(seen, spec()) == ("n1", "n3")
    assert excluded(seen, spec(trace="off")) == ("n3",)
    assert excluded(seen, spec(partition="nowhere")) == ()
    assert excluded(offered(CLUSTER, []), spec()) == ()


def test_a_node_that_left_the_cluster_is_neither_shown_nor_avoided() -> None:
    seen = offered(CLUSTER, [node("gone", False, False)])
    assert "gone" not in {entry.node for entry in seen.nodes}
    assert excluded(seen, spec()) == ()
