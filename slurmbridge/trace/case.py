"""What speaks against a rule: the sum, and the lines that decided."""

from dataclasses import dataclass, field
from typing import Literal

from slurmbridge.rules import Outcome
from slurmbridge.trace.report import (
    CallEntry,
    Evidence,
    Finding,
    NetworkEntry,
    SignalEntry,
    StreamReport,
)

Source = Literal["site", "process", "record"]
# Of each finding.
SHOWN = 10


@dataclass
class Case:
    """What speaks against a rule; and what might, if it could be seen."""

    # What the numbers count.
    what: str
    at_most: int = 0
    # What surely happened; what may have.
    sure: int = 0
    unknown: int = 0
    why_unknown: str = "names are not listed"
    # Why the record does not tell at all.
    untold: str = ""
    evidence: list[Evidence] = field(default_factory=list)
    not_shown: int = 0

    def against(self, stream: StreamReport, line: int, text: str, times: int = 1) -> None:
        """One thing more, with its line."""
        self.sure += times
        self.show(stream, line, text if times == 1 else f"{text} ({times} times)")

    def show(self, stream: StreamReport, line: int, text: str) -> None:
        """A line that decides, and adds nothing to the sum."""
        if len(self.evidence) < SHOWN:
            self.evidence.append(Evidence(stream=stream.name, line=line, text=text))
        else:
            self.not_shown += 1

    def unlisted(self, times: int, *, sure: bool) -> None:
        """What a list does not hold; `sure`: each of it would speak against the rule."""
        self.not_shown += times
        if sure:
            self.sure += times
        else:
            self.unknown += times

    def finding(self, rule: str, source: Source, then: Outcome) -> Finding | None:
        """The case as a finding; None when the rule was kept."""
        if self.sure > self.at_most:
            allowed = f", at most {self.at_most} allowed" if self.at_most else ""
            outcome, message = then, f"{self.what}: {self.sure}{allowed}"
        elif self.untold or self.sure + self.unknown > self.at_most:
            outcome = Outcome.ATTENTION
            why = self.untold or f"{self.unknown} {self.why_unknown}"
            message = f"{self.what}: cannot be decided: {why}"
        else:
            return None
        return Finding(
            rule=rule,
            source=source,
            outcome=outcome,
            message=message,
            evidence=tuple(self.evidence),
            left_out=self.not_shown,
        )


def contact(entry: NetworkEntry) -> str:
    """A use of the network."""
    port = "" if entry.port is None else f"port {entry.port}"
    words = (entry.use, entry.family, entry.address, port, entry.kind)
    return with_error(" ".join(word for word in words if word), entry.error)


def with_error(text: str, error: str) -> str:
    """What was done, and how it ended if it did not end well."""
    return f"{text}: {'result unknown' if error == '?' else error}" if error else text


def signal(entry: SignalEntry) -> str:
    """A signal."""
    whom = f"to {entry.to}" if entry.to else ""
    words = (f"{entry.signal} {entry.way}", whom, f"by {entry.call}" if entry.call else "")
    return with_error(" ".join(word for word in words if word), entry.error)


def call(entry: CallEntry) -> str:
    """A refused or an unusual call."""
    return with_error(f"{entry.call}({entry.arguments})", entry.error)
