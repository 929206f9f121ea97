"""What a site's rules, and a Process's own, say of the reports of its streams. Pure.

The Process's rules are asked beside the site's, and the worst answer counts: they can only make a
verdict worse. Beside all rules stands the record itself: where it is missing or not whole, no
verdict says pass.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from importlib.resources import files as package_files
from ipaddress import IPv4Network
from typing import NamedTuple

from slurmbridge.rules import AnyRule, Outcome, TraceRules, parse_rules
from slurmbridge.trace.case import Source
from slurmbridge.trace.checks import CHECKS, Recorded
from slurmbridge.trace.record import of_record
from slurmbridge.trace.report import Finding, StreamReport, Verdict

_WORST = tuple(Outcome)


class SiteRules(NamedTuple):
    """A site's rules, and the SHA-256 of the file that holds them."""

    rules: TraceRules
    sha256: str


def default_rules() -> SiteRules:
    """The rules of a site that has no file of its own."""
    text = (package_files("slurmbridge.trace") / "default-rules.toml").read_bytes()
    return SiteRules(parse_rules(text), sha256(text).hexdigest())


def judge(
    streams: Sequence[StreamReport],
    site: SiteRules,
    process: TraceRules | None = None,
    *,
    network: IPv4Network | None = None,
) -> Verdict:
    """The worst of what the record, the site's rules and the Process's own rules say.

    `network` is the one between the Process's own pods, which is no way out of them.
    """
    own = () if process is None else process.rules
    recorded = Recorded(streams, network)
    findings = tuple(
        finding
        for finding in (
            *of_record(streams),
            *_asked(recorded, "site", site.rules.rules),
            *_asked(recorded, "process", own),
        )
        if finding is not None
    )
    worst = max((_WORST.index(finding.outcome) for finding in findings), default=0)
    return Verdict(
        outcome=_WORST[worst],
        findings=findings,
        rules=len(site.rules.rules) + len(own),
        rules_sha256=site.sha256,
    )


def _asked(
    recorded: Recorded, source: Source, rules: Iterable[AnyRule]
) -> Iterator[Finding | None]:
    for rule in rules:
        for case in CHECKS[type(rule)](rule, recorded):
            yield case.finding(rule.name, source, rule.then)
