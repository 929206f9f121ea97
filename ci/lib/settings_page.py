"""The table of keys in docs/configuration.md, from slurmbridge/settings.py."""

import sys
from ipaddress import IPv4Network
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from slurmbridge.settings import Settings
from slurmbridge.stores.settings import FolderSettings

PAGE = Path(__file__).resolve().parents[2] / "docs/configuration.md"
BEGIN, END = "<!-- keys: written by ci/settings-page -->\n", "<!-- end of keys -->\n"

MEANING = {
    "database": "URL of the database, as SQLAlchemy writes it.",
    "contexts": "Folder for Compute Contexts. Bridge and nodes see it under the same path.",
    "images": "Folder for image files. Bridge and nodes see it under the same path.",
    "templates": "Folder with the sbatch templates; without it, those that came with the package.",
    "definitions": "Folder with image definitions; without it, those that came with the package.",
    "mirror": "Debian mirror for image builds; without it, the one that the build host's apt uses.",
    "index": "Index of Python packages for image builds; without it, PyPI.",
    "default_destination": "`store:path` for Processes that name no `outputs`. "
    "Without it they have to.",
    "trace_minimum": "The least that is recorded of a Process. One that asks for less is refused.",
    "trace_rules": "File with the rules that traced Processes are judged by "
    "([trace-rules.md](trace-rules.md)); without it, those that came with the package.",
    "signing_key": "Ed25519 key in PEM, mode 600, with which a Runner signs attestations "
    "([sealing.md](sealing.md#the-attestation)). Made at its first start.",
    "stores.NAME.kind": "`folder`; of `webdav`, `s3` and `sftp`, with their own keys, "
    "[stores.md](stores.md) tells.",
    "stores.NAME.folder": "The store's folder. Only the bridge needs it, not the nodes.",
    "stores.NAME.timeout_seconds": "Of a store that is no folder: for each answer, and each part "
    "of a long transfer.",
    "stores.NAME.parallel": "Of a store that is no folder: how many files at a time.",
    "stores.NAME.read": "Whether `inputs` and `code` may name it.",
    "stores.NAME.write": "Whether `outputs` may name it.",
    "api.host": "Address that the API listens on.",
    "api.port": "Port that the API listens on.",
    "code.approved": "File with the SHA-256 of approved code, one a line; then nothing else runs "
    "([specification.md](specification.md#approved-code)).",
    "review.store": "Store, a folder of the bridge's hosts, in which outputs wait for somebody who "
    "lets them out ([outputs.md](outputs.md#review)). Without it none do.",
    "review.accounts": "Whose outputs wait there, by Slurm account; without it, everybody's.",
    "mirrors.NAME.url": "Place of Git repositories (https, ssh or file) that `code.source` may "
    "name, with `code.commit` ([specification.md](specification.md#commits)).",
    "retention.failed_hours": "How long the context of a Process is kept that did not end COMPLETE "
    "or CANCELED, with all that it was given; 0: it is destroyed at the end, as all others are.",
    "retention.orphan_hours": "After how long a context is destroyed for which there is neither a "
    "Process in the database nor a job in Slurm; 0: never.",
    "cache.size_mib": "How much of the file system of a cluster's contexts the cache of inputs may "
    "take ([Inputs that many need](stores.md#inputs-that-many-need)); 0: there is none.",
    "cache.least_mib": "From which size on a file is kept in the cache.",
    "cache.unused_hours": "After how long a file leaves the cache that nobody needs.",
    "slurm.transport": "How Slurm is reached. `auto`: pyslurm where it can be imported, else the "
    "commands.",
    "slurm.calls_per_second": "How many calls to slurmctld are made on average; half of what "
    "Slurm's own limit (`rl_enable`) leaves a user, where that is less. Submissions above it wait.",
    "slurm.calls_at_once": "How many calls can be made at once after a pause.",
    "default_cluster": "The cluster that is meant when a Process names none. Without it, several "
    "clusters have to be named.",
    "clusters.NAME.images": "Where the nodes of the cluster find images and helpers; none: in the "
    'top\'s `images`. With `files = "sftp"` they are copied there. `contexts`, `templates` and '
    "`slurm.*` stand below `clusters.NAME`, too, with the meanings above.",
    "clusters.NAME.files": "How contexts are reached: a folder of this host, or over ssh. Without "
    "it: over ssh where `slurm.transport` is `ssh`.",
    "clusters.NAME.accounts": "Whose Processes it runs, by Slurm account; without it, everybody's. "
    "A Process that names no cluster goes to the one that is for its account "
    "([isolation.md](isolation.md)).",
    "clusters.NAME.ssh.host": "The login node ([ssh.md](ssh.md)).",
    "clusters.NAME.ssh.port": "Its port.",
    "clusters.NAME.ssh.user": "As whom to log in; none: the user who runs slurmbridge.",
    "clusters.NAME.ssh.known_hosts": "The host keys that are trusted. Nothing is ever added to it.",
    "clusters.NAME.ssh.key": "A private key without a passphrase.",
    "clusters.NAME.ssh.certificate": "What an authority has signed for that key.",
    "clusters.NAME.ssh.agent": "Whether the agent at SSH_AUTH_SOCK is asked.",
    "clusters.NAME.ssh.jumps": "The hosts on the way, in order, each with the keys `host` to "
    "`agent`.",
    "clusters.NAME.ssh.connect_seconds": "For connecting and logging in, with all jumps.",
    "clusters.NAME.ssh.keepalive_seconds": "After so long a silence the host is asked for a "
    "sign of life.",
    "clusters.NAME.ssh.channels": "How many commands and transfers at a time. sshd's "
    "MaxSessions is 10 unless it is changed.",
    "spool": "Where what lies on another host is put for reading it here, such as traces.",
    "slurm.timeout_seconds": "Deadline of each call to Slurm.",
    "slurm.poll_seconds": "How often the queue is looked at: one query for all Processes.",
    "slurm.capability_seconds": "How often partitions, limits and accounts are asked for.",
    "slurm.absence_seconds": "How long a job must be absent from controller and accounting to "
    "count as lost, or as never submitted. At least `slurm.timeout_seconds` and twice Slurm's "
    "MessageTimeout.",
    "slurm.private_network": "The addresses in the private network that the cluster's nodes make "
    "for each job of several nodes, as `10.99.0.0/16` ([network.md](network.md)). None: they make "
    "none.",
    "slurm.in_progress.cluster": "How many Processes may be in progress on the cluster at a time: "
    "taken by a Runner, and not collected yet. Others wait.",
    "slurm.in_progress.account": "The same for each account.",
    "slurm.in_progress.partition": "The same for each partition.",
    "runner.idle_seconds": "Pause of a Runner that found nothing to do.",
    "runner.batch": "How many Processes a Runner takes at once.",
    "runner.moves": "Of how many Processes a Runner moves files in at a time, and of how many out.",
    "runner.lease_seconds": "After this time at the latest, others go on with the work of a Runner "
    "that is dead. It beats five times in it; one that was not heard of for four beats of another "
    "is dead.",
    "runner.retry_seconds": "Pause before something that failed is tried again.",
    "limits.input_mib": "How much code and inputs of one Process may hold.",
    "limits.output_mib": "How much `/output` of one Process may hold.",
    "outputs.allow": "Which files below `/output` are let out, by names such as `*.csv` or "
    "`figures/**/*.png`; without it, all ([outputs.md](outputs.md)).",
    "outputs.accounts.NAME.allow": "The same for Processes of an account, in place of "
    "`outputs.allow`.",
    "limits.output_place": "Where `/output` lies while the program runs: in the job's `memory`, "
    "where its size cannot be passed, or in the `context`, where it is weighed every ten seconds "
    "([outputs.md](outputs.md)).",
    "limits.trace_mib": "How long the trace of a Process may be, as text; it is compressed. "
    "Reading it takes a few minutes at the default.",
    "limits.output_files": "How many files, and as many folders, `/output` of a Process may hold.",
    "limits.log_file_mib": "How much `stdout.txt` and `stderr.txt` may hold, each. What is printed "
    "beyond that is dropped, and the job log says how much it was.",
    "limits.log_kib": "How much of each log stream is kept in the database, for the API.",
    "doctor.every_hours": "How often each node is examined ([doctor.md](doctor.md)). 0: only by "
    "`slurmbridge doctor`.",
    "doctor.retry_minutes": "Pause before a node is examined again that cannot seal or trace, or "
    "gave no report.",
    "doctor.answer_minutes": "After how long it is said of a node that its examination gives no "
    "answer.",
    "requirements.folder": "Where requirements are installed, on the cluster "
    "([requirements.md](requirements.md)); none: `requirements` in its `images`. This key and the "
    "next two may stand below `clusters.NAME.requirements`, too.",
    "requirements.account": "The account of the jobs that install; none: Slurm's default.",
    "requirements.partition": "Their partition; none: the default one.",
    "requirements.sources.NAME.url": "An index that requirements may come from.",
    "requirements.sources.NAME.folder": "Or a folder of wheels, on the nodes.",
    "requirements.sources.NAME.certificates": "Of an index: CA certificates, on the nodes; none: "
    "those of the image's pip.",
    "requirements.sources.NAME.proxy": "Of an index: the proxy that leads to it.",
    "requirements.sources.NAME.sources_built": "Whether what has no wheel is built from its "
    "source. Then a stranger's program runs, with the node's network.",
    "requirements.default_source": "The source that is meant when a Process names none. Without "
    "it, several sources have to be named.",
    "requirements.size_mib": "How much an installation may hold, with downloads. It lies in "
    "memory.",
    "requirements.files": "How many files it may hold.",
    "requirements.minutes": "How long it may take.",
    "requirements.cpus": "How many processors its job has.",
    "requirements.failure_minutes": "How long a failure that the submitter has to mend is believed "
    "before it is tried anew.",
    "image_trust.key": "Public key, in PEM, that the signatures of images are checked with.",
    "image_trust.required": "Whether an image that was not built here needs such a signature "
    "([images.md](images.md#signatures)).",
}
FILES = frozenset(
    {
        "clusters.NAME.ssh.known_hosts",
        "clusters.NAME.ssh.key",
        "clusters.NAME.ssh.certificate",
        "image_trust.key",
        "requirements.sources.NAME.certificates",
        "signing_key",
        "trace_rules",
    }
)


