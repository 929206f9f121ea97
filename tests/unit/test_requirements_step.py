"""The script that installs requirements: as reviewed, sound as shell, run to its end under bash."""

import dataclasses
import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from slurmbridge.requirements import (
    Index,
    Installed,
    NotInstalled,
    Requirements,
    Step,
    StepLimits,
    Wheelhouse,
    read_outcome,
    read_requirements,
)
from slurmbridge.requirements.outcome import FILES, MADE
from tests.support.builders import shipped_templates
from tests.support.specs import IMAGE
from tests.support.stage import PROGRAMS

SHELLCHECK = Path(sys.executable).parent / "shellcheck"
TESTS = Path(__file__).resolve().parents[1]
GOLDEN = TESTS / "golden/requirements"
REPORT = TESTS / "recorded/pip-25.1/report.json"
KEY = "a" * 64
INDEX = Index("pypi", "https://packages.example/index/")
WANTED = read_requirements(b"alpha\nbeta==2.0\n")
HASHED = read_requirements(f"alpha==1 --hash=sha256:{'b' * 64}".encode())
SECRET = "what-nobody-else-may-read"


def step(
    folder: str = f"/shared/requirements/{KEY}",
    requirements: Requirements = WANTED,
    source: Index | Wheelhouse = INDEX,
    **changes: object,
) -> Step:
    whole = Step(folder, KEY, 1, requirements, IMAGE, source)
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


def rendered(wanted: Step) -> str:
    return shipped_templates().render_requirements(wanted.context("0" * 64)).text


GOLDENS = {
    "index": step(account="research", partition="main", exclude=("node3",)),
    "wheelhouse": step(requirements=HASHED, source=Wheelhouse("local", "/shared/wheels")),
}


def write_goldens() -> None:
    """Write the reviewed scripts anew."""
    for name, wanted in GOLDENS.items():
        (GOLDEN / f"{name}.sbatch").write_text(rendered(wanted))


# --- as reviewed ---


@pytest.mark.parametrize("name", GOLDENS)
def test_a_golden_script_is_what_would_be_submitted(name: str) -> None:
    assert (GOLDEN / f"{name}.sbatch").read_text() == rendered(GOLDENS[name])


def test_shellcheck_finds_nothing() -> None:
    scripts = [str(path) for path in sorted(GOLDEN.glob("*.sbatch"))]
    found = subprocess.run([SHELLCHECK, *scripts], check=False, capture_output=True, text=True)
    assert (len(scripts), found.stdout, found.returncode) == (len(GOLDENS), "", 0)


def test_nothing_is_open_but_the_network() -> None:
    words = step().context("0" * 64).seal
    closed = words[: words.index("root")]
    assert {"--userns", "--containall", "--no-home", "--no-privs", "--no-init"} <= set(closed)
    assert not [word for word in closed if word.startswith("--net")]
    binds = [word for word in closed if word.startswith("--mount=")]
    writable = [word for word in binds if not word.endswith(",ro")]
    assert [word.rpartition("destination=")[2] for word in writable] == ["/work"]
    targets = {word.rpartition("destination=")[2].removesuffix(",ro") for word in binds}
    assert targets == {
        "/work", "/requirements.txt", "/etc/passwd", "/etc/group", "/etc/hostname", "/etc/hosts",
        "/etc/resolv.conf", "/proc/keys",
    }  # fmt: skip


def pip_words(wanted: Step) -> list[str]:
    words = list(wanted.context("0" * 64).seal)
    return words[words.index("install") + 1 :]


def test_pip_builds_nothing_unless_the_site_says_so() -> None:
    assert "--only-binary=:all:" in pip_words(step())
    assert "--only-binary=:all:" not in pip_words(step(sources_built=True))


def test_hashes_are_required_when_they_are_given() -> None:
    assert "--require-hashes" not in pip_words(step())
    assert "--require-hashes" in pip_words(step(requirements=HASHED))


