"""sbseal itself, run on this host: what it hands on, what it refuses, how it ends."""

import os
import platform
import re
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmbridge.model import Helpers
from tests.support.box import AS_NOBODY, LIMITS, PID_NAMESPACE, first_child, wait_for
from tests.support.calls import RULED, refused
from tests.support.sealing import SealBox as Box

SHOW = "/bin/cat /proc/$$/cmdline; echo; echo ==; /bin/cat /proc/$$/environ"
items = st.lists(st.binary(max_size=40).map(lambda item: item.replace(b"\0", b"")), max_size=5)
each_form = pytest.mark.parametrize("form", ["refused=silent", "refused=noted"])
HERE = platform.machine()
REST = ("tasks=1", "refused=silent")
each_user = pytest.mark.parametrize("prefix", [(), AS_NOBODY], ids=["self", "nobody"])


@pytest.fixture
def box(sealing_helpers: Helpers) -> Iterator[Box]:
    """Not below pytest's own folder, which is closed to nobody."""
    with tempfile.TemporaryDirectory(prefix="sbseal-") as folder:
        yield Box(Path(folder), Path(sealing_helpers.path))


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
    with tempfile.TemporaryDirectory(prefix="sbseal-") as folder:
        box = Box(Path(folder), Path(sealing_helpers.path))
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


def assert_refused(box: Box, code: int, err: bytes) -> None:
    assert (code, err.count(b"\n")) == (78, 1), err
    assert err.startswith(b"sbseal: ")
    assert b"Success" not in err
    assert not box.marker.exists()


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


# --- calls that are refused -------------------------------------------------------------------

CLONE, SECCOMP = RULED[HERE][:2]
UNSHARE = next(number for number in refused(HERE) if number in {272, 97})
ESCAPES = {
    "clone with CLONE_UNTRACED": f"{CLONE}, 0x800011, 0, 0, 0, 0",
    "seccomp with a listener": f"{SECCOMP}, 1, 8, ctypes.create_string_buffer(16)",
}
CALL = "import ctypes, os, signal, threading, time; libc = ctypes.CDLL(None, use_errno=True)\n"
each_escape = pytest.mark.parametrize("what", ESCAPES)


def python(script: str) -> list[str]:
    return [str(Path(sys.executable).resolve()), "-S", "-E", "-c", CALL + script]


@each_escape
def test_what_escapes_a_tracer_ends_the_container_when_it_is_noted(box: Box, what: str) -> None:
    script = python(f"libc.syscall({ESCAPES[what]}); print('went on')")
    end = box.noting().run(script, prefix=PID_NAMESPACE)
    said = f"sbseal: ended: the program tried to escape its tracer ({what})\n"
    assert (end.code, end.out, end.err.decode()) == (137, b"", said)


@each_escape
def test_what_escapes_a_tracer_is_an_error_like_any_other_when_nobody_looks(
    box: Box, what: str
) -> None:
    script = python(f"print(libc.syscall({ESCAPES[what]}), ctypes.get_errno())")
    end = box.run(script, prefix=PID_NAMESPACE)
    assert (end.code, end.out, end.err) == (0, b"-1 1\n", b"")


def test_libseccomp_may_ask_what_the_kernel_can_do(box: Box) -> None:
    script = python(f"print(libc.syscall({SECCOMP}, 1, 8, None), ctypes.get_errno())")
    end = box.noting().run(script, prefix=PID_NAMESPACE)
    assert (end.code, end.out, end.err) == (0, b"-1 1\n", b"")


def test_the_probe_finds_the_same_in_both_forms(box: Box) -> None:
    # But for the sockets of this host, which come and go.
    both = [
        box.run(["true"], prefix=PID_NAMESPACE),
        box.noting().run(["true"], prefix=PID_NAMESPACE),
    ]
    found, noted = (re.sub(rb"sockets .*\n", b"", end.facts) for end in both)
    assert found.count(b"\ncall ") > 30
    assert noted == found


