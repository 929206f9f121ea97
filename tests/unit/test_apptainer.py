"""The argv of a Sealed Container: everything that closes it, and nothing that could open it."""

import csv
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmbridge.container.apptainer import (
    Bind,
    SealedContainer,
    TracedContainer,
    context_container,
    recording,
    seal,
)
from slurmbridge.model import TraceLevel

CONTEXT = "/shared/contexts/01"


def sealed_container(level: TraceLevel = TraceLevel.OFF) -> SealedContainer:
    container = context_container(CONTEXT, level)
    return container if isinstance(container, SealedContainer) else container.sealed


# What each one closes is told in docs/sealing.md; without it, the container is open there.
@pytest.mark.parametrize(
    "flag",
    [
        "--userns",
        "--containall",
        "--net",
        "--network=none",
        "--uts",
        "--hostname=sealed",
        "--no-home",
        "--no-privs",
        "--no-init",
        "--no-eval",
        "--no-mount=hostfs,home,cwd,bind-paths,sys",
        "--cwd=/code",
    ],
)
def test_a_sealed_container_has_each_flag_that_closes_it_once(flag: str) -> None:
    assert seal(sealed_container()).count(flag) == 1


def test_nothing_but_the_binds_varies_between_containers() -> None:
    one = seal(sealed_container())
    other = seal(SealedContainer((Bind("/x", "/y"),), "/code"))
    assert [word for word in one if not word.startswith("--mount=")] == [
        word for word in other if not word.startswith("--mount=")
    ]


def test_every_option_carries_its_value_so_that_the_image_is_the_next_word() -> None:
    words = seal(sealed_container())
    assert words[:3] == ("apptainer", "--silent", "exec")
    assert all(word.startswith("--") for word in words[3:])
    assert "--" not in words


def test_only_output_and_tmp_can_be_written_to() -> None:
    mounts = [word for word in seal(sealed_container()) if word.startswith("--mount=")]
    assert mounts == [
        f"--mount=type=bind,source={CONTEXT}/input,destination=/input,ro",
        f"--mount=type=bind,source={CONTEXT}/code,destination=/code,ro",
        f"--mount=type=bind,source={CONTEXT}/output,destination=/output",
        f"--mount=type=bind,source={CONTEXT}/tmp,destination=/tmp",
    ]


@pytest.mark.parametrize("level", TraceLevel)
def test_what_is_traced_is_sealed_in_the_same_way(level: TraceLevel) -> None:
    assert sealed_container(level) == sealed_container(TraceLevel.OFF)


def test_without_a_trace_the_container_is_not_a_traced_one() -> None:
    assert isinstance(context_container(CONTEXT, TraceLevel.OFF), SealedContainer)
    traced = context_container(CONTEXT, TraceLevel.FULL)
    assert isinstance(traced, TracedContainer)
    assert traced.level is TraceLevel.FULL


@pytest.mark.parametrize(
    "path", ["/a,b", '/a"b', "/a\nb", "/a\rb", "/a\0b", "a/b", "", "./a", "~/a", ",ro", " /a"]
)
def test_a_path_that_would_change_the_mount_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="cannot be bound"):
        Bind(path, "/input")
    with pytest.raises(ValueError, match="cannot be bound"):
        Bind("/input", path)


@settings(deadline=None)
@given(st.text(), st.text(), st.booleans())
def test_what_can_be_bound_is_read_back_by_a_reader_of_csv(
    source: str, target: str, writable: bool
) -> None:
    try:
        argument = Bind(f"/{source}", f"/{target}", writable=writable).argument()
    except ValueError:
        return
    [row] = list(csv.reader([argument]))
    assert row[:3] == ["type=bind", f"source=/{source}", f"destination=/{target}"]
    assert row[3:] == ([] if writable else ["ro"])


def test_a_bind_cannot_be_changed_after_it_was_checked() -> None:
    bind = Bind("/a", "/b")
    with pytest.raises(FrozenInstanceError):
        bind.source = "/a,ro"  # type: ignore[misc]


# --- what is recorded ---


@pytest.mark.parametrize("level", TraceLevel)
def test_every_trace_level_says_what_it_records(level: TraceLevel) -> None:
    assert (recording(level) is None) is (level is TraceLevel.OFF)


def test_an_audit_records_programs_network_and_changes_with_whole_names() -> None:
    record = recording(TraceLevel.AUDIT)
    assert record is not None
    calls = record.calls.split(",")
    assert {"%process", "%network", "openat", "unlinkat", "renameat2"} <= set(calls)
    assert {"io_uring_setup", "unshare", "ptrace"} <= set(calls)
    assert len(calls) == len(set(calls))
    assert record.filtered
    assert record.string_limit >= 1024


def test_a_full_trace_records_all_and_does_not_filter() -> None:
    record = recording(TraceLevel.FULL)
    assert record is not None
    assert (record.calls, record.filtered) == ("all", False)
