"""What a site does not have is refused before anything is done."""

from dataclasses import replace
from typing import Any

import pytest

from slurmbridge.bridge.checks import Rules, check
from slurmbridge.errors import InvalidProcess
from slurmbridge.spec import TraceLevel
from tests.support.builders import Bridge
from tests.support.specs import CAPABILITY, IMAGE, MINIMAL, spec

# --- what is refused before anything is done ---

ADDED = IMAGE.model_copy(update={"definition_sha256": None, "added_by": "carol"})
RULES = Rules(frozenset({"data"}), frozenset({"results"}), has_default_destination=True)


@pytest.mark.parametrize(
    ("changes", "field", "part"),
    [
        ({"image": "julia"}, "image", "recorded: python"),
        ({"inputs": [{"source": "data:a"}, {"source": "x:b"}]}, "inputs.1.source", "'x'"),
        ({"inputs": [{"source": "results:a"}]}, "inputs.0.source", "readable store 'results'"),
        ({"code": {"source": "x:a"}}, "code.source", "'x'"),
        ({"outputs": {"destination": "data:a"}}, "outputs.destination", "writable store 'data'"),
        ({"account": "nope"}, "account", "known: research, teaching"),
        ({"partition": "nope"}, "partition", "known: main"),
        ({"resources": {"cpus_per_task": 5}}, "resources.cpus_per_task", "(4)"),
        ({"resources": {"memory_mib": 4001}}, "resources.memory_mib", "(4000 MiB)"),
        ({"time_limit_minutes": 1441}, "time_limit_minutes", "(1440)"),
        ({"resources": {"gres": "gpu:3"}}, "resources.gres", "gpu:3 is more than a node of main"),
        ({"resources": {"gres": "gpu:b:1"}}, "resources.gres", "(known: gpu:a:2, shard:8)"),
        ({"resources": {"gres": "gpu,mic"}}, "resources.gres", "mic is more"),
    ],
)
def test_what_this_site_does_not_have_is_refused_by_name(
    changes: dict[str, Any], field: str, part: str
) -> None:
    with pytest.raises(InvalidProcess) as caught:
        check(spec(**changes), RULES, images={"python": IMAGE}, capability=CAPABILITY)
    [(location, message)] = caught.value.fields
    assert location == field
    assert part in message


def test_all_that_is_wrong_is_told_at_once() -> None:
    wanted = spec(image="julia", account="nope", time_limit_minutes=1441)
    with pytest.raises(InvalidProcess) as caught:
        check(wanted, RULES, images={}, capability=CAPABILITY)
    assert [field for field, _ in caught.value.fields] == ["image", "account", "time_limit_minutes"]


def test_without_a_default_destination_one_must_be_named() -> None:
    rules = Rules(frozenset(), frozenset({"results"}), has_default_destination=False)
    with pytest.raises(InvalidProcess, match="outputs: is required"):
        check(spec(), rules, images={"python": IMAGE}, capability=None)
    named = spec(outputs={"destination": "results:a"})
    check(named, rules, images={"python": IMAGE}, capability=None)


def test_what_is_just_within_the_limits_is_taken() -> None:
    wanted = spec(
        resources={"cpus_per_task": 4, "memory_mib": 4000},
        time_limit_minutes=1440,
        account="research",
    )
    check(wanted, RULES, images={"python": IMAGE}, capability=CAPABILITY)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("resources.output_mib: 11", {"resources": {"output_mib": 11}}),
        ("limits.output_files: 21", {"limits": {"output_files": 21}}),
        ("limits.trace_mib: 31", {"limits": {"trace_mib": 31}}),
    ],
)
def test_more_than_the_site_takes_is_refused(field: str, changes: dict[str, Any]) -> None:
    rules = replace(RULES, output_mib=10, output_files=20, trace_mib=30)
    with pytest.raises(InvalidProcess, match=f"{field} is above the limit of this site"):
        check(spec(**changes), rules, images={"python": IMAGE}, capability=CAPABILITY)


def test_before_the_first_report_on_the_cluster_slurm_is_left_to_judge() -> None:
    wanted = spec(account="nope", partition="nope", resources={"cpus_per_task": 4096})
    check(wanted, RULES, images={"python": IMAGE}, capability=None)


def test_an_image_without_the_signature_that_is_required_is_refused() -> None:
    rules = replace(RULES, signature_required=True)
    with pytest.raises(InvalidProcess, match="image: the image 'python' is not signed"):
        check(spec(), rules, images={"python": ADDED}, capability=CAPABILITY)
    check(spec(), RULES, images={"python": ADDED}, capability=CAPABILITY)
    for image in (IMAGE, ADDED.model_copy(update={"signed": True})):
        check(spec(), rules, images={"python": image}, capability=CAPABILITY)


LEVELS = ["off", "audit", "full"]


@pytest.mark.parametrize("least", LEVELS)
@pytest.mark.parametrize("asked", LEVELS)
def test_a_process_may_ask_for_more_than_the_site_requires_and_never_for_less(
    least: str, asked: str
) -> None:
    rules = replace(RULES, trace_minimum=TraceLevel(least))
    if LEVELS.index(asked) >= LEVELS.index(least):
        check(spec(trace=asked), rules, images={"python": IMAGE}, capability=None)
        return
    with pytest.raises(InvalidProcess, match=f"trace: is {asked}; this site requires {least}"):
        check(spec(trace=asked), rules, images={"python": IMAGE}, capability=None)


def test_a_trace_may_be_as_long_as_the_site_takes_and_no_longer() -> None:
    rules = replace(RULES, trace_mib=10)
    check(spec(limits={"trace_mib": 10}), rules, images={"python": IMAGE}, capability=None)
    with pytest.raises(InvalidProcess, match=r"limits\.trace_mib: 11 is above the limit"):
        check(spec(limits={"trace_mib": 11}), rules, images={"python": IMAGE}, capability=None)


def test_rules_for_a_trace_that_will_not_be_there_are_refused() -> None:
    rules: dict[str, list[object]] = {"rules": []}
    check(spec(trace_rules=rules), RULES, images={"python": IMAGE}, capability=None)
    with pytest.raises(InvalidProcess, match="trace_rules: judge a trace, and trace is off"):
        check(
            spec(trace="off", trace_rules=rules), RULES, images={"python": IMAGE}, capability=None
        )


def test_tasks_and_their_cpus_must_fit_on_a_node() -> None:
    fits = spec(resources={"tasks_per_node": 2, "cpus_per_task": 2})
    check(fits, RULES, images={"python": IMAGE}, capability=CAPABILITY)
    large = spec(resources={"tasks_per_node": 3, "cpus_per_task": 2})
    with pytest.raises(InvalidProcess, match=r"tasks_per_node: 3 times 2 cpus is more than a node"):
        check(large, RULES, images={"python": IMAGE}, capability=CAPABILITY)


def test_a_refused_process_is_not_recorded(bridge: Bridge) -> None:
    with pytest.raises(InvalidProcess):
        bridge.submit(**{**MINIMAL, "image": "julia"})
    assert bridge.desk.page() == []
