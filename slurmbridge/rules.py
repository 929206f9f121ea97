"""What a site, or a Process, demands of a traced program: rules, as they stand in TOML.

Each kind of rule is a value of its own. slurmbridge/trace/checks.py decides which were kept.
"""

import json
import tomllib
from enum import StrEnum, unique
from posixpath import normpath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from slurmbridge.errors import ConfigurationError
from slurmbridge.values import Value

RULES_LIMIT = 200
BYTES_LIMIT = 256 * 1024


@unique
class Outcome(StrEnum):
    """What a verdict says; the later, the worse."""

    PASS = "pass"  # noqa: S105 (no password)
    ATTENTION = "attention"
    FAIL = "fail"


@unique
class Place(StrEnum):
    """Whose a file is."""

    INPUT = "input"
    CODE = "code"
    REQUIREMENT = "requirement"
    IMAGE = "image"
    OUTPUT = "output"
    TEMPORARY = "temporary"
    # What ordinary programs ask the kernel: devices that hold nothing, processors, memory, their
    # own state. Without it, each program that writes to /dev/null would do the unexpected.
    SYSTEM = "system"
    UNEXPECTED = "unexpected"


@unique
class Act(StrEnum):
    """What was done with a name."""

    READ = "read"
    # Opened for writing, or its size was set.
    WRITTEN = "written"
    # Opened with O_CREAT (it may have been there), or made by mkdir, mknod, link, symlink.
    CREATED = "created"
    DELETED = "deleted"
    RENAMED = "renamed"
    # Something else was renamed to it.
    REPLACED = "replaced"
    # It got one more name.
    LINKED = "linked"
    # Its mode or owner was set.
    CHANGED = "changed"
    EXECUTED = "executed"
    # Opened with O_PATH.
    LOCATED = "located"


@unique
class Use(StrEnum):
    """How the network was used."""

    SOCKET = "socket"
    CONNECT = "connect"
    SEND = "send"
    BIND = "bind"
    LISTEN = "listen"
    ACCEPT = "accept"


@unique
class Way(StrEnum):
    """A signal of the program, or one that reached it."""

    SENT = "sent"
    ARRIVED = "arrived"


@unique
class Target(StrEnum):
    """To whom a signal was sent."""

    PROCESS = "process"
    # The first process of the container, which is not the program's.
    FIRST = "first"
    GROUP = "group"
    # kill(-1): everything that can be reached.
    ALL = "all"


@unique
class Doubt(StrEnum):
    """Why a report may not tell all."""

    NO_PROGRAM = "no program"
    UNREADABLE_LINES = "unreadable lines"
    MISSED_CALLS = "missed calls"
    # The trace reached its limit, and what came after is not in it.
    CUT = "cut"
    # What was kept of it cannot be read to its end.
    BROKEN = "broken"
    # strace itself had something to say.
    REMARKS = "remarks"
    # The trace ends before the program does.
    NOT_ENDED = "not ended"
    # It is not known how some calls ended; they are counted as done.
    UNKNOWN_RESULTS = "unknown results"
    # It is not certain who started a process.
    UNCERTAIN_PARENTS = "uncertain parents"
    # Some lists are not whole; their totals are.
    LEFT_OUT = "left out"


@unique
class Family(StrEnum):
    """A family of addresses that a rule may allow. The seal refuses all others."""

    UNIX = "AF_UNIX"
    INET = "AF_INET"
    INET6 = "AF_INET6"
    NETLINK = "AF_NETLINK"
    # Of a connection that is given up.
    UNSPEC = "AF_UNSPEC"


@unique
class Tries(StrEnum):
    """Which of the failed tries count as the act itself."""

    NONE = "none"
    # Not those that failed only because nothing was there.
    DENIED = "denied"
    ALL = "all"


@unique
class Calls(StrEnum):
    """A list of calls in the report."""

    UNUSUAL = "unusual"
    REFUSED = "refused"


@unique
class Bit(StrEnum):
    """Of a file's mode: whoever executes it becomes its owner, or a member of its group."""

    USER = "set-user-id"
    GROUP = "set-group-id"


