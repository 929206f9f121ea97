"""The commands for images, with a keeper that is real and an Apptainer that is played."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from slurmbridge.container.sif import file_sha256
from tests.support.bench import Bench, PlayedSite, refused
from tests.support.front import opened
from tests.support.sif import write_sif


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened() as front:
        yield Bench(front, PlayedSite(front, folder=tmp_path), tmp_path)


def test_images_are_built_all_or_by_name(bench: Bench) -> None:
    words = ["images", "build", "--config", bench.configuration()]
    result = bench.run(*words)
    assert result.stdout.split() == ["python", "a" * 64, "r", "a" * 64]
    assert result.stderr.splitlines()[0] == "building python, force False\\x1b[2J"
    built = bench.json(*words, "r", "--force")["images"]
    assert [image["name"] for image in built] == ["r"]
    refused(bench.run(*words, "broken"), code=1)


def add_image(bench: Bench, line: str, *more: str) -> Result:
    file = write_sif(bench.folder / "given.sif", line)
    words = ["images", "add", "small", str(file), "--sha256", file_sha256(file), *more]
    return bench.run(*words, "--config", bench.configuration())


def test_an_image_is_added_and_it_is_said_which_one_runs(bench: Bench) -> None:
    first = add_image(bench, "export A=1", "--remark", "from the vendor")
    assert first.exit_code == 0, first.output
    name, digest = first.stdout.split()
    assert (name, first.stderr) == ("small", "small runs it\n")
    again = add_image(bench, "export A=1")
    assert again.stderr == "it is recorded already, and is what small runs\n"
    second = add_image(bench, "export A=2")
    assert second.stderr == f"small runs it from now on, and no longer {digest}\n"
    assert json.loads(add_image(bench, "export A=2", "--json").stdout)["changed"] is False
    listed = [image for image in bench.json("images", "list")["images"] if image["name"] == "small"]
    assert [(image["runs"], image["added_by"]) for image in listed] == [
        (True, "carol"), (False, "carol"),
    ]  # fmt: skip
    assert "added by carol" in bench.run("images", "list").stdout


def test_an_image_of_another_digest_is_refused_in_one_sentence(bench: Bench) -> None:
    file = write_sif(bench.folder / "given.sif")
    words = ["images", "add", "small", str(file), "--config", bench.configuration()]
    assert "has the SHA-256" in refused(bench.run(*words, "--sha256", "0" * 64), code=1)
    refused(bench.run(*words))
    refused(bench.run(*words, "--sha256", "0"))


def test_an_image_is_shown_by_name_or_digest(bench: Bench) -> None:
    common = ["--config", bench.configuration()]
    old = add_image(bench, "export A=b\x1b[2J", "--remark", "x").stdout.split()[1]
    new = add_image(bench, "export A=2").stdout.split()[1]
    shown = bench.run("images", "show", old[:12], *common).stdout
    assert "environment: A=b\\x1b[2J\n" in shown
    assert "runs: no\n" in shown
    assert f"what small runs: {new}\n" in shown
    assert "remark: x\n" in shown
    newer = bench.json("images", "show", "small", *common)
    assert (newer["sha256"], newer["runs"], newer["environment"]["A"]) == (new, True, "2")
    refused(bench.run("images", "show", old[:11], *common))
    bench.run("images", "revoke", new, "--reason", "a reason", *common)
    shown = bench.run("images", "show", "small", *common).stdout
    assert f"sha256: {new}\n" in shown
    assert "refused: the image 'small' was revoked at " in shown


def test_images_are_verified_a_line_each_and_one_that_fails_fails_all(bench: Bench) -> None:
    common = ["--config", bench.configuration()]
    _, digest = add_image(bench, "export A=1").stdout.split()
    good = bench.run("images", "verify", "small", *common)
    short = f"small {digest[:12]}"
    assert (good.exit_code, good.stdout) == (0, f"{short} ok: added by carol, not signed\n")
    every = bench.run("images", "verify", *common)
    assert every.exit_code == 1
    assert every.stdout.splitlines()[1] == "python aaaaaaaaaaaa FAILED: the file is missing"
    verdicts = bench.json("images", "verify", "small", *common)["images"]
    assert verdicts[0]["problems"] == []
    bench.run("images", "revoke", "small", "--reason", "one", *common)
    assert "small" not in bench.run("images", "verify", *common).stdout
    revoked = bench.run("images", "verify", digest, *common)
    assert (revoked.exit_code, revoked.stdout) == (1, f"{short} FAILED: revoked: one\n")
    refused(bench.run("images", "verify", "nothing", *common))


def test_images_are_revoked_once_by_digest_or_all_of_a_name(bench: Bench) -> None:
    common = ["--config", bench.configuration()]
    old = add_image(bench, "export A=1").stdout.split()[1]
    new = add_image(bench, "export A=2").stdout.split()[1]
    said = refused(bench.run("images", "revoke", "small", "--reason", "one", *common))
    assert f"2 images of the name small are not revoked ({new[:12]}, {old[:12]})" in said
    refused(bench.run("images", "revoke", "small", *common))
    refused(bench.run("images", "revoke", "nothing", "--reason", "one", *common))
    refused(bench.run("images", "revoke", old, "--all", "--reason", "one", *common))
    done = bench.run("images", "revoke", old[:12], "--reason", "one", *common)
    assert (done.exit_code, done.stdout) == (0, f"small {old} revoked\n")
    done = bench.run("images", "revoke", "small", "--all", "--reason", "two", *common)
    assert done.stdout == f"small {new} revoked\n"
    again = bench.run("images", "revoke", new, "--reason", "three", *common)
    assert again.exit_code == 0
    assert again.stdout.startswith(f"small {new} was revoked already, at ")
    assert again.stdout.endswith(": two\n")
    values = bench.json("images", "revoke", "small", "--all", "--reason", "four", *common)
    assert [image["revoked_reason"] for image in values["images"]] == ["two", "one"]
