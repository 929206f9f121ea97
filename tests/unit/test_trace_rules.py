"""Rules as they stand in TOML: what is taken, what is refused, and in which words."""

import json
import re
import tomllib
import typing
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from slurmbridge.errors import ConfigurationError, InvalidProcess
from slurmbridge.rules import (
    BYTES_LIMIT,
    RULES_LIMIT,
    UNUSUAL_CALLS,
    AnyRule,
    Place,
    Rule,
    TraceRules,
    parse_rules,
)
from slurmbridge.spec import ProcessSpec, parse_spec
from slurmbridge.trace.amounts import AMOUNTS
from slurmbridge.trace.calls import unusual
from slurmbridge.trace.checks import CHECKS
from slurmbridge.trace.judge import default_rules
from slurmbridge.trace.readers import READERS
from slurmbridge.trace.record import RECORD
from slurmbridge.trace.report import Doubt

PAGE = (Path(__file__).parents[2] / "docs/trace-rules.md").read_text()
KINDS: tuple[type[Rule], ...] = typing.get_args(typing.get_args(AnyRule)[0])
# A rule of each kind, as it stands in TOML.
GOOD: dict[str, dict[str, Any]] = {
    "network": {"uses": ["connect"], "families": ["AF_UNIX"], "loopback": True},
    "execution": {"places": ["image"], "forbidden": ["su"]},
    "files": {"acts": ["read"], "places": ["code"], "below": ["/input/a.csv"], "tries": "all"},
    "count": {"of": "output files", "at_most": 3},
    "calls": {"lists": ["unusual", "refused"], "allowed": ["clone3"]},
    "signals": {"way": "sent", "signals": ["SIGKILL", "0"], "to": ["all"], "errors": ["ESRCH"]},
    "end": {"codes": [0], "killed": 1, "left": 0, "orphans": 0},
    "set-user-id": {"bits": ["set-user-id"]},
    "record": {"doubts": ["left out"]},
}


def in_toml(rules: dict[str, Any]) -> str:
    """A set of rules as text; what TOML has no word for is left out."""
    lines = [f"version = {rules['version']}"]
    for rule in rules["rules"]:
        lines.append("[[rules]]")
        given_fields = ((key, value) for key, value in rule.items() if value is not None)
        lines += [f"{key} = {json.dumps(value)}" for key, value in given_fields]
    return "\n".join(lines)


def rule(kind: str, **fields: Any) -> dict[str, Any]:
    whole = {"name": "r", "kind": kind, "then": "fail", **GOOD.get(kind, {}), **fields}
    return {key: value for key, value in whole.items() if value is not None}


def parsed(*rules: dict[str, Any]) -> TraceRules:
    return parse_rules(in_toml({"version": 1, "rules": rules}))


@pytest.mark.parametrize("kind", GOOD)
def test_every_kind_is_read(kind: str) -> None:
    (found,) = parsed(rule(kind)).rules
    assert (found.kind, found.name, found.then) == (kind, "r", "fail")


def test_every_kind_is_tried_here_and_has_somebody_who_judges_it() -> None:
    assert set(GOOD) == {typing.get_args(kind.model_fields["kind"].annotation)[0] for kind in KINDS}
    assert set(CHECKS) == set(KINDS)
    assert set(AMOUNTS) == set(type(next(iter(AMOUNTS))))
    assert set(RECORD) == set(Doubt)


def test_the_unusual_calls_are_those_that_are_read_as_such() -> None:
    read = {name.decode() for name, reader in READERS.items() if reader is unusual}
    assert read == UNUSUAL_CALLS


def test_no_rules_are_rules() -> None:
    assert parse_rules("") == parse_rules(b"version = 1\nrules = []") == TraceRules()


