"""sbseal itself, run on this host: what it hands on, what it refuses, how it ends."""

import os
import re
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmbridge.model import Helpers
from tests.support.box import AS_NOBODY, LIMITS, PID_NAMESPACE, first_child, wait_for
from tests.support.sealing import REST, assert_refused, each_form, sealed_box
from tests.support.sealing import SealBox as Box

SHOW = "/bin/cat /proc/$$/cmdline; echo; echo ==; /bin/cat /proc/$$/environ"
items = st.lists(st.binary(max_size=40).map(lambda item: item.replace(b"\0", b"")), max_size=5)
each_user = pytest.mark.parametrize("prefix", [(), AS_NOBODY], ids=["self", "nobody"])


def limit_line(name: str, value: int) -> str:
    return f"Max {name:21} {value:<20} {value:<20}"


# --- what it hands on -------------------------------------------------------------------------


@each_form
@each_user
@given(arguments=items, environment=items)
@settings(max_examples=8, deadline=None)
def test_every_byte_of_command_and_environment_arrives(
    prefix: tuple[str, ...],
    form: str,
    sealing_helpers: Helpers,
    arguments: list[bytes],
    environment: list[bytes],
) -> None:
    with sealed_box(sealing_helpers) as box:
        box.refused = form
        command = [b"/bin/sh", b"-c", SHOW.encode(), *arguments]
        box.set_environment(environment)
        end = box.run(command, prefix=prefix)
    wanted = [b"".join(item + b"\0" for item in part) for part in (command, environment)]
    assert (end.out, end.err, end.code) == (b"\n==\n".join(wanted), b"", 0)


def test_no_argument_at_all_beside_the_program_and_no_variable(box: Box) -> None:
    box.set_environment([])
    end = box.run(["env"])
    assert (end.out, end.err, end.code) == (b"", b"", 0)


def test_a_program_is_looked_for_in_the_path_of_its_own_environment(box: Box) -> None:
    tool = box.marker.parent / "tool"
    tool.write_text("#!/bin/sh\necho found $1\n")
    tool.chmod(0o755)
    box.set_environment([f"PATH=/nowhere:{tool.parent}"])
    assert box.run(["tool", "it"]).out == b"found it\n"


@each_form
@each_user
def test_descriptors_limits_and_rights_of_a_program(
    box: Box, prefix: tuple[str, ...], form: str
) -> None:
    box.refused = form
    script = (
        "umask; ls /proc/self/fd; cat /proc/self/limits; grep -E 'NoNew|Seccomp:' /proc/self/status"
    )
    end = box.run(["sh", "-c", script], prefix=prefix)
    assert end.err == b""
    umask, text = end.out.decode().split("\n", 1)
    assert int(umask, 8) == 0o077
    # 3 is what ls itself has opened.
    assert text.startswith("0\n1\n2\n3\nLimit")
    for name, value in (("processes", 4096), ("open files", 256), ("file size", 1_000_000)):
        assert limit_line(name, value) in text
    assert limit_line("core file size", 1) in text
    assert text.endswith("NoNewPrivs:\t1\nSeccomp:\t2\n")


def test_signals_that_the_launcher_ignored_or_held_are_a_programs_again(box: Box) -> None:
    prefix = ("env", "--ignore-signal=CHLD,TERM,PIPE,USR1", "--block-signal=HUP,USR2,CHLD")
    end = box.run(["grep", "-E", "SigBlk|SigIgn|ShdPnd", "/proc/self/status"], prefix=prefix)
    zeros = "0" * 16
    assert end.out.decode() == f"ShdPnd:\t{zeros}\nSigBlk:\t{zeros}\nSigIgn:\t{zeros}\n"


def test_a_program_leads_its_own_process_group_in_a_session_without_a_terminal(box: Box) -> None:
    end = box.run(["sh", "-c", "cut -d' ' -f1,5,7 /proc/$$/stat"])
    pid, group, terminal = end.out.split()
    assert (pid, terminal) == (group, b"0")


def test_the_probe_gets_no_value_of_a_variable(box: Box) -> None:
    box.replace_probe("cat /proc/$$/environ; echo")
    box.set_environment(["GLIBC_TUNABLES=glibc.malloc.check=3", "PATH=/usr/bin:/bin", "odd"])
    end = box.run()
    assert end.code == 0
    assert end.facts == b"GLIBC_TUNABLES\0PATH\0odd\0\nend\n"


def test_the_probe_tells_names_of_variables_so_that_no_fact_can_be_forged(box: Box) -> None:
    box.set_environment([b"A=1", b"B\nend=2", b"C D\\=3", b"", b"=x"])
    facts = box.run(["/bin/true"]).facts.decode().splitlines()
    assert [fact for fact in facts if fact.startswith("variable")] == [
        "variable A", "variable B\\012end", "variable C\\040D\\134", "variable ", "variable ",
    ]  # fmt: skip
    assert facts.index("end") == len(facts) - 1


# --- what it refuses --------------------------------------------------------------------------


