"""The argv of a Sealed Container: everything that closes it, and nothing that could open it."""

import csv
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.bridge.render import prepared
from slurmbridge.container.apptainer import (
    Bind,
    OutputRules,
    SealedContainer,
    TracedContainer,
    bounds,
    context_container,
    environment,
    recording,
    seal,
)
from slurmbridge.container.facts import expected_facts
from slurmbridge.errors import InvalidProcess
from slurmbridge.model import Image
from slurmbridge.spec import ProcessSpec, TraceLevel
from tests.support.specs import IMAGE, spec, specifications

CONTEXT = "/shared/contexts/01"
SITE = 64 << 30
RULES = OutputRules(SITE, 1000)
MIB = 1 << 20
TASK_VARIABLES = {"SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"}


def container_of(
    wanted: ProcessSpec, image: Image = IMAGE, outputs: OutputRules = RULES
) -> SealedContainer:
    container = context_container(CONTEXT, wanted, image, outputs=outputs)
    return container if isinstance(container, SealedContainer) else container.sealed


FLAGS = [
    "--nocolor",
    "--silent",
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
]
# Where a program finds what, and whether it may write there.
MOUNTS = {
    f"{CONTEXT}/input": "/input,ro",
    f"{CONTEXT}/code": "/code,ro",
    f"{CONTEXT}/pod/output": "/output",
    f"{CONTEXT}/pod/tmp/tmp": "/tmp",
    f"{CONTEXT}/pod/tmp/var": "/var/tmp",
    f"{CONTEXT}/pod/shm": "/dev/shm",
    f"{CONTEXT}/pod/sys": "/sys,ro",
    f"{CONTEXT}/pod/etc/passwd": "/etc/passwd,ro",
    f"{CONTEXT}/pod/etc/group": "/etc/group,ro",
    f"{CONTEXT}/pod/etc/hostname": "/etc/hostname,ro",
    f"{CONTEXT}/pod/etc/hosts": "/etc/hosts,ro",
    f"{CONTEXT}/pod/etc/resolv.conf": "/etc/resolv.conf,ro",
    f"{CONTEXT}/pod/sb": "/.sb,ro",
    "/dev/null": "/proc/keys,ro",
}

# --- whatever is asked for ---


@given(specifications())
def test_a_sealed_container_has_exactly_the_flags_and_binds_that_close_it(
    wanted: ProcessSpec,
) -> None:
    argv = seal(container_of(wanted))
    binds = [word for word in argv if word.startswith("--mount=")]
    assert argv[0] == "apptainer"
    place = argv.index("exec")
    options = [*argv[1:place], *argv[place + 1 : argv.index("root")]]
    assert sorted(set(options) - set(binds)) == sorted(FLAGS)
    assert len(options) == len(FLAGS) + len(binds)
    assert sorted(binds) == sorted(
        f"--mount=type=bind,source={source},destination={target}"
        for source, target in MOUNTS.items()
    )


@given(specifications(), specifications())
def test_the_argv_of_any_two_processes_differs_in_four_numbers_and_a_word_alone(
    one: ProcessSpec, other: ProcessSpec
) -> None:
    first, second = (seal(container_of(wanted)) for wanted in (one, other))
    assert first[:-5] == second[:-5]
    for argv, wanted in ((first, one), (second, other)):
        size = wanted.limits.file_size_mib
        assert argv[-5:] == (
            f"nproc={wanted.limits.processes}",
            f"nofile={wanted.limits.open_files}",
            f"fsize={SITE if size is None else size * MIB}",
            f"tasks={wanted.resources.tasks_per_node}",
            f"refused={'silent' if wanted.trace is TraceLevel.OFF else 'noted'}",
        )


@given(specifications())
def test_what_is_written_for_sbseal_reads_back_byte_for_byte(wanted: ProcessSpec) -> None:
    written = prepared(Path(CONTEXT), wanted, IMAGE, RULES)
    assert written.command.endswith(b"\0")
    assert written.environment.endswith(b"\0")
    command = written.command.removesuffix(b"\0").split(b"\0")
    assert command == [word.encode() for word in wanted.command]
    variables = written.environment.removesuffix(b"\0").split(b"\0")
    pairs = [line.partition(b"=") for line in variables]
    read = {name.decode(): value.decode() for name, _, value in pairs}
    assert len(read) == len(variables)
    assert read == environment(wanted, IMAGE)
    assert wanted.environment.items() <= read.items()