@unique
class Quantity(StrEnum):
    """What can be counted."""

    # Names below /output that were created, or that something was renamed to.
    OUTPUT_FILES = "output files"
    # Only a full trace tells them.
    OUTPUT_BYTES = "output bytes"
    PROCESSES = "processes"
    # Programs that were executed.
    PROGRAMS = "programs"
    # Beside the first of each process.
    THREADS = "threads"
    # Of the node that took longest.
    SECONDS = "seconds"
    NETWORK_CALLS = "network calls"
    REFUSED_CALLS = "refused calls"
    UNUSUAL_CALLS = "unusual calls"
    SIGNALS_SENT = "signals sent"
    # Names in the place `unexpected` with which something was done, or tried and denied.
    UNEXPECTED_NAMES = "unexpected names"


# Calls that are told in the list `unusual`, and never in the list `refused`.
_UNUSUAL = """
io_uring_setup io_uring_enter io_uring_register seccomp ptrace unshare setns memfd_create
memfd_secret bpf mount umount2 pivot_root chroot move_mount open_tree open_tree_attr fsopen
fsconfig fsmount fspick mount_setattr sethostname setdomainname process_vm_readv
process_vm_writev process_madvise pidfd_getfd kcmp keyctl add_key request_key open_by_handle_at
name_to_handle_at perf_event_open userfaultfd fanotify_init init_module finit_module
delete_module kexec_load kexec_file_load reboot swapon swapoff acct quotactl quotactl_fd
settimeofday clock_settime syslog vhangup iopl ioperm modify_ldt uselib
"""
UNUSUAL_CALLS = frozenset(_UNUSUAL.split())
_T = TypeVar("_T")


def _once(items: tuple[_T, ...]) -> tuple[_T, ...]:
    for index, item in enumerate(items):
        if item in items[:index]:
            raise ValueError(f"{str(item)!r} stands twice")
    return items


def _no_pass(outcome: Outcome) -> Outcome:
    if outcome is Outcome.PASS:
        raise ValueError("what breaks a rule is not passed: say attention or fail")
    return outcome


def _prefix(path: str) -> str:
    try:
        long = len(path.encode()) > 500
    except UnicodeEncodeError:
        raise ValueError("is not valid UTF-8") from None
    if long:
        raise ValueError("is longer than 500 bytes")
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"{path!r} is not an absolute path")
    if not set(path) - set("/*"):
        raise ValueError(f"everything is below {path!r}: the rule can never be broken")
    if any("*" in part and part != "*" for part in path.split("/")):
        raise ValueError(f"{path!r} has a star within a part: it can only stand for a whole one")
    if normpath(path) != path or path.startswith("//"):
        raise ValueError(f"{path!r} is not in its simplest form: that is {_simplest(path)!r}")
    return path


def _simplest(path: str) -> str:
    return normpath("/" + path.lstrip("/"))


_Most = Annotated[int, Field(ge=0, le=10**15)]
_RuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]
_CallName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,63}$")]
_ErrorName = Annotated[str, StringConstraints(pattern=r"^E[A-Z0-9]{1,31}$")]
# Signal 0 asks whether a process is there.
_SignalName = Annotated[str, StringConstraints(pattern=r"^(0|SIG[A-Z0-9_]{1,28})$")]
_ProgramName = Annotated[str, StringConstraints(pattern=r"^[!-.0-~]{1,255}$")]
_ExitCode = Annotated[int, Field(ge=0, le=255)]
_Path = Annotated[str, AfterValidator(_prefix)]
_Some = Field(min_length=1, max_length=256)
_Any = Field(max_length=256)


class Rule(Value):
    """What every rule has: a name for the verdict, and what follows when it is broken."""

    name: _RuleName
    then: Annotated[Outcome, AfterValidator(_no_pass)]


