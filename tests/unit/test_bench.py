"""The arithmetic of ci/bench, and the scripts that it compares."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ci.lib import bench, bench_tracing
from ci.lib.bench import Measure, Runs, goal_of, loops, named, opens, ratio, reading
from ci.lib.bench_programs import OPENS_C, project
from ci.lib.bench_tracing import KINDS, changed, outcome

ROOT = Path(__file__).resolve().parents[2]
TRACED = (ROOT / "tests/golden/full.sbatch").read_text()


def of(unit: str, goal: float | None) -> Measure:
    return Measure(1, unit, goal, True, "", [])


def played(monkeypatch: pytest.MonkeyPatch, runs: Runs) -> list[tuple[str, ...]]:
    """Every measure on the bridge gives these runs; what was asked for."""
    asked: list[tuple[str, ...]] = []

    def on_bridge(*words: str) -> Runs:
        asked.append(words)
        return runs

    monkeypatch.setattr(bench, "on_bridge", on_bridge)
    monkeypatch.setattr(bench, "provide_flights", lambda: None)
    monkeypatch.setattr(bench, "build_programs", lambda: None)
    bench.opens_runs.cache_clear()
    return asked


def test_a_ratio_is_taken_within_each_round() -> None:
    # A slow round is slow for both.
    runs = [{"a": 2.0, "b": 1.0}, {"a": 30.0, "b": 10.0}, {"a": 4.0, "b": 1.0}]
    assert ratio(runs, "a", "b") == 3


@pytest.mark.parametrize(
    ("unit", "goal", "text"),
    [("x", 3, "<= 3"), ("s", 0.6, "<= 0.6"), ("ratio", 0.5, ">= 0.5"), ("x", None, "-"),
     ("lines/s", 250_000, ">= 250000")],
)  # fmt: skip
def test_a_goal_says_its_direction(unit: str, goal: float | None, text: str) -> None:
    assert goal_of(of(unit, goal)) == text


def test_measures_are_named_alone_or_by_what_they_share() -> None:
    assert named([]) == list(bench.MEASURES)
    assert named(["cpu", "read", "cpu"]) == ["cpu", "read"]
    group = named(["trace"])
    assert {"trace-cpu", "trace-flights", "trace-compile", "trace-opens"} < set(group)
    assert all(name.startswith("trace-") for name in group)
    # It is a measure of its own, and not all that begin so.
    assert named(["trace-opens"]) == ["trace-opens"]
    with pytest.raises(ValueError, match="there is no measure 'trac'"):
        named(["trac"])


ROUND = {"off_program_s": 2.0, "off_wall_s": 3.0, "off_lines": 0.0,
         "audit_program_s": 2.2, "audit_wall_s": 3.6, "audit_lines": 2109.0}  # fmt: skip


@pytest.mark.parametrize(
    ("measure", "kind", "holds"),
    [
        (bench.trace_cpu, "cpu", False),
        (bench.trace_flights, "flights", True),
        (bench.trace_compile, "compile", True),
    ],
)
def test_a_trace_costs_what_the_program_takes_longer(
    monkeypatch: pytest.MonkeyPatch, measure: Any, kind: str, holds: bool
) -> None:
    asked = played(monkeypatch, [ROUND])
    found = measure()
    assert (found.value, found.holds) == (1.1, holds)
    assert "whole script's time: 1.200; 2109 lines" in found.against
    assert asked == [("bench_tracing", kind)]


OPENED = {"off_wall_s": 9.0, "off_lines": 0.0, "off_tmp_c_s": 1.0, "off_usr_raw_s": 4.0,
          "audit_wall_s": 9.0, "audit_lines": 9.0, "audit_tmp_c_s": 10.0, "audit_usr_raw_s": 8.0,
          "plain_wall_s": 9.0, "plain_lines": 9.0, "plain_tmp_c_s": 40.0,
          "plain_usr_raw_s": 20.0}  # fmt: skip


def test_the_worst_loop_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = played(monkeypatch, [OPENED])
    assert loops([OPENED]) == ["tmp_c", "usr_raw"]
    off, plain = bench.trace_opens(), bench.trace_opens_plain()
    assert (off.value, off.holds) == (10, False)
    assert "The worst is tmp_c" in off.against
    assert "all: tmp_c 10.00, usr_raw 2.00" in off.against
    assert (plain.value, plain.holds) == (0.4, True)
    assert "The worst is usr_raw" in plain.against
    assert asked == [("bench_tracing", "opens")], "both come from the same runs"


def test_two_cpus_are_only_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = played(monkeypatch, [OPENED])
    found = bench.trace_opens_two()
    assert (found.value, found.goal, found.holds) == (10, None, True)
    assert asked == [("bench_tracing", "opens-two")]
    assert opens("opens", "off", 10, "").holds


def read_run(**changes: float) -> dict[str, float]:
    return {"audit_lines": 5e4, "audit_lines_per_s": 3e5, "audit_growth_kib": 100.0,
            "full_lines": 1e6, "full_lines_per_s": 9e5, "full_growth_kib": 0.0,
            **changes}  # fmt: skip


def test_reading_takes_the_slower_kind() -> None:
    found = reading([read_run()])
    assert (found.value, found.unit, found.holds) == (300_000, "lines/s", True)
    assert "audit (300000) and full (900000)" in found.against
    assert not reading([read_run(full_lines_per_s=2.4e5)]).holds


def test_reading_may_not_grow() -> None:
    found = reading([read_run(full_growth_kib=4096.0)])
    assert not found.holds
    assert "memory grew by 4.0 MiB" in found.against


def test_another_strace_runs_in_the_same_script() -> None:
    unfiltered, plain = changed(TRACED, "unfiltered"), changed(TRACED, "plain")
    assert changed(TRACED, "audit") == TRACED == changed(TRACED, "off")
    assert "--seccomp-bpf" in TRACED
    assert unfiltered == "".join(
        line for line in TRACED.splitlines(keepends=True) if "--seccomp-bpf" not in line
    )
    assert "strace --follow-forks --output=trace.fifo -- \\\n" in plain
    assert "--trace=" not in plain
    for script in (unfiltered, plain):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_script_without_that_strace_is_refused() -> None:
    with pytest.raises(SystemExit, match="not as 'plain' needs it"):
        changed("#!/bin/bash\n", "plain")


def ended(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("_txt", ".txt")).write_text(text)
    return folder


def test_a_program_tells_its_times(tmp_path: Path) -> None:
    said = "flights\ntook program 1500000\nit took long 7\ntook tmp_c 20\n"
    context = ended(tmp_path, stdout_txt=said, exit_code="0\n")
    found = {"program_s": 1.5, "tmp_c_s": 20e-6, "wall_s": 2.0, "lines": 0}
    assert outcome(context, 2_000_000) == found


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"stdout_txt": "took a 1\n", "exit_code": "1\n", "stderr_txt": "no file"}, "no file"),
        ({"stdout_txt": "took a 1\n", "refused": "not sealed"}, "not sealed"),
        ({"stdout_txt": "nothing\n", "exit_code": "0\n"}, "failed"),
    ],
)
def test_a_run_that_failed_is_no_figure(tmp_path: Path, files: dict[str, str], told: str) -> None:
    with pytest.raises(SystemExit, match=told):
        outcome(ended(tmp_path, **files), 1)


def test_every_program_tells_its_times(tmp_path: Path) -> None:
    staged = bench_tracing.opens()
    program = tmp_path / "opens"
    program.write_bytes(staged.code["opens"])
    program.chmod(0o700)
    argv = [str(program), "tmp_c", str(program), "100"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    [(name, _)] = bench_tracing.TOOK.findall(said)
    assert name == "tmp_c"
    assert OPENS_C
    command = bench_tracing.timed("true")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert bench_tracing.TOOK.findall(said)[0][0] == "program"
    assert subprocess.run(bench_tracing.timed("false"), check=False).returncode == 1


def test_the_project_compiles_and_ends(tmp_path: Path) -> None:
    files = project(files=2, functions=2)
    assert sorted(files) == ["Makefile", "main.c", "part_0.c", "part_1.c", "parts.h"]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    sources = [str(tmp_path / name) for name in files if name.endswith(".c")]
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", str(tmp_path / "made"), *sources], check=True)
    assert subprocess.run([tmp_path / "made"], check=False).returncode in {0, 1}
    assert len(project()) == 63


def test_kinds_have_a_way_without_a_trace_first() -> None:
    assert all(kind.ways[:2] == ("off", "audit") for kind in KINDS.values())