def test_pip_knows_one_source_and_no_other() -> None:
    over_http = Index("i", "http://i.example:8080/index/", "/etc/ca.pem", "http://p.example:3128")
    assert "--index-url=https://packages.example/index/" in pip_words(step())
    words = pip_words(step(source=over_http))
    assert "--trusted-host=i.example:8080" in words
    assert {"--cert=/certificates.pem", "--proxy=http://p.example:3128"} <= set(words)
    local = pip_words(step(source=Wheelhouse("local", "/wheels")))
    assert {"--no-index", "--find-links=/wheelhouse"} <= set(local)
    assert not [word for word in local if "index-url" in word]


def test_the_job_has_room_for_what_lies_in_memory() -> None:
    context = step(limits=StepLimits(size_mib=100, files=9, minutes=3)).context("0" * 64)
    assert (context.memory, context.work_bytes, context.work_files) == ("1124M", "104857600", "9")
    assert (context.pip_seconds, context.time_limit) == ("180", "8")


# --- run to the end ---

APPTAINER = """
cat /proc/$$/environ >"$out/environ"
case "$*" in *compileall*) exit 1;; esac
printf '%s\\0' "$@" >"$out/argv"
umask >"$out/umask"
cd pod/work || exit 99
. "$out/pip"
"""
INSTALLS = """
mkdir -p requirements/alpha && echo 1 >requirements/alpha/__init__.py
cp "$out/report.json" . && echo Successfully installed
"""
MKSQUASHFS = """
printf '%s\\0' "$@" >"$out/mksquashfs"
cp -r "$1" "$out/packed"
echo image >"$2"
"""
FIXED_PATH = "PATH=/usr/bin:/bin"


