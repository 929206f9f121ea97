"""Examining nodes before the eyes of a person: on a host of the bridge."""

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from slurmbridge.cli import output
from slurmbridge.cli.remote import AsJson, Cluster
from slurmbridge.cli.root import session
from slurmbridge.errors import RequestError, SchedulerUnavailable
from slurmbridge.model import ComputeCapability, NodeReadiness

if TYPE_CHECKING:
    from slurmbridge.bridge.examine import Examiner
    from slurmbridge.wiring.cluster import ClusterSite

LOOK_SECONDS = 1.0


def doctor(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="NODE", help="Only this node; may be repeated."),
    ] = None,
    cached: Annotated[
        bool, typer.Option("--cached", help="What is known, without examining anything.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="How long to wait for answers.")
    ] = 180,
    cluster: Cluster = None,
    as_json: AsJson = False,
) -> None:
    """Examine nodes by a small job on each: whether they can seal and trace, and why not.

    The exit code is 0 only if all of them have answered and can seal.
    """
    site = session(context).site().cluster(cluster)
    capability = site.known_capability() if cached else _examined(site, names or [], timeout)
    if capability is None:
        raise SchedulerUnavailable("no Runner has reported on the cluster yet")
    if not capability.nodes:
        raise SchedulerUnavailable("no Runner has reported the nodes of the cluster yet")
    if unknown := sorted(set(names or []) - {node.node for node in capability.nodes}):
        raise RequestError(f"there is no node {', '.join(unknown)}")
    nodes = [node for node in capability.nodes if not names or node.node in names]
    if as_json:
        output.document({"nodes": output.values(nodes)})
    else:
        _show(capability, nodes)
    # An answer that did not come is none, whatever an older one said.
    if not all(node.can_seal and (cached or node.remark is None) for node in nodes):
        raise typer.Exit(1)


def _examined(
    site: "ClusterSite", names: Sequence[str], timeout: float
) -> ComputeCapability | None:
    # What a Runner would write to its log stands in the table.
    logging.getLogger("slurmbridge.bridge.examine").addHandler(logging.NullHandler())
    scheduler = site.scheduler()
    try:
        examiner = site.examiner(scheduler, look_seconds=LOOK_SECONDS)
        _examine(examiner, names, timeout)
        return site.known_capability(examiner.cluster()[0])
    finally:
        scheduler.close()


def _examine(examiner: "Examiner", names: Sequence[str], timeout: float) -> None:
    asked = examiner.start(names)
    output.say(f"examining {', '.join(asked)}")
    deadline = time.monotonic() + timeout
    told: dict[str, str] = {}
    waiting = set(asked)
    try:
        while waiting:
            rows = [row for row in examiner.take() if row.node in asked]
            for name in sorted(waiting - {row.node for row in rows}):
                output.say(f"{name}: done")
            waiting = {row.node for row in rows}
            for row in rows:
                said = examiner.stage(row)
                if told.get(row.node, "") != said:
                    told[row.node] = said
                    output.say(f"{row.node}: {said}")
            if time.monotonic() >= deadline:
                return
            time.sleep(LOOK_SECONDS / 2 if waiting else 0)
    finally:
        examiner.give_up(waiting)


def _show(capability: ComputeCapability, nodes: Sequence[NodeReadiness]) -> None:
    output.table(
        ("NODE", "PARTITIONS", "SEAL", "TRACE", "EXAMINED", "WHY NOT"),
        (
            (
                node.node,
                ",".join(_partitions(capability, node.node)),
                _word(node.can_seal),
                _word(node.can_trace),
                node.observed_at and node.observed_at.isoformat(" ", "seconds"),
                "; ".join(filter(None, (*node.problems, *node.trace_problems, node.remark))),
            )
            for node in nodes
        ),
    )
    for node in nodes:
        for warning in node.warnings:
            typer.echo(f"{node.node}: warning: {output.plain(warning)}")


def _partitions(capability: ComputeCapability, node: str) -> list[str]:
    found = [entry.name for entry in capability.partitions if node in entry.node_names]
    found += [entry.name for entry in capability.refused if node in entry.node_names]
    return sorted(found)


def _word(able: bool | None) -> str:
    return "not examined" if able is None else "yes" if able else "no"