@given(specifications(), st.dictionaries(st.from_regex(r"[A-Z]{1,5}", fullmatch=True), st.text()))
def test_a_program_gets_no_variable_that_nobody_declared(
    wanted: ProcessSpec, of_image: dict[str, str]
) -> None:
    image = IMAGE.model_copy(update={"environment": of_image})
    found = environment(wanted, image)
    tasks = TASK_VARIABLES if wanted.resources.tasks_per_node > 1 else set()
    assert (
        set(found) == set(of_image) | set(wanted.environment) | {"PATH", "HOME", "LC_ALL"} | tasks
    )
    assert set(container_of(wanted, image).variables) == set(found)
    assert found["HOME"] == "/tmp"
    for name, value in of_image.items():
        if name not in {"HOME", *tasks} and name not in wanted.environment:
            assert found[name] == value


@given(specifications())
def test_every_bind_is_of_the_context_or_is_the_empty_device(wanted: ProcessSpec) -> None:
    sealed = container_of(wanted)
    assert {bind.source for bind in sealed.binds if not bind.source.startswith(f"{CONTEXT}/")} == {
        "/dev/null"
    }
    assert {bind.target for bind in sealed.binds if bind.writable} == {
        "/output",
        "/tmp",
        "/var/tmp",
        "/dev/shm",
    }


# --- variables ---


def test_the_declared_stands_above_the_images_and_that_above_the_platforms() -> None:
    image = IMAGE.model_copy(update={"environment": {"PATH": "/opt/bin", "A": "i", "B": "i"}})
    found = environment(spec(environment={"B": "d", "LC_ALL": "C"}), image)
    assert found == {"PATH": "/opt/bin", "A": "i", "B": "d", "LC_ALL": "C", "HOME": "/tmp"}


def test_several_tasks_get_variables_that_say_so_and_one_gets_none() -> None:
    image = IMAGE.model_copy(update={"environment": {"SLURM_PROCID": "9"}})
    found = environment(spec(resources={"tasks_per_node": 3}), image)
    assert {name: found[name] for name in TASK_VARIABLES} == {
        "SLURM_NTASKS": "3", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    }  # fmt: skip
    assert "tasks=3" in seal(container_of(spec(resources={"tasks_per_node": 3})))
    assert not set(environment(spec(), IMAGE)) & TASK_VARIABLES


def test_an_image_cannot_say_where_home_is() -> None:
    image = IMAGE.model_copy(update={"environment": {"HOME": "/output"}})
    assert environment(spec(), image)["HOME"] == "/tmp"


@pytest.mark.parametrize(
    "name",
    [
        "HOME", "PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "APPTAINER_BIND", "APPTAINERENV_X",
        "SINGULARITY_BIND", "SLURM_JWT", "SBATCH_X", "SPANK_X", "PMI_FD", "PMIX_RANK", "BASH_ENV",
        "IFS", "PWD", "USER", "LOGNAME", "SHELL", "A=B", "1A", "", "A B", "A\n", "Ä",
    ],
)  # fmt: skip
def test_a_name_that_is_the_platforms_or_none_cannot_be_declared(name: str) -> None:
    with pytest.raises(InvalidProcess, match="environment"):
        spec(environment={name: "x"})


# --- bounds ---


def test_memory_that_is_not_divided_goes_half_to_each() -> None:
    found = bounds(spec(resources={"memory_mib": 101}), RULES)
    assert (found.tmp_bytes, found.shm_bytes) == (50 * MIB, 50 * MIB)


def test_memory_goes_where_it_is_asked_for() -> None:
    resources = {"memory_mib": 100, "tmp_mib": 7, "shm_mib": 9}
    found = bounds(spec(resources=resources), RULES)
    assert (found.tmp_bytes, found.shm_bytes) == (7 * MIB, 9 * MIB)


@pytest.mark.parametrize(
    ("asked", "in_memory", "size"),
    [
        (None, True, 50 * MIB),
        (7, True, 7 * MIB),
        (80, True, 60 * MIB),
        (None, False, 60 * MIB),
        (7, False, 7 * MIB),
    ],
)
def test_outputs_have_the_size_that_is_asked_for_and_never_more_than_the_site_takes(
    asked: int | None, in_memory: bool, size: int
) -> None:
    wanted = spec(resources={"memory_mib": 100} | ({"output_mib": asked} if asked else {}))
    rules = OutputRules(60 * MIB, in_memory=in_memory)
    assert bounds(wanted, rules).output_bytes == size


