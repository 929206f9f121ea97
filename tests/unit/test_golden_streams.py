"""What a program prints and writes: kept up to a limit, whatever it does."""

from pathlib import Path

import pytest

from slurmbridge.container.apptainer import OutputRules
from tests.support.builders import GOLDEN
from tests.support.stage import (
    WEIGHED_OFTEN,
    Stage,
    each_way,
    end_group,
    running_below,
    soon,
    staged,
)

LIMIT = 64 * 1024
NOT_KEPT = "what the program printed, or its trace, could not be kept"


@pytest.fixture
def minimal(tmp_path: Path) -> Stage:
    return staged(GOLDEN / "minimal.toml", tmp_path)


@each_way
def test_the_program_prints_to_pipes_and_holds_no_file(golden: Path, tmp_path: Path) -> None:
    stage = staged(golden, tmp_path)
    assert stage.run() == 0
    assert (stage.out / "kinds").read_text() == "fifo\n" * 2


@each_way
@pytest.mark.parametrize(("stream", "number"), [("stdout", 1), ("stderr", 2)])
def test_what_is_printed_above_the_limit_is_dropped_and_that_is_said(
    golden: Path, stream: str, number: int, tmp_path: Path
) -> None:
    stage = staged(golden, tmp_path, log_limit=LIMIT)
    said = len("printed\n" if stream == "stdout" else "complained\n")
    above = LIMIT + 12345
    stage.program(f"head --bytes={above - said} /dev/zero >&{number}\n")
    (stage.out / "exit").write_text("3")
    assert stage.run() == 3
    assert (stage.context / f"{stream}.txt").stat().st_size == LIMIT
    assert f"{stream}: 12345 bytes above the limit were dropped" in stage.log.read_text()
    other = "stderr" if stream == "stdout" else "stdout"
    assert f"{other}:" not in stage.log.read_text()


def test_what_is_printed_up_to_the_limit_is_whole(tmp_path: Path) -> None:
    stage = staged(GOLDEN / "minimal.toml", tmp_path, log_limit=LIMIT)
    stage.program(f"head --bytes={LIMIT - len('printed') - 1} /dev/zero\n")
    assert stage.run() == 0
    assert (stage.context / "stdout.txt").stat().st_size == LIMIT
    assert stage.log.read_text() == ""


def test_many_short_lines_are_kept_up_to_the_limit_in_bytes(minimal: Stage) -> None:
    # The stage's limit is 16 times 64 KiB: more writes than that, and far fewer bytes.
    minimal.program("for number in {1..50}; do echo line $number; sleep 0.002; done\n")
    assert minimal.run() == 0
    lines = (minimal.context / "stdout.txt").read_text().splitlines()
    assert lines == ["printed", *(f"line {number}" for number in range(1, 51))]
    assert minimal.log.read_text() == ""


def test_what_is_printed_can_be_read_while_the_program_runs(minimal: Stage) -> None:
    minimal.program("exec sleep 60")
    child = minimal.start()
    try:
        assert soon(lambda: minimal.left("stdout.txt") == "printed")
        assert soon(lambda: minimal.left("stderr.txt") == "complained")
    finally:
        end_group(child)


def test_a_log_that_cannot_be_written_is_the_sites_to_put_right(minimal: Stage) -> None:
    (minimal.context / "stdout.txt").mkdir()
    assert minimal.run() == 78
    assert minimal.left("refused") == NOT_KEPT


def test_a_trace_that_cannot_be_written_is_the_sites_to_put_right(minimal: Stage) -> None:
    minimal.stub("zstd", "cat >/dev/null\nexit 1")
    assert minimal.run() == 78
    assert minimal.left("refused") == NOT_KEPT


def test_a_program_whose_record_nobody_takes_any_more_is_killed(minimal: Stage) -> None:
    minimal.stub("zstd", "until [ -e $out/started ]; do sleep 0.02; done\nexit 1")
    minimal.program("trap '' TERM\n" + GOES_ON)
    assert minimal.run() == 78
    assert minimal.left("refused") == NOT_KEPT
    assert soon(lambda: not running_below(minimal.context))


# --- the trace ---

RECORD = "head --bytes={size} /dev/zero >&8\n"


def test_a_trace_up_to_its_limit_is_whole(tmp_path: Path) -> None:
    stage = staged(GOLDEN / "minimal.toml", tmp_path, trace_limit=LIMIT)
    stage.program(RECORD.format(size=LIMIT - len("record\n")))
    assert stage.run() == 0
    assert (stage.context / "trace.zst").stat().st_size == LIMIT
    assert stage.left("trace.cut") is None
    assert stage.left("stopped") is None


def test_a_program_whose_trace_is_above_its_limit_is_killed(tmp_path: Path) -> None:
    stage = staged(GOLDEN / "minimal.toml", tmp_path, trace_limit=LIMIT)
    stage.program(RECORD.format(size=LIMIT) + "trap '' TERM\n" + GOES_ON)
    assert stage.run() == 137
    assert (stage.context / "trace.zst").stat().st_size == LIMIT
    assert stage.left("trace.cut") == str(LIMIT)
    assert stage.left("stopped") == f"its trace has reached its limit of {LIMIT} bytes"
    assert stage.left("refused") is None


def test_a_program_whose_trace_may_be_cut_goes_on(tmp_path: Path) -> None:
    cut = {"trace_full": "cut"}
    stage = staged(GOLDEN / "minimal.toml", tmp_path, trace_limit=LIMIT, limits=cut)
    # More than a pipe holds: somebody takes the rest.
    stage.program(RECORD.format(size=4 * LIMIT) + "echo done\n")
    assert stage.run() == 0
    assert (stage.context / "trace.zst").stat().st_size == LIMIT
    assert stage.left("trace.cut") == str(LIMIT)
    assert stage.left("stopped") is None
    assert stage.left("stdout.txt") == "printed\ndone"


