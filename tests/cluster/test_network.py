"""The private network of a job: its own nodes and nothing else, for those who ask, and gone after.

Each probe runs where it must find nothing, and, as its control, where it must find something.
"""

import json
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, until

pytestmark = pytest.mark.cluster
PROBE = (Path(__file__).parents[1] / "support/netprobe.py").read_bytes()
NODES = ("node1", "node2", "node3")
PORT = 48790
SCRIPT = """#!/bin/bash
set -u
P={probe}
private() {{ SLURMBRIDGE_NETWORK=private srun --mpi=none --overlap "$@"; }}
{body}
"""


@dataclass
class Site:
    """The cluster, and a folder that all its hosts share."""

    cluster: Cluster
    folder: str

    @property
    def probe(self) -> str:
        """Where the probe lies."""
        return f"{self.folder}/netprobe.py"

    def begin(
        self, body: str, *, nodes: int = 2, user: str = "slurmbridge", options: str = ""
    ) -> str:
        """Submit a script; its job id."""
        script = SCRIPT.format(probe=self.probe, body=body)
        argv = (
            *("sbatch", "--parsable", f"--nodes={nodes}", f"--ntasks={nodes}", "--mem=200"),
            *("--ntasks-per-node=1", "--partition=short", "--account=research", "--time=3"),
            *(f"--output={self.folder}/%j.out", *options.split()),
        )
        return self.cluster.must("login", *argv, user=user, stdin=script.encode()).strip()

    def end(self, job: str) -> str:
        """Wait for a job; what it printed."""

        def over() -> bool:
            return self.state(job) in {"COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"}

        until(f"the end of job {job}", over, seconds=120)
        return self.said(job)

    def state(self, job: str) -> str:
        """As the controller tells it."""
        shown = self.cluster.must("login", "scontrol", "show", "job", job)
        return re.search(r"JobState=(\w+)", shown)[1]  # type: ignore[index]

    def said(self, job: str) -> str:
        """What a job has printed."""
        return self.cluster.run("login", "cat", f"{self.folder}/{job}.out", user="root").stdout

    def run(self, body: str, **options: Any) -> dict[str, list[Any]]:
        """Run a script; the JSON lines after each `echo --NAME`, and others as `NAME text`."""
        found: dict[str, list[Any]] = {}
        name = ""
        for line in self.end(self.begin(body, **options)).splitlines():
            if line.startswith("--"):
                name = line[2:]
                found[name] = []
            elif line.startswith("{"):
                found.setdefault(name, []).append(json.loads(line))
            else:
                found.setdefault(f"{name} text", []).append(line)
        return found

    def left(self, node: str) -> list[str]:
        """What there is of private networks on a node."""
        script = (
            "ls /run/netns /run/slurmbridge/networks 2>/dev/null | grep -E '^(sbt?-)?[0-9]+$';"
            " ip -o link | grep -oE 'sbx[0-9]+|job0|tunnel'; true"
        )
        return self.cluster.must(node, "sh", "-c", script, user="root").split()

    def address(self, node: str) -> str:
        """Of a host of the cluster."""
        return self.cluster.must("node1", "getent", "ahostsv4", node).split()[0]


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    folder = f"/shared/network-{secrets.token_hex(4)}"
    cluster.must("login", "install", "-d", "-m", "1777", folder, user="root")
    found = Site(cluster, folder)
    cluster.write("login", found.probe, PROBE)
    for node in NODES:
        cluster.must(node, "/usr/libexec/slurmbridge/sbnetwork", "guard", user="root")
    yield found
    cluster.must("login", "rm", "-rf", folder, user="root")


def gone(site: Site) -> None:
    until("empty nodes", lambda: not any(site.left(node) for node in NODES), seconds=30)