@dataclass
class Trial:
    """A step that is run with stubs, and what it left."""

    step: Step
    root: Path

    @property
    def folder(self) -> Path:
        """The folder of the key."""
        return self.root / KEY

    @property
    def out(self) -> Path:
        """What the stubs write, and are told."""
        return self.root / "out"

    def pip(self, text: str) -> None:
        """What pip does."""
        (self.out / "pip").write_text(text)

    def run(self, job_id: int = 7, attempt: int = 1) -> int:
        """Run an attempt to its end; its exit code."""
        text = rendered(dataclasses.replace(self.step, attempt=attempt))
        text = text.replace(FIXED_PATH, f"PATH={self.root}/stubs:/usr/bin:/bin")
        environment = {"SLURM_JOB_ID": str(job_id), "SLURMD_NODENAME": "node1", "TOKEN": SECRET}
        done = subprocess.run(
            ["/bin/bash", "-c", text],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        (self.out / "log").write_bytes(done.stdout + done.stderr)
        return done.returncode

    def outcome(self, place: str = MADE) -> Installed | NotInstalled:
        """What an attempt left, as the bridge reads it."""
        folder = self.folder / place
        return read_outcome(
            {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
        )


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    out, folder = tmp_path / "out", tmp_path / KEY
    for new in (out, folder, tmp_path / "stubs"):
        new.mkdir()
    kept = ("squashfuse_ll", "mountpoint", "mount", "unshare")
    stubs = {name: PROGRAMS[name] for name in kept}
    for name, body in {**stubs, "apptainer": APPTAINER, "mksquashfs": MKSQUASHFS}.items():
        stub = tmp_path / "stubs" / name
        stub.write_text(f"#!/bin/bash\nout={out}\n{body}\n")
        stub.chmod(0o755)
    (out / "report.json").write_bytes(REPORT.read_bytes())
    (folder / "requirements.txt").write_text(WANTED.text)
    content = b"an image"
    (tmp_path / "image.sif").write_bytes(content)
    image = IMAGE.model_copy(
        update={
            "path": str(tmp_path / "image.sif"),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    )
    made = Trial(step(str(folder), image=image), tmp_path)
    made.pip(INSTALLS)
    return made


def test_what_was_installed_appears_whole(trial: Trial) -> None:
    assert trial.run() == 0
    found = trial.outcome()
    assert isinstance(found, Installed)
    assert found.sha256 == hashlib.sha256(b"image\n").hexdigest()
    assert (found.size_bytes, found.files, len(found.lock)) == (6, 1, 2)
    left = {path.name for path in trial.folder.iterdir()}
    assert left == {"requirements.txt", "claim.1", "made"}
    assert (trial.folder / "claim.1").readlink() == Path("7")


def test_who_finds_what_it_came_for_ends_at_once(trial: Trial) -> None:
    assert trial.run() == 0
    (trial.out / "argv").unlink()
    assert trial.run(8, attempt=2) == 0
    assert not (trial.out / "argv").exists()


def test_a_second_job_for_an_attempt_does_nothing(trial: Trial) -> None:
    (trial.folder / "claim.1").symlink_to("6")
    assert trial.run(7) == 75
    assert not (trial.out / "argv").exists()
    assert (trial.folder / "claim.1").readlink() == Path("6")


def test_of_two_attempts_the_first_that_is_made_stays(trial: Trial) -> None:
    trial.pip(f"{INSTALLS}\nmkdir -p {trial.folder}/made && echo 0 >{trial.folder}/made/exit_code")
    assert trial.run() == 0
    left = {path.name for path in trial.folder.iterdir()}
    assert left == {"requirements.txt", "claim.1", "made"}
    assert [path.name for path in (trial.folder / "made").iterdir()] == ["exit_code"]


def test_after_a_failed_attempt_comes_another(trial: Trial) -> None:
    trial.pip("echo 'ERROR: No matching distribution found for alpha' >&2; exit 1")
    assert trial.run() == 1
    found = trial.outcome("failed.1")
    assert isinstance(found, NotInstalled)
    assert found.said == ("ERROR: No matching distribution found for alpha",)
    trial.pip(INSTALLS)
    assert trial.run(8, attempt=2) == 0
    assert isinstance(trial.outcome(), Installed)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("image.sif", "the image is not the recorded one"),
        (f"{KEY}/requirements.txt", "the list of requirements is not the recorded one"),
    ],
)
def test_what_was_changed_is_not_used(trial: Trial, name: str, sentence: str) -> None:
    (trial.root / name).write_text("changed")
    assert trial.run() == 78
    assert trial.outcome("failed.1").sentence == sentence  # type: ignore[union-attr]
    assert not (trial.out / "argv").exists()


def test_what_is_neither_file_nor_folder_is_not_packed(trial: Trial) -> None:
    trial.pip(f"{INSTALLS}\nln -s /etc/shadow requirements/shadow")
    assert trial.run() == 65
    assert "neither a file nor a folder" in trial.outcome("failed.1").sentence  # type: ignore[union-attr]
    assert not (trial.out / "mksquashfs").exists()


def test_no_special_mode_is_packed_and_no_time_or_owner(trial: Trial) -> None:
    trial.pip(f"{INSTALLS}\ntouch requirements/run; chmod 4777 requirements/run; umask 0")
    assert trial.run() == 0
    assert (trial.out / "packed/run").stat().st_mode & 0o7777 == 0o755
    words = (trial.out / "mksquashfs").read_text().split("\0")
    assert {"-all-time", "-mkfs-time", "-all-root", "-no-xattrs"} <= set(words)


def test_the_launcher_gets_two_variables_and_no_other(trial: Trial) -> None:
    assert trial.run() == 0
    names = {word.partition("=")[0] for word in (trial.out / "environ").read_text().split("\0")}
    assert names - {"PWD", "SHLVL", "_", ""} == {"PATH", "HOME"}
    for name in ("argv", "environ", "mounts"):
        assert SECRET not in (trial.out / name).read_text()


def test_what_is_installed_has_a_hard_limit(trial: Trial) -> None:
    assert trial.run() == 0
    mounts = (trial.out / "mounts").read_text()
    assert f"size={4096 << 20},nr_inodes=200000 slurmbridge pod/work" in mounts