def test_a_specification_may_ask_for_a_shorter_trace(tmp_path: Path) -> None:
    asked = {"trace_mib": 1, "trace_full": "cut"}
    stage = staged(GOLDEN / "minimal.toml", tmp_path, limits=asked)
    stage.program(RECORD.format(size=2 << 20))
    assert stage.run() == 0
    assert (stage.context / "trace.zst").stat().st_size == 1 << 20


# --- /output ---

IN_CONTEXT = OutputRules(4 * LIMIT, in_memory=False)
WRITES = "head --bytes={size} /dev/zero >$out/output/big\n"
GOES_ON = "while :; do sleep 0.02; done\n"


@each_way
def test_a_program_that_writes_more_than_the_site_takes_is_killed(
    golden: Path, tmp_path: Path
) -> None:
    stage = staged(golden, tmp_path, taken=IN_CONTEXT)
    stage.replace(WEIGHED_OFTEN)
    stage.program(WRITES.format(size=5 * LIMIT) + "trap '' TERM\n" + GOES_ON)
    assert stage.run() == 137
    assert stage.left("exit_code") == "137"
    assert stage.left("refused") is None
    assert stage.left("stdout.txt") == "printed"
    said = stage.left("stopped")
    assert said is not None
    assert said.startswith("/output holds ")
    assert said in stage.log.read_text()


def test_a_program_that_writes_less_is_left_alone(tmp_path: Path) -> None:
    stage = staged(GOLDEN / "minimal.toml", tmp_path, taken=IN_CONTEXT)
    stage.replace(WEIGHED_OFTEN)
    stage.stub("du", """echo weighed >>"$out/weighed"; exec /usr/bin/du "$@" """)
    weighed = 'until [[ $(wc --lines <"$out/weighed") -ge 2 ]]; do sleep 0.02; done\n'
    stage.program(WRITES.format(size=3 * LIMIT) + f'touch "$out/weighed"\n{weighed}')
    assert stage.run() == 0


def test_outputs_that_cannot_be_weighed_now_and_then_end_nothing(tmp_path: Path) -> None:
    minimal = staged(GOLDEN / "minimal.toml", tmp_path, taken=IN_CONTEXT)
    minimal.replace(WEIGHED_OFTEN)
    minimal.stub(
        "du",
        """echo tried >>"$out/weighed"
[[ $(($(wc --lines <"$out/weighed") % 3)) == 0 ]] || exit 1
exec /usr/bin/du "$@" """,
    )
    minimal.program(
        'touch "$out/weighed"\n'
        'until [[ $(wc --lines <"$out/weighed") -ge 9 ]]; do sleep 0.02; done\n'
    )
    assert minimal.run() == 0


def test_a_program_whose_outputs_can_never_be_weighed_is_killed(tmp_path: Path) -> None:
    minimal = staged(GOLDEN / "minimal.toml", tmp_path, taken=IN_CONTEXT)
    minimal.replace(WEIGHED_OFTEN)
    minimal.stub("du", "exit 1")
    minimal.program("trap '' TERM\n" + GOES_ON)
    assert minimal.run() == 137
    assert minimal.left("refused") is None
    assert minimal.left("stopped") == "/output could not be weighed six times"


def test_a_traced_container_that_was_stopped_from_within_goes_on(minimal: Stage) -> None:
    minimal.replace(WEIGHED_OFTEN)
    minimal.program("kill -STOP $$\n")
    assert minimal.run() == 0


@each_way
def test_what_was_written_to_memory_is_kept_as_it_was_left(golden: Path, tmp_path: Path) -> None:
    stage = staged(golden, tmp_path)
    stage.program(
        "cd $out/output\n"
        "mkdir --mode=000 shut; mkdir -p deep/er; echo one >deep/er/one; ln deep/er/one two\n"
        "ln -s /etc/shadow link; mkfifo pipe; truncate --size=60G sparse\n"
        "touch $'new\\nline' -- -rf; chmod 000 two\n"
    )
    assert stage.run() == 0
    output = stage.context / "output"
    assert sorted(path.name for path in output.iterdir()) == [
        "-rf", "deep", "link", "new\nline", "pipe", "shut", "sparse", "two",
    ]  # fmt: skip
    assert (output / "link").readlink() == Path("/etc/shadow")
    assert (output / "pipe").is_fifo()
    assert (output / "deep/er/one").stat().st_nlink == 2
    assert (output / "two").stat().st_mode & 0o777 == 0
    assert (output / "sparse").stat().st_blocks == 0
    assert stage.left("output.full") is None


def test_what_cannot_be_kept_is_the_sites_to_put_right(minimal: Stage) -> None:
    minimal.stub(
        "cp",
        """[[ "$*" != *pod/output* ]] || { mkdir output.new; exit 1; }
exec /usr/bin/cp "$@" """,
    )
    assert minimal.run() == 78
    assert minimal.left("refused") == "the outputs could not be kept"
    assert not (minimal.context / "output").exists()
    assert not (minimal.context / "output.new").exists()


@pytest.mark.parametrize(("left", "full"), [("0 7", True), ("7 0", True), ("10 100", False)])
def test_that_no_more_could_be_written_is_noted(minimal: Stage, left: str, full: bool) -> None:
    minimal.stub(
        "stat",
        f"""[[ "$1" != --file-system ]] || {{ echo {left}; exit; }}
exec /usr/bin/stat "$@" """,
    )
    assert minimal.run() == 0
    assert (minimal.left("output.full") is not None) is full
