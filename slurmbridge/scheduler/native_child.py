"""The child process in which pyslurm lives: one JSON line in, JSON lines out.

pyslurm's calls hold the interpreter's lock while slurmctld is silent, importing it changes the
whole process, and it is GPL-2.0: so it has a process of its own that can be ended. Started as a
file, `python native_child.py`; nothing else of this package is loaded there.
"""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

DIRECTIVE = re.compile(r"#SBATCH --([a-z-]+)(?:=(\S+))?")
# pyslurm's own reader of #SBATCH lines skips what it does not know; here that is an error.
ATTRIBUTES: dict[str, str] = {
    "job-name": "name",
    "account": "account",
    "partition": "partitions",
    "nodelist": "required_nodes",
    "exclude": "excluded_nodes",
    "nodes": "nodes",
    "ntasks": "ntasks",
    "ntasks-per-node": "ntasks_per_node",
    "cpus-per-task": "cpus_per_task",
    "mem": "memory_per_node",
    "gres": "gres_per_node",
    "time": "time_limit",
    "signal": "signal",
    "chdir": "working_directory",
    "output": "standard_output",
    "open-mode": "log_files_open_mode",
    "no-requeue": "is_requeueable",
    "export": "environment",
}
UNAVAILABLE = re.compile(r"unable to contact|timed out|communication", re.IGNORECASE)
# `--export=NIL` in sbatch's words; pyslurm's default would copy this process's environment.
JOB_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def _as_it_is(text: str) -> str:
    return text


def _time(text: str) -> str:
    """sbatch reads a plain number as minutes; pyslurm takes no plain number."""
    hours, minutes = divmod(int(text), 60)
    return f"{hours // 24}-{hours % 24}:{minutes}:0"


def _signal(text: str) -> dict[str, Any]:
    """`B:USR1@60`; pyslurm reads this form, too, but leaves the seconds a text."""
    name, _, seconds = text.removeprefix("B:").partition("@")
    number = int(signal.Signals[f"SIG{name}"])
    return {"signal": number, "time": int(seconds), "batch_only": True}


_READ: dict[str, Callable[[str], Any]] = {
    "is_requeueable": lambda _: False,
    "ntasks": int,
    "ntasks_per_node": int,
    "cpus_per_task": int,
    "time_limit": _time,
    "signal": _signal,
}


def read_directives(script: str) -> dict[str, Any]:
    """The attributes of a JobSubmitDescription that a script's #SBATCH lines stand for.

    Raises:
        ValueError: at a line that is not understood.
    """
    attributes: dict[str, Any] = {}
    for line in script.splitlines():
        if line and not line.startswith("#"):
            break  # sbatch, too, reads no directive after the first command.
        if not line.startswith("#SBATCH"):
            continue
        match = DIRECTIVE.fullmatch(line)
        if not match or match[1] not in ATTRIBUTES:
            raise ValueError(f"the directive {line!r} is not supported with pyslurm")
        attributes[ATTRIBUTES[match[1]]] = match[2]
    if attributes.pop("environment", "NIL") != "NIL":
        raise ValueError("only --export=NIL is supported with pyslurm")
    read = {name: _READ.get(name, _as_it_is)(text) for name, text in attributes.items()}
    return {**read, "environment": JOB_ENVIRONMENT}


def submit(pyslurm: Any, jobs: list[tuple[str, float]]) -> Iterable[dict[str, Any]]:
    """Submit scripts in order, one answer each, and none after the time that stands beside it.

    After one that slurmctld did not answer, none is tried.
    """
    silent = ""
    for script, not_after in jobs:
        if silent:
            yield {"skipped": silent}
            continue
        if time.monotonic() >= not_after:
            yield {"late": True}
            continue
        try:
            description = pyslurm.JobSubmitDescription(script=script, **read_directives(script))
            yield {"job_id": description.submit()}
        except pyslurm.PyslurmError as error:
            silent = str(error) if UNAVAILABLE.search(str(error)) else ""
            yield {"error": str(error)}
        except (ValueError, TypeError) as error:
            yield {"invalid": str(error)}


def report(pyslurm: Any, _jobs: object) -> Iterable[dict[str, Any]]:
    """All jobs of this user, in one line. pyslurm asks for everybody's, in one query."""
    user = os.getuid()
    yield {
        "jobs": [
            {
                "job_id": job.id,
                "job_name": job.name,
                "state": job.state,
                "reason": job.state_reason,
                "nodes": job.allocated_nodes,
                "started_at": job.start_time,
                "ended_at": job.end_time,
                "restarts": job.requeue_count,
            }
            for job in pyslurm.Jobs.load().values()
            if job.user_id == user
        ]
    }


def report_nodes(pyslurm: Any, _jobs: object) -> Iterable[dict[str, Any]]:
    """The state of every node, and the nodes of every partition, in one line."""
    yield {
        "nodes": {node.name: node.state for node in pyslurm.Nodes.load().values()},
        "partitions": {
            partition.name: pyslurm.utils.nodelist_from_range_str(partition.nodes or "")
            for partition in pyslurm.Partitions.load().values()
            if not partition.is_hidden
        },
    }


def cancel(pyslurm: Any, jobs: list[int]) -> Iterable[dict[str, Any]]:
    """Cancel each; one that has ended already is fine."""
    for job_id in jobs:
        try:
            pyslurm.Job(job_id).cancel()
            yield {}
        except pyslurm.RPCError as error:
            text = str(error)
            gone = re.search(r"already completing or completed|invalid job id", text, re.IGNORECASE)
            yield {} if gone else {"error": text}


OPERATIONS: dict[str, Callable[[Any, Any], Iterable[dict[str, Any]]]] = {
    "submit": submit,
    "jobs": report,
    "nodes": report_nodes,
    "cancel": cancel,
}


def main() -> None:
    """Answer until the input ends."""
    try:
        import pyslurm
    except (ImportError, SystemExit) as error:
        print(json.dumps({"unusable": f"pyslurm cannot be used: {error}"}), flush=True)
        return
    print(json.dumps({"ready": pyslurm.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            for answer in OPERATIONS[request["op"]](pyslurm, request.get("jobs")):
                print(json.dumps(answer), flush=True)
        except pyslurm.PyslurmError as error:
            print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    main()