def _bare(kind: Any) -> Any:
    """What it is when it is not None, without what is checked of it."""
    if get_origin(kind) in {Union, UnionType}:
        kind = next(part for part in get_args(kind) if part is not NoneType)
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def keys(model: type[BaseModel], prefix: str = "") -> list[tuple[str, FieldInfo]]:
    """Every key, tables opened; a store's name is NAME."""
    found = []
    for name, field in model.model_fields.items():
        kind = _bare(field.annotation)
        if prefix == "clusters.NAME." and name in Settings.model_fields and name != "images":
            continue  # the same as above
        if name == "stores":
            # Of the other kinds, stores.md tells.
            found += keys(FolderSettings, "stores.NAME.")
        elif get_origin(kind) is dict:
            found += keys(get_args(kind)[1], f"{prefix}{name}.NAME.")
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            found += keys(kind, f"{prefix}{name}.")
        else:
            found.append((prefix + name, field))
    return found


def type_of(key: str, field: FieldInfo) -> str:
    """In words: what may stand there."""
    if key in FILES:
        return "file"
    kind = _bare(field.annotation)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if hasattr(kind, "__members__"):
        return " or ".join(f"`{member.value}`" for member in kind)
    names = {str: "text", bool: "true or false", int: "number", float: "seconds", Path: "folder"}
    names[IPv4Network] = "network"
    limits = {
        name: getattr(limit, name)
        for limit in field.metadata
        for name in ("gt", "ge", "le")
        if hasattr(limit, name)
    }
    text = "hosts" if get_origin(kind) is tuple else names[kind]
    if ".calls_" in key:
        text = "number"
    if "gt" in limits:
        text += f", above {limits['gt']:g}"
    if "ge" in limits:
        text += f", from {limits['ge']:g}"
    return f"{text}, to {limits['le']:g}" if "le" in limits else text


def default_of(field: FieldInfo) -> str:
    """As it is written in TOML."""
    value = field.default
    if value is PydanticUndefined:
        return "**required**"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str | Path) else f"`{value}`"


def table() -> str:
    """The table, with every key and no other."""
    found = keys(Settings)
    assert {key for key, _ in found} == set(MEANING), "MEANING and Settings differ"
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{key}` | {type_of(key, field)} | {default_of(field)} | {MEANING[key]} |"
        for key, field in found
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or say whether it is up to date."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    fresh = f"{before}{BEGIN}{table()}{END}{after}"
    if sys.argv[1:] == ["--check"]:
        if fresh != page:
            print("docs/configuration.md is not up to date; run ci/settings-page", file=sys.stderr)
        return int(fresh != page)
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
