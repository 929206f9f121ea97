"""Code of a commit: what lies in it, and nothing else, by the git of this host."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slurmbridge.bridge.checks import Rules, check
from slurmbridge.context.commits import Mirrors
from slurmbridge.context.folder import ContextFolder, Contexts
from slurmbridge.context.origins import Origins
from slurmbridge.context.tree import Bounds
from slurmbridge.errors import InvalidProcess, StagingFailed
from slurmbridge.shell import LocalFiles, LocalShell
from slurmbridge.spec import parse_spec
from tests.support.specs import IMAGE, spec

ROOM = Bounds(1 << 20, 100)
WHO = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
}  # fmt: skip


@dataclass
class Repository:
    """Below a mirror, with a work tree of its own."""

    work: Path
    bare: Path
    context: ContextFolder
    mirror: str

    def git(self, *arguments: str) -> str:
        argv = ["git", "-C", str(self.work), *arguments]
        done = subprocess.run(argv, check=True, env=WHO, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()

    def commit(self, **files: bytes | str) -> str:
        """Add these, and publish what is there."""
        for name, content in files.items():
            path = self.work / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=one", "--allow-empty")
        self.git("push", "--quiet", str(self.bare), "HEAD:refs/heads/main")
        return self.git("rev-parse", "HEAD")

    def stage(self, commit: str, bounds: Bounds = ROOM, **code: object) -> dict[str, bytes]:
        wanted = {"source": "mirror:group/project.git", "commit": commit, **code}
        asked = parse_spec({"image": "python", "command": ["true"], "code": wanted})
        mirrors = Mirrors(LocalShell(), {"mirror": self.mirror}, timeout_seconds=20)
        copied = self.context.stage(asked, Origins({}, mirrors=mirrors), bounds)
        return {file.path: (self.context.path / file.path).read_bytes() for file in copied}


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    bare, work = tmp_path / "git/group/project.git", tmp_path / "work"
    subprocess.run(["git", "init", "--quiet", "--bare", str(bare)], check=True, env=WHO)
    subprocess.run(["git", "init", "--quiet", str(work)], check=True, env=WHO)
    (tmp_path / "contexts").mkdir()
    context = Contexts(LocalFiles(), tmp_path / "contexts").of("one")
    context.make(b"", b"", b"")
    yield Repository(work, bare, context, f"file://{tmp_path}/git/")
    assert not (context.path / "room").exists()


def test_a_commit_is_staged_as_it_was_made(repository: Repository) -> None:
    (repository.work / "run.sh").write_text("#!/bin/sh\n")
    (repository.work / "run.sh").chmod(0o755)
    first = repository.commit(main_dot_py="one\n", data__x="x")
    repository.commit(main_dot_py="two\n")
    assert repository.stage(first) == {
        "code/main.py": b"one\n", "code/data/x": b"x", "code/run.sh": b"#!/bin/sh\n",
    }  # fmt: skip
    assert os.access(repository.context.path / "code/run.sh", os.X_OK)


def test_what_a_repository_says_about_its_files_does_not_count(repository: Repository) -> None:
    rules = "x export-ignore\ny export-subst\nz text eol=crlf\nw ident\n"
    content = {"x": "x", "y": "$Format:%H$\n", "z": "a\nb\n", "w": "$Id$\n"}
    commit = repository.commit(_dot_gitattributes=rules, **content)
    assert repository.stage(commit) == {
        f"code/{name}": text.encode() for name, text in {".gitattributes": rules, **content}.items()
    }


def test_a_folder_of_it_can_be_meant(repository: Repository) -> None:
    commit = repository.commit(other="o", project__main_dot_py="m")
    assert repository.stage(commit, path="project") == {"code/main.py": b"m"}


def test_a_digest_that_is_declared_is_that_of_the_folder(repository: Repository) -> None:
    commit = repository.commit(main_dot_py="one\n")
    with pytest.raises(InvalidProcess, match=r"its SHA-256 is [0-9a-f]{64}") as refused:
        repository.stage(commit, sha256="0" * 64)
    digest = str(refused.value).partition("its SHA-256 is ")[2][:64]
    repository.context.remove()
    repository.context.make(b"", b"", b"")
    assert repository.stage(commit, sha256=digest)


def test_a_link_is_refused(repository: Repository) -> None:
    (repository.work / "escape").symlink_to("/etc/shadow")
    with pytest.raises(InvalidProcess, match="it holds escape, which is a link"):
        repository.stage(repository.commit(a="a"))


def test_a_submodule_is_refused(repository: Repository) -> None:
    inner = repository.commit(a="a")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{inner},sub")
    repository.git("commit", "--quiet", "--message=sub")
    commit = repository.git("rev-parse", "HEAD")
    repository.git("push", "--quiet", str(repository.bare), "HEAD:refs/heads/main")
    with pytest.raises(InvalidProcess, match="it holds sub, which is a submodule"):
        repository.stage(commit)


def test_no_hook_and_no_configuration_of_the_repository_is_run(
    repository: Repository, tmp_path: Path
) -> None:
    commit = repository.commit(a="a")
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        hook = repository.bare / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        hook.chmod(0o755)
    with (repository.bare / "config").open("a") as file:
        file.write(f"[core]\n\tfsmonitor = touch {tmp_path}/ran\n\tpager = touch {tmp_path}/ran\n")
        file.write(f"[uploadpack]\n\tpackObjectsHook = touch {tmp_path}/ran\n")
    assert repository.stage(commit) == {"code/a": b"a"}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ({"commit": "0" * 40}, f"has no commit {'0' * 40}"),
        ({"source": "mirror:group/other.git"}, "there is no repository mirror:group/other.git"),
        ({"path": "none"}, "has no folder none in this commit"),
        ({"source": "other:group/project.git"}, "there is no mirror 'other'"),
    ],
)
def test_what_is_not_there_is_named(
    repository: Repository, code: dict[str, Any], said: str
) -> None:
    commit = repository.commit(main_dot_py="one\n")
    with pytest.raises(InvalidProcess, match=said):
        repository.stage(**{"commit": commit} | code)


def test_a_file_is_no_folder(repository: Repository) -> None:
    commit = repository.commit(main_dot_py="one\n")
    with pytest.raises(InvalidProcess, match=r"has no folder main\.py"):
        repository.stage(commit, path="main.py")


@pytest.mark.parametrize("bounds", [Bounds(1 << 20, 3), Bounds(5000, 100)])
def test_what_is_too_much_is_refused(repository: Repository, bounds: Bounds) -> None:
    big = os.urandom(20_000)
    commit = repository.commit(a="a", b="b", c="c", d=big)
    with pytest.raises(InvalidProcess, match="allowed"):
        repository.stage(commit, bounds)


def test_a_mirror_that_is_silent_is_waited_for(repository: Repository) -> None:
    commit = repository.commit(a="a")
    repository.mirror = "https://127.0.0.1:1/git"
    with pytest.raises(StagingFailed, match="cannot be fetched"):
        repository.stage(commit)


def test_a_file_beside_the_script_can_be_read_before_it_is_staged(repository: Repository) -> None:
    commit = repository.commit(requirements_dot_txt="numpy\n", script_dot_py="")
    asked = spec(code={"source": "mirror:group/project.git", "commit": commit})
    assert asked.code is not None
    mirrors = Mirrors(LocalShell(), {"mirror": repository.mirror})
    origins = Origins({}, mirrors=mirrors)
    found = repository.context.beside(asked.code, "requirements.txt", origins, ROOM)
    assert found == b"numpy\n"
    assert repository.context.beside(asked.code, "none.txt", origins, ROOM) is None


# --- what may be asked for ---


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ({"commit": "main"}, "commit"),
        ({"commit": "A" * 40}, "commit"),
        ({"commit": "a" * 40, "unpack": True, "source": "m:x.tar"}, "choose one"),
        ({"commit": "a" * 40, "source": "m:../x"}, "source"),
    ],
)
def test_what_cannot_be_meant_is_refused(code: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidProcess, match=said):
        spec(code={"source": "mirror:x.git"} | code)


def test_only_a_mirror_of_the_site_is_asked() -> None:
    rules = Rules(frozenset({"data"}), frozenset({"results"}), True, mirrors=frozenset({"mirror"}))
    for name, refused in (("mirror", False), ("data", True)):
        asked = spec(code={"source": f"{name}:x.git", "commit": "a" * 40})
        if not refused:
            check(asked, rules, images={"python": IMAGE}, capability=None)
            continue
        with pytest.raises(InvalidProcess, match=r"there is no mirror 'data' \(known: mirror\)"):
            check(asked, rules, images={"python": IMAGE}, capability=None)
