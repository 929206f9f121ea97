"""What goes to a login shell means to each of them what it is to mean, or is not sent."""

import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.shell import Command
from slurmbridge.shell.quoting import (
    after_marker,
    in_short,
    not_started,
    quoted,
    remote_line,
)

NAMES = (
    "bash",
    "dash",
    "sh",
    "zsh",
    "ksh",
    "mksh",
    "yash",
    "csh",
    "tcsh",
    "fish",
    "busybox",
)
# Not every machine has all of them; there is always a sh.
SHELLS = [path for path in map(shutil.which, NAMES) if path]
REFUSED = "'\\!"
words = st.lists(
    st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters=REFUSED))
)
anything = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def told(shell: str, line: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """What comes back when sshd hands a line to a login shell."""
    argv = [shell, "sh", "-c", line] if shell.endswith("busybox") else [shell, "-c", line]
    path = {"PATH": os.environ["PATH"], "SECRET": "1"}
    return subprocess.run(argv, input=stdin, capture_output=True, check=False, env=path)


@pytest.mark.parametrize("shell", SHELLS)
@given(words=words)
def test_every_word_that_is_sent_arrives_as_it_was(shell: str, words: list[str]) -> None:
    line = f"printf '%s\\n' {quoted(words)}" if words else "printf '\\n'"
    assert told(shell, line).stdout.decode() == "".join(f"{word}\n" for word in words or [""])


@pytest.mark.parametrize("shell", SHELLS)
@given(words=words)
def test_a_whole_command_arrives_with_nothing_else(shell: str, words: list[str]) -> None:
    command = Command(("printf", "[%s]", *words), environment={"PATH": os.environ["PATH"]})
    done = told(shell, remote_line(command, "mark", 10))
    printed = "".join(f"[{word}]" for word in words or [""])
    assert done.stdout.decode() == f"mark\n{printed}"
    assert done.stderr == b"mark\n"
    assert done.returncode == 0


@given(word=anything)
def test_a_word_is_sent_as_it_is_or_refused(word: str) -> None:
    try:
        line = quoted([word])
    except ValueError:
        assert not word.isascii() or not word.isprintable() or set(word) & set(REFUSED)
    else:
        assert line == f"'{word}'"
        assert word.isascii()
        assert word.isprintable()


@pytest.mark.parametrize(
    "word", ["it's", "a\\", "!x", "a\nb", "\t", "\0", "\x1b[2J", "é", "\udcff"]
)
def test_what_means_something_in_some_shell_is_refused(word: str) -> None:
    for command in (
        Command(("echo", word)),
        Command((word,)),
        Command(("id",), environment={"A": word}),
        Command(("id",), environment={f"A{word}": ""}),
    ):
        with pytest.raises(ValueError, match="cannot be sent"):
            remote_line(command, "mark", 1)


@pytest.mark.parametrize(
    "command",
    [
        Command(()),
        Command(("A=b",)),
        Command(("id",), environment={"": "x"}),
        Command(("id",), environment={"A=": "x"}),
        Command(("id", "x" * 131_072)),
    ],
)
def test_what_cannot_be_meant_is_refused(command: Command) -> None:
    with pytest.raises(ValueError, match=r"named so|longer than"):
        remote_line(command, "mark", 1)


@pytest.mark.parametrize("shell", SHELLS)
def test_nothing_is_inherited(shell: str) -> None:
    command = Command(("/usr/bin/env",), environment={"A": "b c", "B": ""})
    done = told(shell, remote_line(command, "mark", 10))
    assert done.stdout == b"mark\nA=b c\nB=\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_command_ends_on_its_own_and_tells_how(shell: str) -> None:
    assert told(shell, remote_line(Command(("/bin/sleep", "60")), "mark", 0.2)).returncode == 124
    done = told(shell, remote_line(Command(("/bin/cat",)), "mark", 10), b"in")
    assert done.stdout == b"mark\nin"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_program_that_is_missing_is_recognised(shell: str) -> None:
    for program, why in (("/no/such", "No such file or directory"), ("/", "Permission denied")):
        done = told(shell, remote_line(Command((program,)), "mark", 10))
        err = after_marker(done.stderr, "mark")
        assert err is not None
        assert not_started((program,), done.returncode, "", err.decode()) == why
    assert not_started(("/no/such",), 127, "", "something else") is None
    assert not_started(("/no/such",), 127, "out", "env: '/no/such': No such file") is None
    assert not_started(("/no/such",), 1, "", "env: '/no/such': No such file") is None


def test_what_was_said_before_the_marker_is_dropped_and_the_rest_is_kept() -> None:
    assert after_marker(b"hello mark\nmark\nmark\nout", "mark") == b"mark\nmark\nout"
    assert after_marker(b"+ exec mark env\nnoise mark\nout", "mark") == b"out"
    assert after_marker(b"mark", "mark") is None
    assert after_marker(b"", "mark") is None


def test_what_somebody_said_is_shown_on_one_short_line() -> None:
    assert in_short(b" a\n\tb\xff\x1b[2J ") == "a b\N{REPLACEMENT CHARACTER}?[2J"
    assert len(in_short(b"x" * 10_000)) == 200
