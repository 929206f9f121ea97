"""Code of a commit, from a repository that a site allows.

Git does it, with a configuration of its own: neither that of the host, nor what the repository says
about its files, counts.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slurmbridge.context.tree import Bounds, TooMuch, printable
from slurmbridge.errors import InvalidProcess, ShellUnavailable, StagingFailed
from slurmbridge.shell import Command, NotPlain, Reply, Shell

# A file of a mirror may belong to anybody; what is fetched is checked by its digest.
_CONFIGURATION = """\
[safe]
	directory = *
[fetch]
	fsckObjects = true
[protocol]
	version = 2
[protocol "ext"]
	allow = never
"""
# gitattributes(5): this file counts more than those in the tree. What lies in a commit is staged as
# it lies there: nothing is left out, converted or filled in.
_ATTRIBUTES = "* -text -eol -ident -filter -working-tree-encoding -export-ignore -export-subst\n"
_SUBMODULE, _LINK = "160000", "120000"
# What git says, in English, when the fault is not the site's.
_NOT_THERE = (
    "not our ref",
    "couldn't find remote ref",
    "no such remote ref",
    "unadvertised object",
)
_TOO_LARGE = f"died of signal {int(signal.SIGXFSZ)}"
_NO_REPOSITORY = ("does not appear to be a git repository", "not found", "does not exist")


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Where repositories lie, by the names that the configuration gives to the places."""

    shell: Shell
    urls: Mapping[str, str]
    timeout_seconds: float = 600.0

    def pack(self, source: str, commit: str, path: str | None, room: Path, bounds: Bounds) -> Path:
        """A tar file of a commit, or of a folder in it, in the folder `room` of this host.

        Raises:
            InvalidProcess: there is no such mirror, repository, commit or folder.
            NotPlain: it holds a link or a submodule.
            TooMuch
            StagingFailed: the mirror cannot be reached.
        """
        name, _, repository = source.partition(":")
        if name not in self.urls:
            raise InvalidProcess(f"there is no mirror {name!r}")
        url = f"{self.urls[name].rstrip('/')}/{repository}"
        git = _Git(self, room, url.partition(":")[0], bounds)
        git.begin()
        git.fetch(source, url, commit)
        tree = f"{commit}:{path}" if path else commit
        git.check(source, tree, bounds)
        return git.archive(tree)


@dataclass(frozen=True, slots=True)
class _Git:
    mirrors: Mirrors
    room: Path
    scheme: str
    bounds: Bounds

    def begin(self) -> None:
        (self.room / "gitconfig").write_text(_CONFIGURATION)
        said = self._run("init", "--quiet", "--bare", "--template=", ".")
        if said:
            raise StagingFailed(f"git: {_shown(said)}")
        info = self.room / "info"
        info.mkdir()
        (info / "attributes").write_text(_ATTRIBUTES)

    def fetch(self, source: str, url: str, commit: str) -> None:
        said = self._run(
            "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules",
            "--no-write-fetch-head", "--", url, commit,
        )  # fmt: skip
        if said is None or self._kind(commit) == "commit":
            return
        if any(words in said for words in _NOT_THERE) or not said:
            raise InvalidProcess(f"{source} has no commit {commit}")
        if any(words in said for words in _NO_REPOSITORY):
            raise InvalidProcess(f"there is no repository {source}")
        if _TOO_LARGE in said:
            raise TooMuch(f"more than the {self.bounds.bytes} bytes that are allowed")
        raise StagingFailed(f"{source} cannot be fetched: {_shown(said)}")

    def check(self, source: str, tree: str, bounds: Bounds) -> None:
        """Git leaves submodules out of an archive, without a word."""
        if self._kind(tree) not in {"commit", "tree"}:
            raise InvalidProcess(f"{source} has no folder {tree.partition(':')[2]} in this commit")
        listed = self._answer("ls-tree", "-r", "-z", "--full-tree", tree)
        entries = [entry for entry in listed.split("\0") if entry]
        if len(entries) > bounds.files:
            raise TooMuch(f"more than the {bounds.files} files that are allowed")
        for entry in entries:
            about, _, name = entry.partition("\t")
            mode = about.partition(" ")[0]
            if mode in {_SUBMODULE, _LINK}:
                what = "a submodule" if mode == _SUBMODULE else "a link"
                raise NotPlain(f"it holds {printable(name)}, which is {what}")

    def archive(self, tree: str) -> Path:
        made = self.room / "packed.tar"
        said = self._run("archive", "--format=tar", f"--output={made}", tree)
        if said is not None:
            raise StagingFailed(f"git: {_shown(said)}")
        return made

    def _kind(self, name: str) -> str:
        reply = self._reply("cat-file", "-t", name)
        return reply.stdout.strip() if reply.exit_code == 0 else ""

    def _answer(self, *arguments: str) -> str:
        reply = self._reply(*arguments)
        if reply.exit_code != 0:
            raise StagingFailed(f"git: {_shown(reply.stderr)}")
        return reply.stdout

    def _run(self, *arguments: str) -> str | None:
        """None, or what it complains of."""
        reply = self._reply(*arguments)
        return None if reply.exit_code == 0 else reply.stderr

    def _reply(self, *arguments: str) -> Reply:
        limit = f"--fsize={self.bounds.bytes}"
        argv = ("prlimit", limit, "--core=0", "git", "-C", str(self.room), *arguments)
        command = Command(
            argv,
            environment={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
                "HOME": str(self.room),
                "GIT_DIR": str(self.room),
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_CONFIG_GLOBAL": str(self.room / "gitconfig"),
                "GIT_ATTR_NOSYSTEM": "1",
                "GIT_TERMINAL_PROMPT": "0",
                "GIT_ASKPASS": "/bin/false",
                "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
                "GIT_ALLOW_PROTOCOL": self.scheme,
            },
            timeout_seconds=self.mirrors.timeout_seconds,
        )
        try:
            return self.mirrors.shell.run(command)
        except ShellUnavailable as error:
            raise StagingFailed(f"git: {error}") from error


def _shown(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return printable(" ".join(lines[-2:]))[:500]