def test_a_node_is_found_to_be_ready(site: Site) -> None:
    for node in NODES:
        said = site.cluster.must(node, "/usr/libexec/slurmbridge/sbnetwork", "check", user="root")
        assert said == "private networks can be made on this node\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("s/^Prolog\\[.*/Prolog = (null)/", "slurm.conf has no Prolog"),
        ("s/^Epilog\\[.*/Epilog = (null)/", "slurm.conf has no Epilog"),
        ("s/^PrologFlags.*/PrologFlags = Alloc/", "PrologFlags has no DeferBatch"),
    ],
)
def test_a_node_whose_slurm_is_not_told_is_found_not_to_be(
    site: Site, line: str, said: str
) -> None:
    script = """
    scontrol show config | sed "$1" >/tmp/said; printf '#!/bin/sh\\ncat /tmp/said\\n' >/tmp/scontrol
    chmod 755 /tmp/scontrol; mount --bind /tmp/scontrol "$(command -v scontrol)"
    /usr/libexec/slurmbridge/sbnetwork check
    """
    argv = ("unshare", "--mount", "bash", "-c", script, "bash", line)
    done = site.cluster.run("node1", *argv, user="root")
    assert done.exit_code == 1
    assert said in done.stdout
    assert len(done.stdout.splitlines()) == 1, done.stdout


def test_what_slurm_still_uses_is_not_removed_in_part(site: Site) -> None:
    install = "/opt/slurmbridge/network/install"
    done = site.cluster.run("node1", install, "uninstall", user="root")
    assert done.exit_code == 1
    assert "slurm.conf still names it" in done.stderr
    test_a_node_is_found_to_be_ready(site)


def test_tasks_meet_each_other_and_nobody_else(site: Site) -> None:
    hosts = [*NODES, "controller", "login", "bridge", "database"]
    ports = {"controller": 6817, "login": 22, "bridge": 8642, "database": 5432}
    places = " ".join(f"{site.address(host)}:{ports.get(host, 6818)}" for host in hosts)
    found = site.run(
        f"""
echo --meet; private -N3 -n3 python3 $P meet 7000
echo --inside; private -N3 -n3 python3 $P reach {places} 127.0.0.11:53 192.0.2.1:80
echo --outside; srun --mpi=none --overlap -N3 -n3 python3 $P reach {places}
echo --batch; python3 $P reach {places}
""",
        nodes=3,
    )
    names = {"sb1": "node1", "sb2": "node2", "sb3": "node3"}
    assert sorted(one["node"] for one in found["meet"]) == list(NODES)
    assert all(one["found"] == names for one in found["meet"])
    for one in found["inside"]:
        assert one.pop("127.0.0.11:53") == "reached", "its own loopback, where nobody listens"
        assert set(one.values()) == {"Network is unreachable"}
    assert len(found["inside"]) == 3
    # The controls: a step that does not ask, and the batch script, are where they always were.
    for one in (*found["outside"], *found["batch"]):
        assert set(one.values()) == {"reached"}
    assert (len(found["outside"]), len(found["batch"])) == (3, 1)


def test_a_task_sees_its_network_and_no_tunnel(site: Site) -> None:
    found = site.run(
        """
# Long lines of several tasks would be mixed.
view() { "$@" -N2 -n2 sh -c "python3 $P view >$P.\\$SLURM_PROCID"; cat $P.0 $P.1; }
echo --inside; view private
echo --outside; view srun --mpi=none --overlap
"""
    )
    assert (len(found["inside"]), len(found["outside"])) == (2, 2)
    for one in found["inside"]:
        assert set(one["links"]) == {"lo", "job0"}
        assert one["sys"] == ["job0", "lo"]
        assert one["links"]["job0"]["linkinfo"]["info_kind"] == "macvlan"
        assert one["links"]["job0"]["mtu"] == 1450
        assert "vxlan" not in json.dumps(one["links"])
        assert [(route["dst"], route["dev"]) for route in one["routes"]] == [
            ("10.99.0.0/16", "job0")
        ]
        assert PORT not in one["udp"]
        assert one["hosts"] == {"localhost": "127.0.0.1", "sb1": "10.99.0.1", "sb2": "10.99.0.2"}
    for one in found["outside"]:
        assert "eth0" in one["sys"]
        assert "sbguard" in one["links"]
        assert any(route["dst"] == "default" for route in one["routes"])
        assert PORT in one["udp"]


