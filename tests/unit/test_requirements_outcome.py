"""What an installation left: the lock, or one sentence. pip's own words are recorded."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.requirements import Fault, Installed, NotInstalled, read_outcome
from slurmbridge.requirements.said import last_errors, why

RECORDED = Path(__file__).resolve().parents[1] / "recorded/pip-25.1"
SHA = "c" * 64
MADE = {
    "exit_code": b"0\n",
    "packed": f"{SHA} 4096\n".encode(),
    "files": b"13\n",
    "report.json": (RECORDED / "report.json").read_bytes(),
    "said": b"Successfully installed alpha-1.0 beta-2.0\n",
}


def failed(said: str, **others: str) -> NotInstalled:
    files = {"exit_code": "1", "said": said, **others}
    found = read_outcome({name: text.encode() for name, text in files.items()})
    assert isinstance(found, NotInstalled)
    return found


def test_what_was_installed_is_locked_with_versions_and_hashes() -> None:
    found = read_outcome(MADE)
    assert isinstance(found, Installed)
    assert (found.sha256, found.size_bytes, found.files) == (SHA, 4096, 13)
    assert (found.pip, found.python) == ("25.1.1", "3.13.5")
    locked = [(entry.name, entry.version, entry.requested) for entry in found.lock]
    assert locked == [("alpha", "1.0", True), ("beta", "2.0", False)]
    assert all(len(entry.hashes["sha256"]) == 64 for entry in found.lock)


def test_the_lock_is_json_and_back() -> None:
    found = read_outcome(MADE)
    assert isinstance(found, Installed)
    assert Installed.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("recorded", "fault", "sentence"),
    [
        ("unknown-package", Fault.UNKNOWN,
         "requirement nosuchpackage: no version matches: there is no package of this name"),
        ("unknown-dependency", Fault.UNKNOWN,
         "requirement nosuchpackage, which orphan needs: no version matches: there is no package"),
        ("unknown-dependency-wheelhouse", Fault.UNKNOWN,
         "requirement beta>=1, which alpha needs: no version matches"),
        ("no-version", Fault.NO_VERSION,
         "requirement beta==9: no version matches; there are 1.0, 2.0"),
        ("no-wheel", Fault.NO_WHEEL, "requirement delta: it has no wheel for this image"),
        ("other-machine", Fault.NO_WHEEL, "requirement gamma: it has no wheel for this image"),
        ("other-python", Fault.OTHER_PYTHON, "requirement future: it is for another Python: >=4"),
        ("wrong-hash", Fault.WRONG_HASH,
         f"requirement beta: its hash is wrong: expected sha256 {'1' * 64}, got 45d52b"),
        ("index-hash-wrong", Fault.WRONG_HASH,
         f"requirement liar: its hash is wrong: expected sha256 {'0' * 64}, got aa2726"),
        ("dependency-without-hash", Fault.NO_HASH,
         "requirement beta, which alpha needs, has no hash and exact version; all must have"),
        ("conflict", Fault.CONFLICT,
         "the requirements contradict each other: asked for beta==1.0; alpha 1.0 depends on"),
        ("index-gone", Fault.INDEX,
         "requirement alpha: the index cannot be read: connection error: "),
        ("no-pip", Fault.NO_PIP, "the image has no pip"),
    ],
)  # fmt: skip
def test_what_pip_complained_of_is_one_sentence(recorded: str, fault: Fault, sentence: str) -> None:
    found = failed((RECORDED / f"{recorded}.txt").read_text())
    assert found.fault == fault
    assert found.sentence.startswith(sentence)
    assert "\n" not in found.sentence
    assert found.said
    assert found.side == ("site" if fault is Fault.INDEX else "submitter")


def test_every_recording_is_used() -> None:
    marks = test_what_pip_complained_of_is_one_sentence.pytestmark  # type: ignore[attr-defined]
    used = {case[0] for case in marks[0].args[1]}
    assert used == {path.stem for path in RECORDED.glob("*.txt")}


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
         Fault.TOO_MUCH),
        ("ERROR: HTTP error 503 while getting http://x/a.whl", Fault.INDEX),
        ("ERROR: Could not install packages due to an OSError: HTTPSConnectionPool(host='x')",
         Fault.INDEX),
        ("env: 'python3': No such file or directory", Fault.NO_PIP),
        ("no such option: --report", Fault.NO_PIP),
        ("ERROR: Failed to build installable wheels for some pyproject.toml based projects (spy)",
         Fault.BUILD),
        ("ERROR: something new", Fault.OTHER),
        ("", Fault.OTHER),
    ],
)  # fmt: skip
def test_other_complaints_are_known(said: str, fault: Fault) -> None:
    assert failed(said).fault == fault


def test_an_index_that_answers_with_an_error_is_not_an_unknown_package() -> None:
    said = (RECORDED / "unknown-package.txt").read_text()
    found = failed(said.replace("404 Client Error: File not found", "503 Server Error: Busy"))
    assert found.fault is Fault.INDEX
    assert found.fault.is_transient


def test_a_version_that_has_no_wheel_is_told_from_one_that_is_not_there() -> None:
    line = "  Skipping link: No sources permitted for beta: http://x/index/beta/beta-9.tar.gz\n"
    found = failed(line + (RECORDED / "no-version.txt").read_text())
    assert "no version that has a wheel for this image matches" in found.sentence


def test_only_some_of_many_versions_are_told() -> None:
    said = (RECORDED / "no-version.txt").read_text()
    many = ", ".join(f"1.{number}" for number in range(40))
    assert failed(said.replace("1.0, 2.0", many)).sentence.endswith(
        "there are ..., 1.35, 1.36, 1.37, 1.38, 1.39"
    )


@pytest.mark.parametrize("code", ["137", "143", ""])
def test_what_was_killed_may_be_tried_again(code: str) -> None:
    files = {"said": b"Collecting alpha\n"} | ({"exit_code": code.encode()} if code else {})
    found = read_outcome(files)
    assert isinstance(found, NotInstalled)
    assert found.fault is Fault.ENDED
    assert found.fault.is_transient
    assert found.side == "site"


def test_an_index_that_does_not_answer_is_not_the_submitters_fault() -> None:
    waited = "WARNING: Retrying after connection broken by 'ReadTimeoutError(\"Read timed out.\")'"
    found = failed(waited, stopped="it took more than 60 s")
    assert found.fault is Fault.INDEX
    assert found.sentence.endswith("it took more than 60 s; the index did not answer")


def test_a_container_that_does_not_start_is_the_site_s_fault_unless_pip_says_so() -> None:
    missing = "while mounting /shared/wheels: mount source /shared/wheels doesn't exist"
    found = failed(f"FATAL:   container creation failed: {missing}\n", exit_code="255")
    assert (found.fault, found.side) == (Fault.SITE, "site")
    assert found.sentence.endswith(f"did not start: container creation failed: {missing}")
    assert failed("Collecting a\nFATAL:   a program of a package said so\n").side == "submitter"


def test_what_the_script_refused_is_the_sites_and_what_it_stopped_the_submitters() -> None:
    refused = failed("", refused="mksquashfs is missing")
    assert (refused.fault, refused.sentence) == (Fault.SITE, "mksquashfs is missing")
    stopped = failed("", stopped="it took more than 60 s")
    assert stopped.sentence == "the requirements cannot be installed: it took more than 60 s"
    assert stopped.side == "submitter"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("packed", b""), ("packed", b"x 1"), ("files", b"many"), ("report.json", b"{"),
        ("report.json", b"[]"), ("report.json", b"[" * 100_000),
        ("report.json", json.dumps({"install": [{}]}).encode()),
        ("report.json", json.dumps({"install": [{"metadata": 1, "download_info": 2}]}).encode()),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_read_is_no_installation(name: str, content: bytes) -> None:
    found = read_outcome(MADE | {name: content})
    assert found == NotInstalled(
        fault=Fault.SITE, sentence="the record of the installation cannot be read"
    )


@pytest.mark.parametrize("name", ["packed", "files", "report.json"])
def test_a_record_that_is_not_whole_is_no_installation(name: str) -> None:
    found = read_outcome({key: value for key, value in MADE.items() if key != name})
    assert isinstance(found, NotInstalled)


@given(st.text(max_size=500))
def test_whatever_was_said_is_told_in_one_printable_line(said: str) -> None:
    found = failed(said)
    assert found.sentence.isprintable()
    assert len(found.sentence) < 600
    assert all(line.isprintable() for line in last_errors(said))
    assert why(said)
