"""The probes of tests/support/escape, run outside, barely contained, and sealed."""

import contextlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from slurmbridge.client import Client
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.support.cluster import ROOT, Cluster, until
from tests.support.escape.table import PROBES
from tests.support.facts import EXIT_CODE, Site, make_plan, slurm_configuration

NODES = ("node1", "node2", "node3")
SMALL = {"image": "python", "time_limit_minutes": 5, "partition": "short", "account": "research"}
# Slurm's programs with what they load, so that they run in any image.
BUNDLE = """
set -eu
mkdir -p "$1" && cd "$1"
shift
cp -L /lib64/ld-linux-x86-64.so.2 loader
for name in scontrol squeue srun sbatch; do cp "/usr/bin/$name" .; done
cp -L $(ldd scontrol squeue srun sbatch | awk '$3 ~ "^/" { print $3 }' | sort -u) .
cp -L /usr/lib/x86_64-linux-gnu/libmunge.so.2 .
for name; do cp "/usr/lib/x86_64-linux-gnu/slurm-wlm/$name.so" .; done
"""
PLUGINS = ("auth_munge", "cred_munge", "hash_k12", "tls_none", "certgen_script", "compress_none")
NEIGHBOUR = """
import os, time
secret = open(os.environ["FILE"]).read()
for path in ("/output/secret", "/tmp/secret"):
    open(path, "w").write(secret)
print("ready", flush=True)
time.sleep(240)
"""


class Outcome(NamedTuple):
    """What came of a probe: open, closed, broken, crashed or hung; and why."""

    status: str
    evidence: str


Outcomes = dict[str, Outcome]


class Arms:
    """The ways to run the probes on one prepared cluster."""

    def __init__(self, cluster: Cluster, client: Client, site: Site) -> None:
        """The cluster as `prepared` leaves it."""
        self._cluster, self._client, self._site = cluster, client, site
        self._code, self._reports = site.plan["carried"], site.plan["reports"]

    def outside(self, control: str) -> Outcomes:
        """The probes with this control, as a careless job of the service user, or as root."""
        names = [probe.id for probe in PROBES if probe.control == control]
        facts = self._site.outside(control)
        command = ["python3", "-m", "escape", self._keep(self._name(control), facts), *names]
        return self._careless(control, command, facts)

    def bare(self) -> Outcomes:
        """All probes in a container that is only contained, in the same careless job."""
        facts = self._site.bare()
        name = self._name("bare")
        self._keep(name, facts)
        image = next(one.path for one in self._client.images() if one.name == "python")
        command = [
            "apptainer", "--silent", "exec", "--containall", "--pwd=/code", image,
            "python3", "-m", "escape", f"/code/{name}.json",
        ]  # fmt: skip
        return self._careless("bare", command, facts)

    def sealed(self, trace: str) -> Outcomes:
        """All probes in a Process."""
        token = self._site.plan["token"]
        name = f"{token}-sealed-{trace}"
        self._keep(name, self._site.sealed())
        spec = SMALL | {
            "command": ["python3", "-m", "escape", f"/code/{name}.json"],
            "code": {"source": f"code:{token}"},
            "inputs": [{"source": f"data:{token}"}],
            "resources": {"memory_mib": 1024},
            "trace": trace,
        }
        if trace != "off":
            # A tracer makes each slow, and one bomb with the default is enough.
            spec["limits"] = {"processes": 200}
        process = self._client.submit(parse_spec(spec))
        process = self._client.wait(process.id, timeout_seconds=120, poll_seconds=0.3)
        printed = self._client.log(process.id).data.decode()
        problem = self._client.log(process.id, "stderr").data.decode()[-2000:]
        assert printed.strip(), f"{process.state} {process.reason}: {problem}"
        outcomes = self._looked_up(_read(printed), name, str(process.nodes))
        return _judged(process, outcomes)

    def _careless(self, arm: str, command: list[str], facts: dict[str, Any]) -> Outcomes:
        node, report = self._site.node, f"{self._reports}/{arm}.out"
        self._cluster.must("bridge", "mkdir", "-p", f"{self._reports}/output-{arm}")
        name = self._keep(f"launch-{arm}", facts)
        launch = ["python3", "-m", "escape.launch", name, report, *command]
        here = ["env", f"--chdir={self._code}"]
        match arm:
            case "root":
                # script gives a terminal, which is one of the things that are looked for.
                launch = ["script", "-qefc", " ".join(launch), "/dev/null"]
                argv = [*here, "unshare", "--mount", *launch]
                result = self._cluster.run(node, *argv, user="root")
            case "own":
                own = [
                    "unshare",
                    "--user",
                    "--map-current-user",
                    "--keep-caps",
                    "--pid",
                    "--fork",
                    "--mount",
                ]
                result = self._cluster.run(node, *here, *own, *launch)
            case _:
                # With PMI, the step's manager is one of the things that are looked for.
                job = f"srun --quiet --nodelist={node} --mem=900 --mpi=pmi2 --chdir={self._code}"
                result = self._cluster.run("login", *job.split(), *launch)
        said = f"{arm} ended with {result.exit_code}: {result.stdout} {result.stderr}"
        assert result.exit_code == EXIT_CODE, said[-2000:]
        outcomes = _read(self._cluster.must(node, "cat", report))
        return self._looked_up(outcomes, self._name(arm), node)

    def _name(self, arm: str) -> str:
        return f"{self._site.plan['token']}-{arm}"

    def _keep(self, name: str, facts: dict[str, Any]) -> str:
        path = f"{self._code}/{name}.json"
        self._cluster.write("bridge", path, json.dumps(facts).encode())
        return path

    def _looked_up(self, outcomes: Outcomes, daemon: str, node: str) -> Outcomes:
        """With what can only be seen on the node, when all is over: whether the daemon is left."""
        if outcomes.get("P5", Outcome("", "")).evidence != "made":
            return outcomes
        # What is left has the argv of the run. Brackets, so that what looks does not find itself.
        pattern = f"[{daemon[0]}]{daemon[1:]}.json"
        left = self._cluster.run(node, "pgrep", "-f", pattern, user="root").stdout.split()
        for process in left:
            self._cluster.run(node, "kill", process, user="root")
        status = "open" if left else "closed"
        return outcomes | {"P5": Outcome(status, f"{len(left)} left on {node}")}


