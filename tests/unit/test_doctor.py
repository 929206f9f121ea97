"""`slurmbridge doctor`, with nodes that are played."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from slurmbridge.cli import doctor
from slurmbridge.model import NodeReadiness
from tests.support.bench import Bench, PlayedExaminer, PlayedSite
from tests.support.front import NOW, opened

ABLE = NodeReadiness(
    node="n1", observed_at=NOW, can_seal=True, can_trace=True, warnings=("little space",)
)
UNABLE = NodeReadiness(
    node="n2", observed_at=NOW, can_seal=False, can_trace=False, problems=("no \x1bfuse",)
)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(doctor, "LOOK_SECONDS", 0.001)
    with opened() as front:
        bench = Bench(front, PlayedSite(front, nodes=[ABLE, UNABLE]), tmp_path)
        monkeypatch.setenv("SLURMBRIDGE_CONFIG", bench.configuration())
        yield bench


def test_all_nodes_are_examined_and_what_is_missing_is_said(bench: Bench) -> None:
    result = bench.run("doctor")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "examining n1, n2",
        "n1: job 7 pending (Resources)",
        "n2: job 7 pending (Resources)",
        "n1: done",
        "n2: done",
    ]
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["NODE", "PARTITIONS", "SEAL", "TRACE", "EXAMINED", "WHY", "NOT"]
    assert rows[1][:4] == ["n1", "short", "yes", "yes"]
    assert rows[2][:4] == ["n2", "short", "no", "no"]
    assert rows[2][6:] == ["no", "\\x1bfuse"]
    assert rows[3] == ["n1:", "warning:", "little", "space"]
    assert bench.site.scheduler_.closed


def test_a_named_node_is_examined_alone_and_counts_alone(bench: Bench) -> None:
    result = bench.run("doctor", "--node", "n1")
    assert result.exit_code == 0
    assert bench.site.examiner_.asked == ["n1"]
    assert "n2" not in result.stdout


def test_where_no_node_is_known_nothing_is_well(bench: Bench) -> None:
    bench.site.nodes = []
    result = bench.run("doctor", "--cached")
    assert result.exit_code == 1
    assert "no Runner has reported the nodes of the cluster yet" in result.stderr


def test_who_gives_no_answer_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = count(step=0.3)
    monkeypatch.setattr("time.monotonic", lambda: next(moments))
    bench.site.examiner_ = PlayedExaminer({"n2"})
    result = bench.run("doctor", "--timeout", "1")
    assert result.exit_code == 1
    assert bench.site.examiner_.given_up == {"n2"}


def test_an_old_answer_is_none_to_a_new_question(bench: Bench) -> None:
    bench.site.nodes = [ABLE.model_copy(update={"remark": "pending"})]
    assert bench.run("doctor").exit_code == 1
    assert bench.run("doctor", "--cached").exit_code == 0


def test_what_is_known_is_shown_without_examining(bench: Bench) -> None:
    assert bench.run("doctor", "--cached").exit_code == 1
    assert bench.site.examiner_.asked == []
    nodes = bench.json("doctor", "--cached", code=1)["nodes"]
    assert [node["can_seal"] for node in nodes] == [True, False]
    bench.site.nodes = [ABLE]
    assert bench.run("doctor", "--cached").exit_code == 0


def test_a_node_that_was_never_examined_is_not_taken_for_able(bench: Bench) -> None:
    bench.site.nodes = [NodeReadiness(node="n3")]
    result = bench.run("doctor", "--cached")
    assert result.exit_code == 1
    assert "not examined" in result.stdout


def test_an_unknown_node_and_an_unknown_cluster_are_said(bench: Bench) -> None:
    result = bench.run("doctor", "--cached", "--node", "nowhere")
    assert (result.exit_code, result.stderr) == (
        2,
        "slurmbridge: error: there is no node nowhere\n",
    )
    bench.site.reported = False
    assert bench.run("doctor", "--cached").exit_code == 1
