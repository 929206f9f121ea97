"""Specifications: the same everywhere, and nothing taken that cannot be meant."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.errors import InvalidProcess
from slurmbridge.rules import parse_rules
from slurmbridge.spec import ProcessSpec, parse_spec

MINIMAL = {"image": "python", "command": ["true"]}


def refused(**changes: Any) -> str:
    with pytest.raises(InvalidProcess) as caught:
        parse_spec({**MINIMAL, **changes})
    return str(caught.value)


def test_toml_json_and_python_give_the_same_specification() -> None:
    toml = 'image = "python"\ncommand = ["a", "b c"]\n[resources]\nmemory_mib = 64\n'
    data = {"image": "python", "command": ["a", "b c"], "resources": {"memory_mib": 64}}
    assert parse_spec(toml, form="toml") == parse_spec(json.dumps(data)) == parse_spec(data)


@pytest.mark.parametrize(
    "path",
    [
        "with space", "quo'te", 'dou"ble', "new\nline", "-rf", "a/-b", "../up", "a/../b", "/abs",
        "a//b", "a,b", "a:b", "back\\slash", "semi;colon", "do$lar", "nul\0", "\udcff", "a/", ".",
        "", "x" * 256, "tab\there", "st*r",
    ],
)  # fmt: skip
def test_a_path_that_is_not_plain_is_refused_with_one_reason(path: str) -> None:
    message = refused(inputs=[{"source": f"data:{path}"}])
    assert message.startswith(("inputs.0.source: ", "the specification is not valid UTF-8"))


@pytest.mark.parametrize("path", ["a", "a/b.csv", "ümlaut/ß", "v1.2_x+y@z=1", ".hidden"])
def test_plain_paths_are_taken(path: str) -> None:
    assert parse_spec({**MINIMAL, "inputs": [{"source": f"data:{path}"}]}).inputs[0].source


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"memory_mib": 0}, "memory_mib"),
        ({"memory_mib": -1}, "memory_mib"),
        ({"memory_mib": 10**12}, "memory_mib"),
        ({"memory_mib": 1.5}, "memory_mib"),
        ({"memory_mib": "512"}, "memory_mib"),
        ({"memory_mib": True}, "memory_mib"),
        ({"cpus_per_task": 0}, "cpus_per_task"),
        ({"nodes": 2}, "nodes"),
        ({"gpus": 1}, "gpus"),
        *(
            ({"gres": text}, "gres")
            for text in (
                "",
                "gpu:",
                "gpu:0",
                "GPU:1",
                "gpu:a:b:1",
                "gpu:1,",
                "gpu:1\n",
                "gpu=1",
                "gpu:1,gpu:2",
                "gpu:a b:1",
                "gpu:1 --wrap=id",
                "none:-1",
                1,
            )
        ),
    ],
)
def test_resources_that_cannot_be_meant_are_refused(resources: Any, field: str) -> None:
    assert refused(resources=resources).startswith(f"resources.{field}: ")


@pytest.mark.parametrize(
    "gres", ["gpu", "gpu:2", "gpu:a100", "gpu:a100:2", "gpu:1g.5gb:1", "gpu:a:1,gpu:b:1,shard:4"]
)
def test_generic_resources_are_said_in_slurm_s_words(gres: str) -> None:
    assert parse_spec({**MINIMAL, "resources": {"gres": gres}}).resources.gres == gres


def test_only_ranks_are_bound() -> None:
    assert "bind is for the ranks of mpi" in refused(
        parallel={"kind": "spark", "nodes": 2, "bind": True}
    )


@pytest.mark.parametrize("minutes", [0, -1, 10**9])
def test_a_time_limit_out_of_range_is_refused(minutes: int) -> None:
    assert refused(time_limit_minutes=minutes).startswith("time_limit_minutes: ")


@pytest.mark.parametrize(
    ("warn", "said"),
    [
        ({"seconds": 120}, "warn.seconds is not less than the time limit"),
        ({"seconds": 0}, "warn.seconds: "),
        ({"seconds": 10, "signal": "TERM"}, "warn.signal: "),
        ({"signal": "USR1"}, "warn.seconds: is missing"),
    ],
)
def test_a_warning_that_cannot_be_sent_is_refused(warn: Any, said: str) -> None:
    assert said in refused(warn=warn, time_limit_minutes=2)


SANE = {"image": "python", "contract": "sane", "code": {"source": "code:project"}}


def test_the_contract_sane_makes_the_command() -> None:
    command = ("python3", "script.py", "-i", "/input", "-o", "/output", "-t", "/tmp")
    made = parse_spec(SANE)
    assert made.command == command
    # As it is stored, it is read again.
    assert parse_spec(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"command": ["python3", "other.py"]}, "the contract sane makes the command"),
        ({"code": None}, "the contract sane needs code"),
        ({"contract": "other"}, "contract: "),
        ({"contract": "plain"}, "command: is missing"),
    ],
)
def test_a_contract_that_is_not_kept_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidProcess, match=said):
        parse_spec(SANE | change)


def test_an_unknown_field_is_named() -> None:
    assert refused(walltime=3) == "walltime: is not a field of a specification"


@pytest.mark.parametrize(
    "name",
    ["SLURM_JOB_ID", "APPTAINER_BIND", "SINGULARITY_X", "LD_PRELOAD", "PATH", "a-b", "1X", ""],
)
def test_variables_of_the_platform_cannot_be_declared(name: str) -> None:
    assert "environment" in refused(environment={name: "x"})


@pytest.mark.parametrize("command", [[], [""], ["a\0b"], ["x" * 131_072], "true"])
def test_a_command_that_no_program_can_be_given_is_refused(command: Any) -> None:
    assert "command" in refused(command=command)


@pytest.mark.parametrize(
    ("first", "second"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a", "a/b/c")]
)
def test_two_inputs_cannot_lie_in_one_place(first: str, second: str) -> None:
    inputs = [{"source": "data:x", "target": first}, {"source": "data:y", "target": second}]
    beside = [{"source": "data:z", "target": "a.b"}]
    assert "two inputs would lie" in refused(inputs=inputs + beside)


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "1", '"x"', "[" * 10_000, b"\xff\xfe"])
def test_what_is_no_document_is_refused_in_one_sentence(text: Any) -> None:
    with pytest.raises(InvalidProcess):
        parse_spec(text)


def test_a_toml_value_that_json_does_not_know_is_refused() -> None:
    with pytest.raises(InvalidProcess):
        parse_spec('image = "python"\ncommand = ["a"]\nlabels = {day = 2026-01-01}', form="toml")


arguments = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.lists(arguments, min_size=1).filter(lambda words: words[0] != ""))
def test_every_command_that_is_taken_keeps_every_character(command: list[str]) -> None:
    spec = parse_spec({**MINIMAL, "command": command})
    assert list(spec.command) == command
    assert ProcessSpec.model_validate_json(spec.model_dump_json()) == spec


def test_rules_in_a_specification_are_read_as_in_a_file() -> None:
    rule = {"name": "n", "kind": "network", "then": "fail", "uses": ["connect"]}
    wanted = {"image": "python", "command": ["true"], "trace_rules": {"rules": [rule]}}
    read = parse_spec(wanted)
    assert read.trace_rules == parse_rules(
        '[[rules]]\nname = "n"\nkind = "network"\nthen = "fail"\nuses = ["connect"]\n'
    )
    assert parse_spec(read.model_dump_json()) == read
    with pytest.raises(InvalidProcess, match=r"trace_rules\.rules\.0"):
        parse_spec({**wanted, "trace_rules": {"rules": [{**rule, "families": ["AF_MOON"]}]}})