def _judged(process: Process, outcomes: Outcomes) -> Outcomes:
    """With what the submitter sees: which of the things in the outputs were carried."""
    carried = sorted(file.path for file in process.outputs if "/made-" in file.path)
    told = process.exit_code == EXIT_CODE
    judged = {"S8": Outcome("open" if told else "closed", f"exit code {process.exit_code}")}
    for probe in PROBES:
        kind = getattr(probe.run, "makes", None)
        if kind and outcomes[probe.id].evidence == "made":
            found = [path for path in carried if kind in path]
            evidence = f"carried: {found}" if found else "it stayed"
            judged[probe.id] = Outcome("open" if found else "closed", evidence)
    return outcomes | judged


def _read(printed: str) -> Outcomes:
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    assert lines, f"no answer, but {printed[-1000:]}"
    return {name: Outcome(*words) for name, words in json.loads(lines[-1]).items()}


def _packed() -> bytes:
    """The probes as a folder `escape`."""
    room = io.BytesIO()
    with tarfile.open(fileobj=room, mode="w") as archive:
        for path in sorted((ROOT / "tests/support/escape").glob("*.py")):
            archive.add(path, f"escape/{path.name}")
    return room.getvalue()


def _carry(cluster: Cluster, stack: contextlib.ExitStack, plan: dict[str, Any]) -> dict[str, str]:
    """Bring the probes, and what they need, to the stores. The addresses of all hosts."""
    code, data = plan["carried"], f"/shared/data/{plan['token']}"
    folders = (code, data, plan["reports"])
    stack.callback(cluster.run, "bridge", "rm", "-rf", *folders, user="root")
    cluster.must("bridge", "mkdir", "-p", *folders)
    cluster.must("bridge", "tar", "-x", "-C", code, stdin=_packed())
    for name in ("secret", "table"):
        cluster.write("bridge", f"{data}/{name}", plan["secret"].encode())
    cluster.must("login", "sh", "-c", BUNDLE, "sh", f"{code}/bundle", *PLUGINS)
    names = ("controller", "login", "bridge", *NODES)
    look = (
        'for name; do echo "$name $(getent ahostsv4 "$name" | cut -d " " -f 1 | head -n 1)"; done'
    )
    text = cluster.must("login", "sh", "-c", look, "sh", *names)
    addresses = dict(line.split() for line in text.splitlines())
    for arm, plugins in (("outside", f"{code}/bundle"), ("sealed", "/code/bundle")):
        configuration = slurm_configuration(addresses["controller"], plugins)
        cluster.write("bridge", f"{code}/{arm}.conf", configuration)
    cluster.write("bridge", f"{code}/plan.json", json.dumps(plan).encode())
    return addresses


