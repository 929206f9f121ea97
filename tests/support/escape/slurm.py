"""S, E: Slurm, credentials, agents, the bridge, and what is done by variables and files."""

# What is tried is the system's own calls, by path and by descriptor.
# ruff: noqa: PTH208

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .files import folder, holds, inherited, listed, secret_in
from .harness import Facts, Finding, add, any_of, closed, opened, probe

_SECONDS = 2.0


def accepts(path: str) -> Callable[[Facts], Finding]:
    """Whether a socket in the file system accepts."""

    def run(facts: Facts) -> Finding:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(_SECONDS)
            asked.connect(path.format(**facts))
        return opened("accepted")

    return run


# Of these the cluster has munge's. For the others a listener stands in.
SOCKETS = (
    ("b", "/run/slurm/sack.socket", "Slurm's credential service"),
    ("c", "/run/dbus/system_bus_socket", "D-Bus"),
    ("d", "/run/docker.sock", "Docker"),
    ("e", "/run/systemd/private", "systemd"),
    ("f", "/run/systemd/journal/stdout", "the journal"),
    ("g", "/run/containerd/containerd.sock", "containerd"),
    ("h", "/tmp/.X11-unix/X77", "the X server"),
)
add("S1a", "munge accepts", accepts("/run/munge/munge.socket.2"))
for letter, path, what in SOCKETS:
    add(f"S1{letter}", f"{what} accepts", accepts(path))


@probe("S1i", "a step's socket of slurmd accepts")
def step_socket(facts: Facts) -> Finding:
    """Any in the spool."""
    names = os.listdir(facts["spool"])

    def one(name: str) -> Finding:
        return accepts(f"{facts['spool']}/{name}")(facts)

    return any_of([name for name in names if not name.startswith("job")], one)


@probe("S1j", "the agent for ssh answers")
def ssh_agent(facts: Facts) -> Finding:
    """Its list of keys is asked for, by the variable and by the path."""

    def one(path: str) -> Finding:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(_SECONDS)
            asked.connect(path)
            asked.send(struct.pack(">IB", 1, 11))
            answer = asked.recv(100)
        return opened(f"answer {answer[4]}")

    return any_of([os.environ.get("SSH_AUTH_SOCK", "/nonexistent"), facts["agent"]], one)


add("S2a", "slurm.conf can be read",
    lambda _: holds("/etc/slurm/slurm.conf", "SlurmctldHost"))  # fmt: skip
add("S2b", "Slurm's key can be read", secret_in("/etc/slurm/slurm.key"))
add("S2c", "Slurm's key for tokens can be read", secret_in("/etc/slurm/slurm.jwks"))
add("S2d", "munge's key can be read", lambda _: holds("/etc/munge/munge.key", ""), "root")
add("S2e", "slurmd's spool can be listed", folder("{spool}"))
add("S2g", "the script of another job can be read",
    lambda facts: holds(f"{facts['job_spool']}/slurm_script", "#!/bin/bash"))  # fmt: skip
add("S2h", "the bridge's database can be read", secret_in("{state}/slurmbridge.db"))
add("S2i", "a token of the bridge can be read", secret_in("{home}/.config/slurmbridge/token"))
add("S2j", "the bridge's configuration can be read", secret_in("{configuration}"))
add("S2k", "the bridge's program can be read", lambda facts: listed(Path(facts["program"])))
add(
    "S2l",
    "Slurm's programs are there",
    lambda _: listed(Path("/usr/lib/x86_64-linux-gnu/slurm-wlm")),
)


@probe("S2f", "the folder of another job can be listed")
def job_folder(facts: Facts) -> Finding:
    """In slurmd's spool."""
    return listed(Path(facts["job_spool"]))


def brought(*argv: str) -> Callable[[Facts], Finding]:
    """One of Slurm's programs, carried in with its libraries and a configuration of its own."""

    def run(facts: Facts) -> Finding:
        bundle = Path(facts["bundle"])
        # What comes as code has lost its mode.
        loader = Path(facts["scratch"]) / f"loader-{os.getpid()}"
        shutil.copy(bundle / "loader", loader)
        loader.chmod(0o700)
        environment = {"SLURM_CONF": str(Path(facts["bundle_configuration"])), "PATH": "/usr/bin"}
        done = subprocess.run(
            [str(loader), "--library-path", str(bundle), str(bundle / argv[0]), *argv[1:]],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=facts["patience"],
        )
        said = (done.stdout + done.stderr).strip()
        if done.returncode == 127 or "loading shared libraries" in said:
            raise RuntimeError(said)
        return (closed if done.returncode else opened)(said.replace("\n", " ")[-120:])

    def patient(facts: Facts) -> Finding:
        try:
            return run(facts)
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode(errors="replace").strip()[-120:]
            return closed(f"no answer in {facts['patience']} s: {said}")

    return patient