def test_two_jobs_have_the_same_addresses_and_do_not_meet(site: Site) -> None:
    first = site.begin("private -N2 -n2 python3 $P serve 7100 35 first")
    until("the first network", lambda: f"sb-{first}" in site.left("node1"))
    second = site.begin(
        "private -N2 -n2 python3 $P serve 7200 20 second &\n"
        "sleep 3; echo --other; private -N1 -n1 python3 $P find 7100;"
        " echo --own; private -N1 -n1 python3 $P find 7200; wait"
    )
    own = site.begin("true", options=f"--dependency=after:{second}")
    text = site.end(second)
    asked = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    other, mine = asked[:2]
    assert all(answer.startswith("nothing") for answer in other.values()), other
    assert [mine["10.99.0.1"], mine["10.99.0.2"]] == ["second", "second"]
    # The control: the first job served all the while.
    assert site.state(first) in {"RUNNING", "COMPLETED"}
    assert '"told": 0' in site.end(first)
    site.end(own)


def test_who_asks_where_there_is_no_network_does_not_run(site: Site) -> None:
    body = """
echo --one; private -N1 -n1 python3 $P view; echo "code $?"
SLURMBRIDGE_NETWORK=public srun --mpi=none -N1 -n1 python3 $P view; echo "code $?"
srun --mpi=none -N1 -n1 python3 $P reach 127.0.0.1:9 >/dev/null; echo "code $?"
"""
    found = site.run(body, nodes=1)
    said = "\n".join(found["one text"])
    assert "it has no private network on this node" in said
    assert "SLURMBRIDGE_NETWORK is not private" in said
    codes = [line for line in found["one text"] if line.startswith("code")]
    assert codes[-1] == "code 0"
    assert "code 0" not in codes[:2]


def test_no_task_gets_a_way_to_have_commands_run(site: Site) -> None:
    """By the descriptor of Slurm's PMI a program can have a step begun on the node itself."""
    found = site.run(
        """
echo --none; private -N2 -n2 env | grep -c ^PMI_FD=
echo --pmi2; SLURMBRIDGE_NETWORK=private srun --mpi=pmi2 --overlap -N2 -n2 env | grep -c ^PMI_FD=
"""
    )
    assert (found["none text"], found["pmi2 text"]) == (["0"], ["2"])


def test_jobs_of_others_are_left_alone(site: Site) -> None:
    job = site.begin("private -N2 -n2 python3 $P view; echo code $?; sleep 5", user="alice")
    until("the job's beginning", lambda: site.state(job) != "PENDING")
    assert site.left("node1") == []
    assert "it has no private network on this node" in site.end(job)
    gone(site)


def injection(site: Site, job: str, text: str) -> tuple[str, ...]:
    """A frame for the task of a job on node1."""
    vni = str(1 + int(job) % 16777214)
    target = (site.address("node1"), str(PORT), vni, "02:5b:00:00:00:01", "10.99.0.1")
    return ("python3", site.probe, "inject", *target, "7300", text)


def dropped(site: Site, node: str) -> int:
    """Packets that the rules of a node have dropped."""
    rules = site.cluster.must(node, "nft", "list", "table", "inet", "slurmbridge", user="root")
    return sum(int(number) for number in re.findall(r"counter packets (\d+)", rules))