def no_command(box: Box) -> None:
    (box.folder / "command").unlink()


def folder_as_command(box: Box) -> None:
    no_command(box)
    (box.folder / "command").mkdir()


def pipe_as_command(box: Box) -> None:
    no_command(box)
    os.mkfifo(box.folder / "command")


def no_probe(box: Box) -> None:
    (box.folder / "sbprobe").unlink()


BROKEN: dict[str, Callable[[Box], object]] = {
    "no command": no_command,
    "a folder as command": folder_as_command,
    "a pipe as command": pipe_as_command,
    "an empty command": lambda box: box.set_command([]),
    "an empty name": lambda box: box.set_command(["", "x"]),
    "a cut command": lambda box: (box.folder / "command").write_bytes(b"touch\0x"),
    "no environment": lambda box: (box.folder / "environment").unlink(),
    "a cut environment": lambda box: (box.folder / "environment").write_bytes(b"A=b"),
    "no probe": no_probe,
    "a probe that cannot be run": lambda box: (box.folder / "sbprobe").chmod(0o644),
    "a probe that fails": lambda box: box.replace_probe("exit 3"),
    "a probe that is killed": lambda box: box.replace_probe("kill -KILL $$"),
}


def test_a_good_box_is_not_refused(box: Box) -> None:
    assert box.run().code == 0
    assert box.marker.exists()


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_nothing_starts_from_what_is_not_whole(box: Box, broken: Callable[[Box], object]) -> None:
    broken(box)
    end = box.run()
    assert_refused(box, end.code, end.err)


@pytest.mark.parametrize("word", [b"", b"g", b"go", b"GO\n", b"go ", b"no\n", b"\n\n\n"])
def test_nothing_starts_without_the_word(box: Box, word: bytes) -> None:
    end = box.run(word=word)
    assert_refused(box, end.code, end.err)
    assert b"did not let the program start" in end.err
    # All was found before: it is the word alone that was missing.
    assert end.facts.endswith(b"\nend\n")


@pytest.mark.parametrize(
    "limits",
    [
        (), ("nproc=1",), LIMITS, (*LIMITS, *REST, "core=0"),
        (LIMITS[1], LIMITS[0], LIMITS[2], *REST),
        *(
            (first, *LIMITS[1:], *REST)
            for first in (
                "nproc=", "nproc", "nproc=-1", "nproc= 1", "nproc=+1", "nproc=1x", "nproc=0x10",
                "nproc=18446744073709551616",
            )
        ),
        (LIMITS[0], "nofile=4294967296", LIMITS[2], *REST), ("", "", "", "", ""),
        *((*LIMITS, tasks, REST[1]) for tasks in ("tasks=0", "tasks=1025", "tasks=", "task=1", "")),
        *((*LIMITS, REST[0], refused) for refused in ("refused=", "refused=noted ", "silent", "")),
        (*LIMITS, *reversed(REST)),
    ],
    ids=lambda limits: " ".join(limits) or "none",
)  # fmt: skip
def test_nothing_starts_with_limits_that_are_not_understood(
    box: Box, limits: tuple[str, ...]
) -> None:
    end = box.run(arguments=(str(box.folder), *limits))
    assert_refused(box, end.code, end.err)


@pytest.mark.parametrize("folder", ["", "/nowhere", "/" + "x" * 300, "/proc/self/fd/3"])
def test_nothing_starts_from_another_folder(box: Box, folder: str) -> None:
    end = box.run(arguments=(folder, *LIMITS, *REST))
    assert_refused(box, end.code, end.err)


@pytest.mark.parametrize("closed", ["3", "4"])
def test_nothing_starts_when_a_descriptor_is_missing(box: Box, closed: str) -> None:
    end = box.run(hand_over=f'exec 3>&"$1" 4<&"$2"; exec {closed}>&-; shift 2; exec "$@"')
    assert_refused(box, end.code, end.err)


def test_a_user_without_rights_cannot_have_more_than_it_has(box: Box) -> None:
    prefix = ("bash", "-c", 'ulimit -n 100; exec "$@"', "bash", *AS_NOBODY)
    end = box.run(prefix=prefix)
    assert_refused(box, end.code, end.err)
    assert b"nofile=256: Operation not permitted" in end.err


def test_where_the_site_forbids_cores_they_stay_forbidden(box: Box) -> None:
    prefix = ("bash", "-c", 'ulimit -c 0; exec "$@"', "bash", *AS_NOBODY)
    end = box.run(["cat", "/proc/self/limits"], prefix=prefix)
    assert limit_line("core file size", 0) in end.out.decode()


# --- how it ends ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 2, 63, 75, 78, 126, 127, 128, 137, 143, 200, 254, 255])
def test_the_exit_code_is_the_programs(box: Box, code: int) -> None:
    assert box.run(["sh", "-c", f"exit {code}"]).code == code


ENDING = ("HUP", "INT", "QUIT", "ILL", "ABRT", "KILL", "SEGV", "PIPE", "ALRM", "TERM", "USR1",
          "XCPU", "XFSZ", "SYS", "RTMIN", "RTMAX")  # fmt: skip


