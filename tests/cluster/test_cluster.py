"""The development cluster is the real thing."""

import pytest

from tests.support.cluster import Cluster

pytestmark = pytest.mark.cluster


def test_exec_passes_streams_arguments_and_exit_code(cluster: Cluster) -> None:
    script = 'cat; printf "%s|" "$@"; echo problem >&2; exit 7'
    result = cluster.run("login", "sh", "-c", script, "sh", "a b", "c'\"", "$d\n", stdin=b"\x00in")
    assert (result.exit_code, result.stdout) == (7, "\x00ina b|c'\"|$d\n|")
    assert result.stderr == "problem\n"


@pytest.mark.parametrize("user", ["slurmbridge", "alice", "bob", "root"])
def test_exec_runs_as_the_user_that_was_asked_for(cluster: Cluster, user: str) -> None:
    assert cluster.must("node2", "id", "-un", user=user) == f"{user}\n"


def test_an_unknown_node_is_refused_in_one_sentence(cluster: Cluster) -> None:
    result = cluster.run("nowhere", "true")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


def test_a_job_runs_on_all_three_nodes(cluster: Cluster) -> None:
    names = cluster.must("login", "srun", "--nodes=3", "hostname", user="alice").split()
    assert sorted(names) == ["node1", "node2", "node3"]


def test_a_job_over_its_memory_is_killed(cluster: Cluster) -> None:
    hungry = "import sys; x = bytearray(300 * 2**20); sys.exit(3)"
    result = cluster.run("login", "srun", "--mem=100M", "python3", "-c", hungry)
    assert result.exit_code not in {0, 3}
    fits = cluster.run("login", "srun", "--mem=500M", "python3", "-c", hungry)
    assert fits.exit_code == 3


def test_a_job_has_the_cores_that_it_asked_for_and_no_others(cluster: Cluster) -> None:
    count = "import os; print(len(os.sched_getaffinity(0)))"
    one = cluster.must("login", "srun", "--cpus-per-task=1", "python3", "-c", count)
    assert int(one) == 1


def test_accounts_are_enforced(cluster: Cluster) -> None:
    refused = cluster.run("login", "srun", "--account=nobody", "true", user="bob")
    assert refused.exit_code != 0
    for account in ("research", "teaching"):
        cluster.must("login", "srun", f"--account={account}", "true", user="bob")


def test_the_login_node_has_no_bridge(cluster: Cluster) -> None:
    assert cluster.run("login", "test", "-e", "/opt/slurmbridge/src/slurmbridge").exit_code == 1