def test_nobody_outside_can_put_a_frame_into_a_network(site: Site) -> None:
    body = "private -N1 -n1 -w node1 python3 $P listen 7300 25"
    job = site.begin(body, options="--nodelist=node1,node2")
    until("the network", lambda: f"sb-{job}" in site.left("node1"))
    time.sleep(2)
    before = dropped(site, "node1")
    for node in NODES:
        for user in ("alice", "slurmbridge", "root"):
            said = site.cluster.must(node, *injection(site, job, f"{node}-{user}"), user=user)
            assert json.loads(said) == {"sent": False, "error": "Operation not permitted"}
    for host in ("login", "controller", "bridge"):
        for user in ("alice", "root"):
            site.cluster.must(host, *injection(site, job, f"{host}-{user}"), user=user)
    assert dropped(site, "node1") >= before + 2 * 3 * 3
    # The control: without the rules such a frame arrives.
    nft = ("nft", "delete", "table", "inet", "slurmbridge")
    site.cluster.must("node1", *nft, user="root")
    try:
        site.cluster.must("login", *injection(site, job, "control"), user="alice")
    finally:
        site.cluster.must("node1", "/usr/libexec/slurmbridge/sbnetwork", "guard", user="root")
    assert json.loads(site.end(job).splitlines()[-1]) == {"heard": ["control"]}


def test_nobody_can_have_the_port_of_the_tunnels(site: Site) -> None:
    for node in NODES:
        for user in ("alice", "slurmbridge"):
            said = site.cluster.must(node, "python3", site.probe, "bind", str(PORT), user=user)
            assert set(json.loads(said).values()) == {"Address already in use"}, said
        control = site.cluster.must(
            node, "python3", site.probe, "bind", str(PORT + 1), user="alice"
        )
        assert set(json.loads(control).values()) == {"bound"}


def test_nothing_is_left_of_networks(site: Site) -> None:
    jobs = [site.begin("private -N3 -n3 true", nodes=3) for _ in range(12)]
    jobs.append(site.begin("private -N3 -n3 sleep 60", nodes=3))
    until("the last one", lambda: site.state(jobs[-1]) == "RUNNING", seconds=120)
    site.cluster.must("login", "scancel", jobs[-1])
    for job in jobs:
        site.end(job)
    gone(site)
    assert {site.state(job) for job in jobs} == {"COMPLETED", "CANCELLED"}


def test_a_process_that_escaped_its_step_does_not_keep_a_network(site: Site) -> None:
    job = site.begin("private -N2 -n2 sleep 30")
    until("the network", lambda: f"sb-{job}" in site.left("node1"))
    stay = f"setsid ip netns exec sb-{job} sleep 600 >/dev/null 2>&1 & echo $!"
    pid = site.cluster.must("node1", "sh", "-c", stay, user="root").strip()
    time.sleep(1)
    site.cluster.must("login", "scancel", job)
    gone(site)
    assert site.cluster.run("node1", "test", "-e", f"/proc/{pid}", user="root").exit_code == 1


def test_a_killed_slurmd_leaves_nothing(site: Site) -> None:
    job = site.begin("private -N2 -n2 sleep 40", options="--nodelist=node2,node3")
    until("the network", lambda: f"sb-{job}" in site.left("node2"))
    site.cluster.must("node2", "pkill", "-KILL", "-x", "slurmd", user="root")
    site.cluster.must("login", "scancel", job)
    gone(site)


def test_what_was_forgotten_is_swept(site: Site) -> None:
    job = site.begin("private -N2 -n2 sleep 30")
    until("the network", lambda: f"sb-{job}" in site.left("node1"))
    old = "99999999"
    make = f"ip netns add sb-{old}; ip netns add sbt-{old}; mkdir /run/slurmbridge/networks/{old}"
    site.cluster.must("node1", "sh", "-c", make, user="root")
    said = site.cluster.must("node1", "/usr/libexec/slurmbridge/sbnetwork", "sweep", user="root")
    assert said == f"sbnetwork: removed what job {old} had left\n"
    assert set(site.left("node1")) == {f"sb-{job}", f"sbt-{job}", job}
    site.cluster.must("login", "scancel", job)
    gone(site)