@pytest.mark.parametrize("name", ENDING)
def test_a_signal_that_ends_the_program_is_told_as_shells_do(box: Box, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    end = box.run(["sh", "-c", f"kill -{int(number)} $$"])
    assert (end.code, end.err) == (128 + number, b"")


def test_a_program_that_is_not_there(box: Box) -> None:
    end = box.run(["no-such-program"])
    assert (end.code, end.err) == (127, b"no-such-program: No such file or directory\n")


def test_a_program_that_cannot_be_run(box: Box) -> None:
    assert box.run(["/etc/passwd"]).code == 126
    assert box.run(["/"]).code == 126
    end = box.run(["true", "x" * (1 << 18)])
    assert (end.code, end.err) == (126, b"true: Argument list too long\n")


# --- as process 1 -----------------------------------------------------------------------------


def test_orphans_are_reaped(box: Box) -> None:
    script = (
        "(sleep 0.02 & (sleep 0.03 &)); sleep 0.2; "
        "grep -l 'State:.Z' /proc/[0-9]*/status; cat /proc/1/comm"
    )
    end = box.run(["sh", "-c", script], prefix=PID_NAMESPACE)
    assert (end.out, end.code) == (b"sbseal\n", 0)


def test_what_a_program_leaves_behind_ends_with_it(box: Box) -> None:
    # The one that is left would hold standard output open for a minute.
    end = box.run(["sh", "-c", "setsid sleep 60 & exit 3"], prefix=PID_NAMESPACE)
    assert end.code == 3


def signal_it(number: int, box: Box) -> Callable[[int], None]:
    def meanwhile(pid: int) -> None:
        wait_for(box.marker)
        os.kill(first_child(pid), number)

    return meanwhile


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "USR2", "QUIT", "ALRM", "WINCH"])
def test_a_signal_goes_to_the_program_and_to_what_it_runs(box: Box, name: str) -> None:
    below = f'trap "echo below; exit" {name}; : >{box.marker}; while :; do sleep 0.02; done'
    script = f"trap 'exit 9' {name}; sh -c '{below}'; exit 1"
    number = getattr(signal, f"SIG{name}")
    end = box.run(["bash", "-c", script], prefix=PID_NAMESPACE, meanwhile=signal_it(number, box))
    assert (end.out, end.code) == (b"below\n", 9)


def test_a_program_that_heeds_no_signal_of_its_own_ends_with_term(box: Box) -> None:
    script = f": >{box.marker}; exec sleep 60"
    meanwhile = signal_it(signal.SIGTERM, box)
    assert box.run(["sh", "-c", script], prefix=PID_NAMESPACE, meanwhile=meanwhile).code == 143


@each_form
def test_a_program_cannot_end_stop_or_read_process_1(box: Box, form: str) -> None:
    box.refused = form
    script = (
        "kill -KILL 1; kill -STOP 1; kill -CHLD 1; kill -CONT 1; kill -SEGV 1; sleep 0.05; "
        "for name in mem environ maps fd cwd root exe; do "
        "(ls -L /proc/1/$name && cat /proc/1/$name) >/dev/null 2>&1 && echo $name; done; exit 5"
    )
    # SEGV is handed on like any other, and heeded by nobody here.
    script = f"trap '' SEGV CONT; {script}"
    end = box.run(["bash", "-c", script], prefix=(*PID_NAMESPACE, *AS_NOBODY))
    assert (end.out, end.code) == (b"", 5)


def test_a_stopped_program_goes_on(box: Box) -> None:
    def meanwhile(pid: int) -> None:
        wait_for(box.marker)
        first = first_child(pid)
        os.kill(first, signal.SIGSTOP)
        os.kill(first, signal.SIGCONT)

    script = f": >{box.marker}; kill -STOP $$; exit 6"
    end = box.run(["sh", "-c", script], prefix=PID_NAMESPACE, meanwhile=meanwhile)
    assert end.code == 6


@pytest.mark.parametrize(("form", "more"), [("silent", []), ("noted", ["seccomp notify"])])
def test_it_holds_nothing_open_but_what_it_needs(box: Box, form: str, more: list[str]) -> None:
    box.refused = f"refused={form}"
    found: list[str] = []

    def meanwhile(pid: int) -> None:
        wait_for(box.marker)
        folder = Path(f"/proc/{first_child(pid)}/fd")
        links = [str(path.readlink()) for path in sorted(folder.iterdir()) if int(path.name) > 2]
        found.extend(re.sub(r"anon_inode:|[\[\]]", "", link) for link in links)
        assert all(stat.S_ISFIFO((folder / name).stat().st_mode) for name in ("1", "2"))

    script = f": >{box.marker}; sleep 0.1"
    end = box.run(["sh", "-c", script], prefix=PID_NAMESPACE, meanwhile=meanwhile)
    assert (end.code, found) == (0, ["signalfd", *more])