BAD = [
    (rule("network", uses=[]), "uses: is empty"),
    (rule("network", families=["AF_LOCAL"]), "families.0: input should be 'AF_UNIX'"),
    (rule("network", uses=["listen"]), "can never be broken"),
    (rule("execution", places=None, forbidden=None), "can never be broken"),
    (rule("execution", places=list(Place), forbidden=None), "can never be broken"),
    (rule("execution", places=[]), "places: is empty"),
    (rule("execution", forbidden=["/bin/su"]), "forbidden.0"),
    (rule("files", places=list(Place)), "can never be broken"),
    (rule("files", below=["/"]), "can never be broken"),
    (rule("files", below=["/*/*"]), "can never be broken"),
    (rule("files", below=["/a*"]), "a star within a part"),
    (rule("files", below=["input"]), "is not an absolute path"),
    (rule("files", below=["/input/../etc"]), "that is '/etc'"),
    (rule("files", below=["//input"]), "that is '/input'"),
    (rule("files", below=["/" + "é" * 250]), "longer than 500 bytes"),
    (rule("files", acts=["read", "read"]), "'read' stands twice"),
    (rule("files", acts=["read"] * 257), "acts: "),
    (rule("count", of="processes", at_most=0), "allow at least 1"),
    (rule("count", at_most=-1), "at_most: input should be greater"),
    (rule("count", at_most=1.5), "at_most: input should be a valid integer"),
    (rule("count", of="elephants"), "of: input should be 'output files'"),
    (rule("calls", names=["ptrace"]), "contradict each other"),
    (rule("calls", lists=["unusual"], names=["openat"], allowed=None), "openat is never in"),
    (rule("calls", lists=["refused"], names=["ptrace"], allowed=None), "ptrace is always in"),
    (rule("calls", lists=["unusual"], allowed=sorted(UNUSUAL_CALLS)), "can never be broken"),
    (rule("signals", way="arrived"), "it was not sent"),
    (rule("signals", way="arrived", to=None, errors=None), "signal 0 never arrives"),
    (rule("signals", signals=["KILL"]), "signals.0"),
    (rule("end", codes=None, killed=None, left=None, orphans=None), "can never be broken"),
    (rule("end", codes=[256]), "codes.0"),
    (rule("set-user-id", bits=["sticky"]), "bits.0"),
    (rule("record", doubts=["none"]), "doubts.0"),
    (rule("network", then="pass"), "then: what breaks a rule is not passed"),
    (rule("network", more=1), "more: is not a field of it"),
    (rule("network", name=None), "name: is missing"),
    (rule("network", name="a\nb"), "name: string should match"),
    (rule("network", name="x" * 65), "name: string should match"),
    (rule("weather"), "rule 1 'r': input tag 'weather'"),
    ({"name": "r"}, "rule 1 'r': its kind is missing"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_a_rule_that_is_wrong_is_refused_with_its_number(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        parsed(wrong)
    assert str(caught.value).startswith("the trace rules: rule 1")
    assert str(caught.value).isprintable()
    with pytest.raises(InvalidProcess, match=r"trace_rules\.rules"):
        parse_spec(
            {"image": "python", "command": ["true"], "trace_rules": {"rules": [wrong]}},
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version = 2", "version: "),
        ("rule = 1", "rule: is not a field"),
        ("rules = 1", "rules: "),
        ("rules = [1]", "rule 1: "),
        ("rules = [", "not readable TOML"),
        ("rules = [{kind = 1979-05-27}]", "not readable TOML"),
        ("version = nan", "not readable TOML"),
        (b"\xff", "not valid UTF-8"),
        ("#" * (BYTES_LIMIT + 1), "longer than"),
        ("a = " + "[" * 5000, "nested too deeply"),
        (in_toml({"version": 1, "rules": [rule("count"), rule("end")]}), "'r' stands twice"),
        (
            in_toml({"version": 1, "rules": [rule("end", name=f"r{i}") for i in range(201)]}),
            f"at most {RULES_LIMIT}",
        ),
    ],
)
def test_text_that_is_no_rules_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        parse_rules(text)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parsed(rule("end", name="a", left=-1), rule("count", name="b", at_most=-1, more=1))
    told = str(caught.value)
    assert told.count("; ") == 2
    assert "rule 1 'a': left: " in told
    assert "rule 2 'b': more: is not a field of it" in told


def test_a_process_brings_rules_in_toml_and_in_json() -> None:
    rules = {"rules": [rule(kind, name=kind) for kind in GOOD]}
    spec = parse_spec({"image": "python", "command": ["true"], "trace_rules": rules})
    text = 'image = "python"\ncommand = ["true"]\n[trace_rules]\n' + in_toml(
        {"version": 1, **rules}
    ).replace("[[rules]]", "[[trace_rules.rules]]")
    assert parse_spec(text, form="toml") == spec
    assert ProcessSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.trace_rules == parse_rules(in_toml({"version": 1, **rules}))


def _values(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Rules of a kind with some of their fields and some of their items left out."""

    def fewer(value: Any) -> st.SearchStrategy[Any]:
        if isinstance(value, list):
            return st.lists(st.sampled_from(value), unique=True, max_size=len(value))
        return st.integers(0, 9) if type(value) is int else st.just(value)

    known = {key: fewer(value) for key, value in GOOD[kind].items()}
    return st.fixed_dictionaries({}, optional=known).map(
        lambda given: {"kind": kind, "then": "attention", **given}
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of([_values(kind) for kind in GOOD]), max_size=4))
def test_what_is_taken_can_be_had_back(rules: list[dict[str, Any]]) -> None:
    named = [{"name": f"r{number}", **rule} for number, rule in enumerate(rules)]
    try:
        found = parsed(*named)
    except ConfigurationError:
        return
    text = found.model_dump_json()
    assert TraceRules.model_validate_json(text) == found
    assert parse_rules(in_toml(json.loads(text))) == found


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ConfigurationError):
        assert isinstance(parse_rules(text), TraceRules)


def test_the_page_tells_every_kind_field_and_word() -> None:
    for kind in KINDS:
        word = typing.get_args(kind.model_fields["kind"].annotation)[0]
        section = PAGE.partition(f"\n### {word}\n")[2].partition("\n### ")[0]
        assert section, word
        for name in set(kind.model_fields) - set(Rule.model_fields) - {"kind"}:
            assert f"`{name}`" in section, f"{word}: {name}"
    for quantity in AMOUNTS:
        assert f"| {quantity} |" in PAGE
    assert all(f"`{field}`" in PAGE for field in Rule.model_fields)
    assert all(f"| {doubt} | {outcome} |" in PAGE for doubt, outcome in RECORD.items())


def test_every_rule_in_the_page_is_one() -> None:
    examples = re.findall(r"^```toml\n(.*?)^```", PAGE, re.M | re.S)
    assert len(examples) > len(KINDS)
    for text in examples:
        if "trace_rules" in text:
            assert parse_spec(text, form="toml").trace_rules is not None
        else:
            assert parse_rules(text).rules


def test_the_page_tells_every_default() -> None:
    for default in default_rules().rules.rules:
        assert f"| {default.name} | {default.then} |" in PAGE


def test_the_default_rules_are_sound_and_their_digest_is_the_files() -> None:
    site = default_rules()
    assert len(site.rules.rules) == len({rule.name for rule in site.rules.rules}) > 10
    assert re.fullmatch(r"[0-9a-f]{64}", site.sha256)


def test_rules_are_values() -> None:
    assert issubclass(TraceRules, BaseModel)
    assert hash(default_rules().rules) == hash(default_rules().rules)
    assert tomllib.loads(in_toml(json.loads(default_rules().rules.model_dump_json())))