class NetworkRule(Rule):
    """Which addresses may be used. A use that was tried and failed counts as well."""

    kind: Literal["network"]
    # Which uses count. One that is not here is free.
    uses: Annotated[tuple[Use, ...], _Some, AfterValidator(_once)]
    families: Annotated[tuple[Family, ...], _Any, AfterValidator(_once)] = ()
    # Whether the container's own addresses are allowed, from which nothing leaves it.
    loopback: bool = False

    @model_validator(mode="after")
    def _breakable(self) -> "NetworkRule":
        if self.uses == (Use.LISTEN,) and (self.families or self.loopback):
            raise ValueError(
                "a rule on listen alone can never be broken where an address is allowed: the record"
                " does not tell the address of a listen, only of its bind"
            )
        return self


class ExecutionRule(Rule):
    """What may be executed. A try counts, unless nothing was there (as in a search of PATH)."""

    kind: Literal["execution"]
    # None: any.
    places: Annotated[tuple[Place, ...], _Some, AfterValidator(_once)] | None = None
    # The last part of a path.
    forbidden: Annotated[tuple[_ProgramName, ...], _Any, AfterValidator(_once)] = ()

    @model_validator(mode="after")
    def _breakable(self) -> "ExecutionRule":
        if not self.forbidden and (self.places is None or set(self.places) == set(Place)):
            raise ValueError(
                "the rule can never be broken: every place is allowed, and no name is forbidden"
            )
        return self


class FilesRule(Rule):
    """Where files may be read, written and so on."""

    kind: Literal["files"]
    acts: Annotated[tuple[Act, ...], _Some, AfterValidator(_once)]
    # Allowed is what is in one of the places, or one of the paths, or below it. A star is any one
    # part of a path.
    places: Annotated[tuple[Place, ...], _Any, AfterValidator(_once)] = ()
    below: Annotated[tuple[_Path, ...], _Any, AfterValidator(_once)] = ()
    tries: Tries = Tries.NONE

    @model_validator(mode="after")
    def _breakable(self) -> "FilesRule":
        if set(self.places) == set(Place):
            raise ValueError("the rule can never be broken: every place is allowed")
        return self


class CountRule(Rule):
    """How much of something there may be."""

    kind: Literal["count"]
    of: Quantity
    at_most: _Most

    @model_validator(mode="after")
    def _keepable(self) -> "CountRule":
        if self.of in {Quantity.PROCESSES, Quantity.PROGRAMS} and self.at_most < 1:
            raise ValueError(f"the program itself counts among the {self.of}: allow at least 1")
        return self


class CallsRule(Rule):
    """Calls that ordinary programs do not make, and calls that were not permitted."""

    kind: Literal["calls"]
    lists: Annotated[tuple[Calls, ...], _Some, AfterValidator(_once)]
    # Only these; none: all.
    names: Annotated[tuple[_CallName, ...], _Any, AfterValidator(_once)] = ()
    # All but these.
    allowed: Annotated[tuple[_CallName, ...], _Any, AfterValidator(_once)] = ()

    @model_validator(mode="after")
    def _breakable(self) -> "CallsRule":
        if self.names and self.allowed:
            raise ValueError("names and allowed contradict each other: give one of them")
        given = set(self.names or self.allowed)
        if self.lists == (Calls.UNUSUAL,) and (never := given - UNUSUAL_CALLS):
            raise ValueError(f"{min(never)} is never in the list of unusual calls")
        if self.lists == (Calls.REFUSED,) and (never := given & UNUSUAL_CALLS):
            raise ValueError(f"{min(never)} is always in the list of unusual calls, never refused")
        if set(self.allowed) >= UNUSUAL_CALLS and self.lists == (Calls.UNUSUAL,):
            raise ValueError("the rule can never be broken: every unusual call is allowed")
        return self


class SignalsRule(Rule):
    """How many signals may be sent, or arrive."""

    kind: Literal["signals"]
    way: Way
    # Of each of these, none stands for any.
    signals: Annotated[tuple[_SignalName, ...], _Any, AfterValidator(_once)] = ()
    to: Annotated[tuple[Target, ...], _Any, AfterValidator(_once)] = ()
    errors: Annotated[tuple[_ErrorName, ...], _Any, AfterValidator(_once)] = ()
    at_most: _Most = 0

    @model_validator(mode="after")
    def _breakable(self) -> "SignalsRule":
        if self.way is Way.ARRIVED and (self.to or self.errors):
            raise ValueError("a signal that arrived has no `to` and no error: it was not sent")
        if self.way is Way.ARRIVED and "0" in self.signals:
            raise ValueError("signal 0 never arrives")
        return self