@pytest.mark.parametrize(("asked", "inodes"), [(None, 1001), (5, 6), (5000, 1001)])
def test_outputs_are_as_many_files_as_asked_for_and_the_folder_itself(
    asked: int | None, inodes: int
) -> None:
    limits: dict[str, Any] = {} if asked is None else {"output_files": asked}
    assert bounds(spec(limits=limits), RULES).output_inodes == inodes


@pytest.mark.parametrize(
    ("in_memory", "folder"), [(True, f"{CONTEXT}/pod/output"), (False, f"{CONTEXT}/output")]
)
def test_outputs_lie_where_the_site_says(in_memory: bool, folder: str) -> None:
    container = container_of(spec(), outputs=OutputRules(in_memory=in_memory))
    [bind] = [bind for bind in container.binds if bind.target == "/output"]
    assert (bind.source, bind.writable) == (folder, True)
    sized = {line for line in expected_facts(container) if " /output" in line} - {
        "outside /output same"
    }
    assert sized == (
        {
            f"size /output {container.bounds.output_bytes}",
            f"inodes /output {container.bounds.output_inodes}",
        }
        if in_memory
        else set()
    ) | {"mount /output rw", "writable /output"}


@pytest.mark.parametrize(("asked", "size"), [(None, 5 * MIB), (3, 3 * MIB)])
def test_a_file_is_as_large_as_was_asked_for_or_as_the_site_takes(
    asked: int | None, size: int
) -> None:
    limits: dict[str, Any] = {} if asked is None else {"file_size_mib": asked}
    assert bounds(spec(limits=limits), OutputRules(5 * MIB)).file_size_bytes == size


@given(specifications())
def test_no_bound_is_without_a_number(wanted: ProcessSpec) -> None:
    found = bounds(wanted, RULES)
    assert found.processes >= 16
    assert found.open_files >= 64
    assert min(found.file_size_bytes, found.tmp_bytes, found.shm_bytes) >= MIB


# --- traced or not ---


@given(specifications())
def test_what_is_traced_is_sealed_in_the_same_way(wanted: ProcessSpec) -> None:
    levels = {level: wanted.model_copy(update={"trace": level}) for level in TraceLevel}
    found = {level: container_of(one) for level, one in levels.items()}
    assert {level for level, one in found.items() if not one.refusals_noted} == {TraceLevel.OFF}
    assert len({replace(one, refusals_noted=True) for one in found.values()}) == 1
    assert len(levels) > 1


def test_without_a_trace_the_container_is_not_a_traced_one() -> None:
    off = context_container(CONTEXT, spec(trace="off"), IMAGE, outputs=RULES)
    assert isinstance(off, SealedContainer)
    traced = context_container(CONTEXT, spec(trace="full"), IMAGE, outputs=RULES)
    assert isinstance(traced, TracedContainer)
    assert traced.level is TraceLevel.FULL


@pytest.mark.parametrize("level", TraceLevel)
def test_every_trace_level_says_what_it_records(level: TraceLevel) -> None:
    assert (recording(level) is None) is (level is TraceLevel.OFF)


def test_an_audit_records_programs_network_and_changes_with_whole_names() -> None:
    record = recording(TraceLevel.AUDIT)
    assert record is not None
    calls = record.calls.split(",")
    assert {"%process", "%network", "openat", "unlinkat", "renameat2"} <= set(calls)
    assert {"io_uring_setup", "unshare", "ptrace"} <= set(calls)
    # By which sbseal notes what it refuses.
    assert "mkdirat" in calls
    assert len(calls) == len(set(calls))
    assert record.filtered
    assert record.string_limit >= 1024


def test_a_full_trace_records_all_and_does_not_filter() -> None:
    record = recording(TraceLevel.FULL)
    assert record is not None
    assert (record.calls, record.filtered) == ("all", False)


# --- binds ---


@pytest.mark.parametrize(
    "path", ["/a,b", '/a"b', "/a\nb", "/a\rb", "/a\0b", "a/b", "", "./a", "~/a", ",ro", " /a"]
)
def test_a_path_that_would_change_the_mount_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="cannot be bound"):
        Bind(path, "/input")
    with pytest.raises(ValueError, match="cannot be bound"):
        Bind("/input", path)


def test_a_context_in_such_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be bound"):
        context_container("/shared,ro/01", spec(), IMAGE, outputs=RULES)


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
