"""The commands for operators: configuration, tokens, and the services."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from slurmbridge.cli import service
from tests.support.bench import Bench, PlayedSite, refused
from tests.support.front import opened


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened() as front:
        yield Bench(front, PlayedSite(front, folder=tmp_path), tmp_path)


def test_local_commands_need_a_configuration(bench: Bench) -> None:
    for words in (["serve"], ["runner"], ["up"], ["config", "check"], ["tokens", "list"]):
        assert "does not exist" in refused(bench.run(*words, "--config", "missing.toml"))
    broken = bench.spec("contexts = 1", "broken.toml")
    assert "images: Field required" in refused(bench.run("config", "show", "--config", broken))


def test_render_prints_the_script(bench: Bench) -> None:
    spec = bench.spec('image = "python"\ncommand = ["true"]\n')
    words = ["render", spec, "--config", bench.configuration()]
    assert bench.run(*words).stdout == "#!/bin/sh\n# python\n"
    assert bench.json(*words) == {"script": "#!/bin/sh\n# python\n"}


def test_the_configuration_is_checked(bench: Bench) -> None:
    words = ["config", "check", "--config", bench.configuration()]
    assert bench.run(*words).exit_code == 0
    assert bench.json(*words) == {"problems": []}
    bench.site.problems = ["images: is not a folder"]
    result = bench.run(*words)
    assert (result.exit_code, result.stdout) == (2, "images: is not a folder\n")
    assert bench.json(*words, code=2) == {"problems": ["images: is not a folder"]}


def test_settings_are_shown_with_origins_and_without_passwords(bench: Bench) -> None:
    path = bench.configuration()
    result = bench.run("config", "show", SLURMBRIDGE_CONFIG=path, SLURMBRIDGE_API__HOST="::1")
    rows = {row[0]: row[1:] for row in (line.split() for line in result.stdout.splitlines())}
    assert "geheim" not in result.stdout
    assert rows["database"][0] == "postgresql://bridge:***@db/x"
    assert rows["api.port"] == ["1234", path]
    assert rows["api.host"] == ["::1", "SLURMBRIDGE_API__HOST"]
    assert rows["slurm.poll_seconds"][1] == "default"
    shown = bench.json("config", "show", "--config", path)["settings"]
    assert {"key": "api.port", "value": 1234, "origin": path} in shown


def test_tokens_are_added_listed_and_removed(bench: Bench) -> None:
    common = ["--config", bench.configuration()]
    token = bench.run("tokens", "add", "backend", *common).stdout.strip()
    assert bench.front.desk.authenticate(token) == "backend"
    assert bench.json("tokens", "add", "other", *common)["name"] == "other"
    assert bench.run("tokens", "list", *common).stdout.splitlines()[1].startswith("tester")
    assert bench.json("tokens", "list", *common)["tokens"][0]["name"] == "tester"
    assert bench.run("tokens", "remove", "tester", *common).exit_code == 0
    assert "'x'" in refused(bench.run("tokens", "remove", "x", *common))
    for name in ("", "a b", "a\nb", "a" * 65):
        refused(bench.run("tokens", "add", name, *common))


def test_migrate_and_runner_act_on_the_site(bench: Bench) -> None:
    common = ["--config", bench.configuration()]
    assert bench.run("config", "migrate", *common).exit_code == 0
    before = signal.getsignal(signal.SIGTERM)
    assert bench.run("runner", *common).exit_code == 0
    assert signal.getsignal(signal.SIGTERM) is before
    assert (bench.site.migrated, bench.site.ran) == (2, 1)


def test_serve_listens_where_the_configuration_says(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[str, int]] = []
    monkeypatch.setattr("slurmbridge.api.run", lambda _app, host, port: served.append((host, port)))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert bench.run("serve", "--config", bench.configuration()).exit_code == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert served == [("127.0.0.1", 1234)]
    assert bench.site.migrated == 1


class PlayedDaemon:
    """A part of `up` that ends as told."""

    started: list["PlayedDaemon"] = []  # noqa: RUF012  emptied by the fixture
    codes: Mapping[str, int | None] = {}

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self.argv = argv
        self.environment = environment
        self.stopped = False
        self.started.append(self)

    def exit_code(self) -> int | None:
        return self.codes[self.argv[-1]]

    def stop(self, *, grace_seconds: float) -> int:
        self.stopped = True
        return 0


@pytest.fixture
def daemons(monkeypatch: pytest.MonkeyPatch) -> list[PlayedDaemon]:
    monkeypatch.setattr(service, "Daemon", PlayedDaemon)
    monkeypatch.setattr(PlayedDaemon, "started", [])
    monkeypatch.setattr(PlayedDaemon, "codes", {"serve": None, "runner": None})
    return PlayedDaemon.started


@pytest.mark.parametrize(("code", "expected"), [(3, 3), (0, 1), (-9, 1), (200, 1)])
def test_when_a_part_ends_up_stops_the_other(
    bench: Bench,
    daemons: list[PlayedDaemon],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    expected: int,
) -> None:
    monkeypatch.setattr(PlayedDaemon, "codes", {"serve": None, "runner": code})
    result = bench.run("up", "--config", bench.configuration())
    assert f"runner ended with exit code {code}" in refused(result, code=expected)
    assert [daemon.stopped for daemon in daemons] == [True, True]
    assert bench.site.migrated == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_both_parts(
    bench: Bench,
    daemons: list[PlayedDaemon],
    sleeps: list[Callable[[], None]],
    number: signal.Signals,
) -> None:
    sleeps += [lambda: None, lambda: os.kill(os.getpid(), number)]
    path = bench.configuration()
    result = bench.run("up", "--config", path)
    assert (result.exit_code, result.output) == (0, "")
    assert [daemon.stopped for daemon in daemons] == [True, True]
    assert [list(daemon.argv[1:]) for daemon in daemons] == [
        ["-m", "slurmbridge.cli", "serve"],
        ["-m", "slurmbridge.cli", "runner"],
    ]
    assert daemons[0].environment["SLURMBRIDGE_CONFIG"] == path