class EndRule(Rule):
    """How the program may end, and what may be left of it."""

    kind: Literal["end"]
    # Of the first process of each task. None: any end.
    codes: Annotated[tuple[_ExitCode, ...], _Some, AfterValidator(_once)] | None = None
    # Processes that a signal ended before the program did.
    killed: _Most | None = None
    # Processes that were still alive when the program had ended.
    left: _Most | None = None
    # Those among them whose parent had ended before the program did: daemons.
    orphans: _Most | None = None

    @model_validator(mode="after")
    def _breakable(self) -> "EndRule":
        if all(bound is None for bound in (self.codes, self.killed, self.left, self.orphans)):
            raise ValueError(
                "the rule can never be broken: give codes, killed, left or orphans, or several"
            )
        return self


class SetUserIdRule(Rule):
    """Modes that give whoever executes a file somebody else's rights. A failed try counts."""

    kind: Literal["set-user-id"]
    bits: Annotated[tuple[Bit, ...], _Some, AfterValidator(_once)]


class RecordRule(Rule):
    """Why a record may not tell all."""

    kind: Literal["record"]
    doubts: Annotated[tuple[Doubt, ...], _Some, AfterValidator(_once)]


AnyRule = Annotated[
    NetworkRule
    | ExecutionRule
    | FilesRule
    | CountRule
    | CallsRule
    | SignalsRule
    | EndRule
    | SetUserIdRule
    | RecordRule,
    Field(discriminator="kind"),
]


class TraceRules(Value):
    """A set of rules."""

    version: Literal[1] = 1
    rules: Annotated[tuple[AnyRule, ...], Field(max_length=RULES_LIMIT)] = ()

    @model_validator(mode="after")
    def _told_apart(self) -> "TraceRules":
        _once(tuple(rule.name for rule in self.rules))
        return self


def parse_rules(text: str | bytes) -> TraceRules:
    """Read the rules of a site, as TOML.

    Raises:
        ConfigurationError: with every mistake in one sentence each.
    """
    try:
        # Before it is decoded: nothing that is too large is looked at.
        if len(text) > BYTES_LIMIT:
            raise ConfigurationError(f"the trace rules are longer than {BYTES_LIMIT} bytes")
        data = tomllib.loads(text.decode() if isinstance(text, bytes) else text)
        return TraceRules.model_validate_json(json.dumps(data, allow_nan=False).encode())
    except ValidationError as error:
        sentences = [_sentence(data, detail) for detail in error.errors(include_url=False)]
        raise ConfigurationError(f"the trace rules: {'; '.join(sentences)}") from None
    except UnicodeError:
        raise ConfigurationError("the trace rules are not valid UTF-8") from None
    except RecursionError:
        raise ConfigurationError("the trace rules are nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"the trace rules are not readable TOML: {error}") from None


_MESSAGES = {
    "extra_forbidden": "is not a field of it",
    "missing": "is missing",
    "too_short": "is empty",
    "union_tag_not_found": "its kind is missing",
}


def _sentence(data: dict[str, Any], detail: Any) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    message = _MESSAGES.get(detail["type"], message)
    if message[1:2].islower():
        message = message[0].lower() + message[1:]
    match detail["loc"]:
        case ("rules", int(number), *inner):
            # Behind the number stands the kind, unless it is not known.
            where = ".".join(str(part) for part in inner[1:])
            parts = (f"rule {number + 1}{_called(data, number)}", where, message)
        case loc:
            parts = (".".join(str(part) for part in loc), "", message)
    return ": ".join(part for part in parts if part)


def _called(data: dict[str, Any], number: int) -> str:
    """The name of a rule that is wrong, where it has one that can be shown."""
    rule = data["rules"][number]
    name = rule.get("name") if isinstance(rule, dict) else None
    return f" {name[:64]!r}" if isinstance(name, str) and name.isprintable() else ""