FLOOD = f"""
signals = []
signal.signal(signal.SIGALRM, lambda *_: signals.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
errors = []
def ask():
    for _ in range(2500):
        result = libc.syscall({UNSHARE}, 0x10000000)
        errors.append((result, ctypes.get_errno()))
threads = [threading.Thread(target=ask) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
signal.setitimer(signal.ITIMER_REAL, 0)
# A signal may come before sbseal is asked; then nothing was refused, and the error is EINTR.
print(len(errors), set(errors) - {{(-1, 4)}}, len(signals) > 5, errors.count((-1, 1)) > 19000)
"""


def test_a_flood_of_refused_calls_is_answered_while_signals_arrive(box: Box) -> None:
    def meanwhile(pid: int) -> None:
        wait_for(box.marker)
        for _ in range(50):
            os.kill(first_child(pid), signal.SIGWINCH)

    script = python(f"open({str(box.marker)!r}, 'w').close()" + FLOOD)
    end = box.noting().run(script, prefix=PID_NAMESPACE, meanwhile=meanwhile)
    assert (end.code, end.err) == (0, b"")
    assert end.out == b"20000 {(-1, 1)} True True\n"


KILLED = f"""
for turn in range(300):
    child = os.fork()
    if child == 0:
        while True:
            libc.syscall({UNSHARE}, 0x10000000)
    time.sleep(turn % 7 * 0.0001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print(libc.syscall({UNSHARE}, 0x10000000), ctypes.get_errno())
"""


def test_whoever_dies_while_it_asks_disturbs_nobody(box: Box) -> None:
    end = box.noting().run(python(KILLED), prefix=PID_NAMESPACE)
    assert (end.code, end.out, end.err) == (0, b"-1 1\n", b"")


def test_a_program_cannot_copy_what_the_kernel_asks_by(box: Box) -> None:
    """Not even root, to whom process 1 is open: pidfd_getfd is 438 everywhere."""
    script = (
        "first = os.pidfd_open(1)\n"
        "print({libc.syscall(438, first, number, 0) for number in range(20)}, ctypes.get_errno())"
    )
    end = box.noting().run(python(script), prefix=PID_NAMESPACE)
    assert (end.out, end.err) == (b"{-1} 1\n", b"")