add("S3a", "scontrol reaches the controller", brought("scontrol", "show", "partition"), seconds=15)
add("S3b", "squeue reaches the controller", brought("squeue", "--noheader"), seconds=15)
add("S3c", "srun is let in by the controller", brought("srun", "--test-only", "true"), seconds=15)
add("S3d", "sbatch is let in by the controller", brought("sbatch", "--test-only", "--wrap=true"),
    seconds=15)  # fmt: skip
add("S3e", "scontrol sees the nodes", brought("scontrol", "show", "nodes"), seconds=15)


def named(*names: str) -> Callable[[Facts], Finding]:
    """Whether a variable is set; a `*` stands for anything at the end or the beginning."""

    def fits(variable: str) -> bool:
        return any(
            variable.startswith(name[:-1]) if name.endswith("*")
            else variable.endswith(name[1:]) if name.startswith("*")
            else variable == name
            for name in names
        )  # fmt: skip

    def run(_facts: Facts) -> Finding:
        found = sorted(filter(fits, os.environ))
        return opened(found[:4]) if found else closed("not set")

    return run


for letter, name in zip(
    "abcdefghijkl",
    (
        "SLURM_JWT", "SLURM_CONF", "MUNGE*", "KRB5CCNAME", "SSH_AUTH_SOCK", "AWS_*", "*_TOKEN",
        "SLURM_*", "SBATCH_*", "SLURMD_*", "*_PASSWORD", "DBUS_SESSION_BUS_ADDRESS",
    ),
    strict=True,
):  # fmt: skip
    add(f"S4{letter}", f"the variable {name} is set", named(name))
add("S5a", "a variable of PMI is set", named("PMI_*", "PMI2_*"))
add("S5b", "a variable of PMIx is set", named("PMIX_*"))


@probe("S5c", "a descriptor leads to the step's manager")
def manager(_facts: Facts) -> Finding:
    """The first word of PMI, on every socket: the second could be `spawn`."""

    def one(descriptor: int) -> Finding:
        with contextlib.closing(socket.socket(fileno=os.dup(descriptor))) as asked:
            asked.settimeout(_SECONDS)
            asked.send(b"cmd=init pmi_version=1 pmi_subversion=1\n")
            answer = asked.recv(200)
        return opened(answer) if b"response" in answer else closed("another answer")

    given = [int(os.environ["PMI_FD"])] if os.environ.get("PMI_FD", "").isdigit() else []
    return any_of([*given, *inherited(), 0, 1, 2], one)


add("S7a", "a variable leads to a display", named("DISPLAY", "WAYLAND_DISPLAY"))
add("S7b", "a variable names a cookie", named("XAUTHORITY"))
add("S7c", "a cookie can be read", secret_in("{home}/.Xauthority"))
add("S7d", "a variable names the user's run-time folder", named("XDG_RUNTIME_DIR"))
add("S7e", "the user's run-time folder can be listed", folder("/run/user/{uid}"))


@probe("S8", "the exit code is told to the submitter")
def exit_code(facts: Facts) -> Finding:
    """The run ends with the code that it was given; who submitted it looks."""
    return opened(f"will be {facts['exit_code']}")


def appeared(path: str) -> Callable[[Facts], Finding]:
    """Whether a variable of the job's has mounted something."""
    return lambda facts: holds(f"{path}/secret", facts["secret"])


add("E1a", "APPTAINER_BIND mounts a folder of the node", appeared("/bound-by-bind"), "bare")
add("E1b", "APPTAINER_MOUNT mounts a folder of the node", appeared("/bound-by-mount"), "bare")
add("E1c", "APPTAINERENV_ sets a variable", named("SET_BY_APPTAINER"), "bare")
add("E1d", "SINGULARITYENV_ sets a variable", named("SET_BY_SINGULARITY"), "bare")
add("E1e", "APPTAINERENV_ sets LD_PRELOAD", named("LD_PRELOAD"), "bare")
add("E1f", "a variable of Apptainer is set", named("APPTAINER*", "SINGULARITY*"))
add("E1g", "a variable that the program did not declare is set", named("LEFT_IN_THE_JOB"))


@probe("E3a", "python runs a file of the user's home")
def user_customize(_facts: Facts) -> Finding:
    """usercustomize, when it starts."""
    return (opened if "usercustomize" in sys.modules else closed)("usercustomize")


def _says(*argv: str) -> Callable[[Facts], Finding]:
    def run(facts: Facts) -> Finding:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=5, check=False, input="exit\n"
        )
        found = facts["secret"] in done.stdout
        return (opened if found else closed)("it was read" if found else "it was not")

    return run


add("E3b", "bash runs what BASH_ENV names", _says("bash", "-c", ":"))
add("E3c", "sh runs what ENV names", _says("sh", "-i"))
add("E3d", "bash runs .bashrc of the user's home", _says("bash", "-i"))
add("E3e", "python runs what PYTHONSTARTUP names", _says("python3", "-i"))
add("E3f", "Apptainer's configuration of the user can be read",
    secret_in("{home}/.apptainer/remote.yaml"))  # fmt: skip
add("E3g", "bash runs .profile of the user's home", _says("bash", "-lc", ":"))