def _neighbour(client: Client, stack: contextlib.ExitStack, plan: dict[str, Any]) -> Process:
    """Another Process of the same user, with a secret wherever it can have one."""
    token = plan["token"]
    spec = SMALL | {
        "command": ["python3", "-c", NEIGHBOUR],
        "inputs": [{"source": f"data:{token}"}],
        "environment": {"FILE": f"/input/{token}/secret", "MINE": plan["secret"]},
        "resources": {"memory_mib": 128},
        "trace": "off",
    }
    process = client.submit(parse_spec(spec))
    stack.callback(client.cancel, process.id)
    until("neighbour", lambda: b"ready" in client.log(process.id).data, seconds=30)
    return until("node of the neighbour", lambda: _placed(client.get(process.id)))


def _placed(process: Process) -> Process | None:
    return process if process.nodes and process.job_id else None


def _stage(node: str, plan: dict[str, Any]) -> "subprocess.Popen[bytes]":
    """Start a stage. It goes when its standard input ends, whatever becomes of this run."""
    command = ["env", f"--chdir={plan['carried']}", "python3", "-m", "escape.stage", "plan.json"]
    argv = [str(ROOT / "ci/cluster"), "exec", "--user", "root", node, "--", *command]
    return subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def _told(stage: "subprocess.Popen[bytes]") -> dict[str, list[Any]]:
    assert stage.stdout
    assert stage.stderr
    line = stage.stdout.readline()
    assert line, f"no stage: {stage.stderr.read().decode()[-2000:]}"
    found: dict[str, list[Any]] = json.loads(line)
    return found


def _cleared(stages: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End all stages, and tell what one of them could not take away."""
    for stage in stages:
        assert stage.stdin
        stage.stdin.close()
        stage.stdin = None
    problems = [stage.communicate(timeout=20)[1].decode() for stage in stages]
    assert [stage.returncode for stage in stages] == [0] * len(stages), problems


@contextlib.contextmanager
def prepared(cluster: Cluster, client: Client) -> Any:
    """Carry the probes to the cluster, set the stage on each node, start a neighbour; and undo."""
    plan = make_plan()
    with contextlib.ExitStack() as stack:
        addresses = _carry(cluster, stack, plan)
        stages = [_stage(node, plan) for node in NODES]
        stack.callback(_cleared, stages)
        neighbour = _neighbour(client, stack, plan)
        told = {node: _told(stage) for node, stage in zip(NODES, stages, strict=True)}
        yield Arms(cluster, client, Site(plan, addresses, neighbour, told))


def all_arms(arms: Arms) -> dict[str, Outcomes]:
    """Every arm, at once."""
    with ThreadPoolExecutor() as pool:
        started = {name: pool.submit(arms.outside, name) for name in ("user", "root", "own")}
        started |= {"bare": pool.submit(arms.bare)}
        started |= {
            f"sealed-{trace}": pool.submit(arms.sealed, trace) for trace in ("off", "audit")
        }
        return {name: one.result() for name, one in started.items()}