# As a kernel before Linux 5.0 answers, and one before 5.19.
WITHOUT_FLAG = (
    "import ctypes, os, struct, sys\n"
    "steps = [(0x20, 0, 0, 0), (0x15, 0, 3, {number}), (0x20, 0, 0, 24), (0x45, 0, 1, {flag}),"
    " (6, 0, 0, 0x50016), (6, 0, 0, 0x7fff0000)]\n"
    "code = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *step) for step in steps))\n"
    "rules = ctypes.create_string_buffer("
    "struct.pack('=HxxxxxxQ', len(steps), ctypes.addressof(code)))\n"
    "libc = ctypes.CDLL(None)\n"
    "assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, rules) == 0\n"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


def without_flag(flag: int) -> tuple[str, ...]:
    return (sys.executable, "-c", WITHOUT_FLAG.format(number=SECCOMP, flag=flag))


def test_nothing_starts_where_the_kernel_cannot_tell_of_refused_calls(box: Box) -> None:
    end = box.noting().run(prefix=without_flag(8))
    assert_refused(box, end.code, end.err)
    assert b"notes refused calls (Linux 5.0): Invalid argument" in end.err


def test_a_kernel_that_lets_a_signal_ask_twice_is_good_enough(box: Box) -> None:
    end = box.noting().run(python(FLOOD), prefix=(*PID_NAMESPACE, *without_flag(32)))
    assert (end.code, end.out) == (0, b"20000 {(-1, 1)} True True\n"), end.err


# --- tasks ------------------------------------------------------------------------------------

SLURM = ["PATH=/usr/bin:/bin", "SLURM_NTASKS=3", "SLURM_PROCID=0", "SLURM_LOCALID=0"]


def tasks(box: Box, count: int, environment: list[str]) -> Box:
    box.tasks = f"tasks={count}"
    box.set_environment(environment)
    return box


@each_form
def test_each_task_gets_its_number_and_a_process_group(box: Box, form: str) -> None:
    box.refused = form
    # At once, so that no other task's words come between.
    script = "words=$(cut -d' ' -f1,5 /proc/$$/stat; tr '\\0' ';' </proc/$$/environ); echo $words"
    end = tasks(box, 3, ["A=SLURM_PROCID=0", *SLURM, "SLURM_PROCIDS=0"]).run(["sh", "-c", script])
    assert (end.code, end.err) == (0, b"")
    told = [line.split(" ", 2) for line in end.out.decode().splitlines()]
    assert all(pid == group for pid, group, _ in told)
    assert len({pid for pid, _, _ in told}) == 3
    assert {variables for _, _, variables in told} == {
        f"A=SLURM_PROCID=0;{SLURM[0]};{SLURM[1]};SLURM_PROCID={task};SLURM_LOCALID={task};"
        "SLURM_PROCIDS=0;"
        for task in range(3)
    }


def test_one_task_gets_its_environment_as_it_is(box: Box) -> None:
    end = tasks(box, 1, ["SLURM_PROCID=7", "SLURM_LOCALID=x"]).run(["/usr/bin/env"])
    assert end.out == b"SLURM_PROCID=7\nSLURM_LOCALID=x\n"


def test_a_thousand_tasks_run(box: Box) -> None:
    script = 'echo $SLURM_PROCID >>"$0"'
    end = tasks(box, 1024, SLURM).run(["sh", "-c", script, str(box.marker)], prefix=PID_NAMESPACE)
    assert (end.code, end.err) == (0, b"")
    assert sorted(map(int, box.marker.read_text().split())) == list(range(1024))


def test_it_ends_well_when_all_tasks_have(box: Box) -> None:
    script = "sleep 0.0$((2 - SLURM_PROCID)); echo $SLURM_PROCID"
    end = tasks(box, 3, SLURM).run(["bash", "-c", script], prefix=PID_NAMESPACE)
    assert (end.code, sorted(end.out.split())) == (0, [b"0", b"1", b"2"])


@pytest.mark.parametrize(("ends", "code"), [("exit 7", 7), ("kill -KILL $$", 137)])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_one_task_that_fails_ends_all_at_once(box: Box, failing: int, ends: str, code: int) -> None:
    # The others would hold standard output open for a minute.
    script = f"[ $SLURM_PROCID = {failing} ] || exec sleep 60; sleep 0.05; {ends}"
    end = tasks(box, 3, SLURM).run(["sh", "-c", script], prefix=PID_NAMESPACE)
    assert end.code == code


def test_a_task_that_has_ended_well_ends_nobody(box: Box) -> None:
    script = "[ $SLURM_PROCID = 0 ] || { sleep 0.1; [ $SLURM_PROCID = 1 ] || exit 5; }"
    end = tasks(box, 3, SLURM).run(["sh", "-c", script], prefix=PID_NAMESPACE)
    assert end.code == 5


def test_a_signal_goes_to_every_task(box: Box) -> None:
    folder = box.marker.parent

    def meanwhile(pid: int) -> None:
        for task in range(3):
            wait_for(folder / str(task))
        os.kill(first_child(pid), signal.SIGTERM)

    script = (
        f"trap 'echo $SLURM_PROCID; exit 0' TERM; : >{folder}/$SLURM_PROCID; "
        "while :; do sleep 0.02; done"
    )
    box = tasks(box, 3, SLURM)
    end = box.run(["bash", "-c", script], prefix=PID_NAMESPACE, meanwhile=meanwhile)
    assert (end.code, sorted(end.out.split())) == (0, [b"0", b"1", b"2"])


def test_no_task_starts_when_one_cannot(box: Box) -> None:
    prefix = (*PID_NAMESPACE, *AS_NOBODY)
    arguments = (str(box.folder), "nproc=20", *LIMITS[1:], "tasks=100", REST[1])
    end = box.run(prefix=prefix, arguments=arguments)
    assert (end.code, box.marker.exists()) == (78, False)
    assert b"fork: Resource temporarily unavailable" in end.err
