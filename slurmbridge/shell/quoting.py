"""The one string that sshd hands to a user's login shell, whichever that is: pure."""

import string
from collections.abc import Sequence

from slurmbridge.shell.commands import Command

# Within single quotes these mean nothing to sh, bash, zsh, ksh, csh, tcsh and fish. csh expands '!'
# and fish takes '\' there, too; control characters and anything but ASCII differ from shell to
# shell and from locale to locale.
_PLAIN = frozenset(string.printable) - frozenset("'\\!\t\n\r\x0b\x0c")
# Linux gives a program no longer word (MAX_ARG_STRLEN), and the login shell gets all as one.
_LONGEST = 128 * 1024 - 1
# Whatever was said before is not the command's: both streams begin anew after a word that nobody
# else knows. What `env` says about a missing program is in English.
_BEGIN = 'echo "$0"; echo "$0" >&2; LC_ALL=C; export LC_ALL; exec "$@"'
KILL_AFTER_SECONDS = 2


def quoted(words: Sequence[str]) -> str:
    """Words that every usual login shell takes as they are.

    Raises:
        ValueError: a word holds something that not every shell leaves alone within single quotes.
    """
    for word in words:
        if strange := sorted(set(word) - _PLAIN):
            raise ValueError(f"{strange[0]!r} cannot be sent through every login shell: {word!r}")
    return " ".join(f"'{word}'" for word in words)


def remote_line(command: Command, marker: str, seconds: float) -> str:
    """What starts a command on the far side, where it ends after `seconds` even on its own.

    Raises:
        ValueError: it cannot be sent, see `quoted`.
    """
    if not command.argv or "=" in command.argv[0]:
        raise ValueError(f"no program can be named so: {command.argv[:1]!r}")
    for name in command.environment:
        if not name or "=" in name:
            raise ValueError(f"no variable can be named so: {name!r}")
    variables = [f"{name}={value}" for name, value in command.environment.items()]
    limit = ("timeout", f"--kill-after={KILL_AFTER_SECONDS}", f"{max(seconds, 0.001):.3f}")
    begin = ("/bin/sh", "-c", _BEGIN, marker)
    line = "exec " + quoted([*limit, *begin, "env", "-i", *variables, *command.argv])
    if len(line) > _LONGEST:
        raise ValueError(f"a command of {len(line)} letters is longer than {_LONGEST}")
    return line


def after_marker(stream: bytes | bytearray, marker: str) -> bytes | bytearray | None:
    """What the command itself printed; None when it never began."""
    _, found, rest = stream.partition(f"{marker}\n".encode())
    return rest if found else None


def in_short(said: bytes | bytearray) -> str:
    """What somebody else printed, on one line, as far as it can be shown."""
    text = " ".join(said.decode(errors="replace").split())
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text if len(text) <= 200 else f"{text[:97]} ... {text[-98:]}"


def not_started(argv: Sequence[str], exit_code: int, stdout: str, stderr: str) -> str | None:
    """Why `env` could not start a program, if that is what came back."""
    if exit_code not in {126, 127} or stdout:
        return None
    said, _, more = stderr.partition("\n")
    begin = f"env: '{argv[0]}': "
    return said.removeprefix(begin) if said.startswith(begin) and not more else None
