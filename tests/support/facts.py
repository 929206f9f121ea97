"""What the probes of tests/support/escape are told: addresses, paths, names, in each arm."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from slurmbridge.model import Process

EXIT_CODE = 11
_SECRET_VARIABLES = (
    "http_proxy", "HTTPS_PROXY", "SLURM_JWT", "MUNGE_SOCKET", "KRB5CCNAME", "AWS_SECRET_ACCESS_KEY",
    "GITHUB_TOKEN", "SBATCH_ACCOUNT", "SLURMD_NODENAME", "DB_PASSWORD", "DBUS_SESSION_BUS_ADDRESS",
    "PMIX_SERVER_URI", "LEFT_IN_THE_JOB",
)  # fmt: skip
# Names of the node's folders that a sealed program has no need to know.
TOLD = ("/shared", "/var/lib/slurmbridge", "/opt/slurmbridge", "/home/slurmbridge", "contexts")
# What a container sees, by `apptainer exec --containall` and by the seal.
_BARE = {
    "input": "/code",
    "input_file": "/code/plan.json",
    "output": "/tmp",
    "code": "/code",
    "scratch": "/tmp",
    "shm": "/dev/shm",
    "seal": "/.singularity.d",
    "handle_folder": "/code",
    "bundle": "/code/bundle",
    "bundle_configuration": "/code/sealed.conf",
    "careless": False,
}
_SEALED = {
    **_BARE,
    "input": "/input",
    "output": "/output",
    "handle_folder": "/output",
    "seal": "/.sb",
}


@dataclass(frozen=True)
class Site:
    """What is arranged for one run, and where."""

    plan: dict[str, Any]
    addresses: dict[str, str]
    neighbour: Process
    # What each node's stage told: processes and keys.
    told: Mapping[str, dict[str, list[Any]]]

    @property
    def node(self) -> str:
        """Where the neighbour runs: outside, its job has to be found."""
        assert self.neighbour.nodes
        return self.neighbour.nodes

    def outside(self, arm: str) -> dict[str, Any]:
        """For a careless job on the neighbour's node."""
        vault, code = self.plan["vault"], self.plan["carried"]
        return self._facts([self.node]) | {
            "stand_ins": arm == "root",
            "environment": environment(self.plan),
            "careless": True,
            "input": f"{vault}/input",
            "input_file": f"{vault}/input/table",
            "output": f"{self.plan['reports']}/output-{arm}",
            "code": f"{vault}/code",
            "scratch": f"{vault}/scratch",
            "shm": f"{vault}/scratch",
            "seal": f"{vault}/seal",
            "handle_folder": "/shared",
            "bundle": f"{code}/bundle",
            "bundle_configuration": f"{code}/outside.conf",
        }

    def bare(self) -> dict[str, Any]:
        """For a container that is only contained, in such a job."""
        return self.outside("bare") | _BARE

    def sealed(self) -> dict[str, Any]:
        """For a Process, which may run on any node."""
        own = {"input_file": f"/input/{self.plan['token']}/table", "patience": 4}
        return self._facts(list(self.told)) | _SEALED | own

    def _facts(self, nodes: list[str]) -> dict[str, Any]:
        others = [name for name in self.told if name not in nodes]
        network = self.addresses[self.node].split(".")[:2]
        return self.plan | {
            "exit_code": EXIT_CODE,
            "patience": 8,
            "most": 4500,
            "node_names": list(self.told),
            "own": self._addresses(nodes),
            "others": self._addresses(others or nodes),
            **{name: [self.addresses[name]] for name in ("controller", "login", "bridge")},
            "broadcast": ".".join([*network, "255", "255"]),
            "resolver": "127.0.0.11",
            "victims": [one for node in nodes for one in self.told[node]["victims"]],
            "keys": [one for node in nodes for one in self.told[node]["keys"]],
            "neighbour": f"/shared/contexts/{self.neighbour.id}",
            "job_spool": f"/var/spool/slurmd/job{self.neighbour.job_id or 0:05}",
            "spool": "/var/spool/slurmd",
            "contexts": "/shared/contexts",
            "images": "/shared/images",
            "results": "/shared/results",
            "store": "/shared/data",
            "real_home": "/home/slurmbridge",
            "user_name": "slurmbridge",
            "program": "/opt/slurmbridge/venv",
            "told": [*TOLD, self.plan["vault"]],
            "bound_bytes": 1 << 30,
        }

    def _addresses(self, names: Iterable[str]) -> list[str]:
        return [self.addresses[name] for name in names]


def make_plan() -> dict[str, Any]:
    """Names and numbers that no other run has."""
    token = f"escape-{secrets.token_hex(4)}"
    vault = f"/tmp/{token}"
    return {
        "token": token,
        # Its first byte is written by a probe, in place.
        "secret": f"secret-{secrets.token_hex(8)}",
        "uid": 2000,
        "vault": vault,
        "carried": f"/shared/code/{token}",
        "reports": f"/shared/results/{token}",
        "home": f"{vault}/home",
        "suid": f"{vault}/id",
        "agent": f"{vault}/agent",
        "metadata": ["169.254.169.254"],
        "metadata_port": 80,
        "link_local": "fe80::5b:1",
        "port": 21000 + secrets.randbelow(9000),
        "abstract": token,
        "sysv_key": 0x5B000000 + secrets.randbelow(1 << 20),
        "queue": token,
        "user_key": f"{token}-user",
        "session_key": f"{token}-session",
        "state": "/var/lib/slurmbridge",
        "configuration": "/etc/slurmbridge/slurmbridge.toml",
    }


def environment(plan: dict[str, Any]) -> dict[str, str]:
    """Variables of a careless job, of which a sealed program must get none."""
    home, code, vault = plan["home"], plan["carried"], plan["vault"]
    return {
        **dict.fromkeys(_SECRET_VARIABLES, plan["secret"]),
        "HOME": home,
        "SLURM_CONF": "/etc/slurm/slurm.conf",
        "SSH_AUTH_SOCK": plan["agent"],
        "DISPLAY": ":77",
        "XAUTHORITY": f"{home}/.Xauthority",
        "XDG_RUNTIME_DIR": f"/run/user/{plan['uid']}",
        "BASH_ENV": f"{home}/.shell",
        "ENV": f"{home}/.shell",
        "PYTHONSTARTUP": f"{home}/.startup.py",
        "APPTAINER_BIND": f"{vault}:/bound-by-bind,{code}:/code",
        "APPTAINER_MOUNT": f"type=bind,source={vault},destination=/bound-by-mount",
        "APPTAINERENV_SET_BY_APPTAINER": "1",
        "SINGULARITYENV_SET_BY_SINGULARITY": "1",
        "APPTAINERENV_LD_PRELOAD": "libm.so.6",
    }


def slurm_configuration(controller: str, plugins: str) -> bytes:
    """What Slurm's programs need to find the controller, wherever they were carried."""
    lines = (
        "ClusterName=slurmbridge",
        f"SlurmctldHost=controller({controller})",
        f"PluginDir={plugins}",
        "MessageTimeout=5",
        "AuthType=auth/munge",
        "SlurmdSpoolDir=/tmp",
        "StateSaveLocation=/tmp",
        "NodeName=node[1-3] CPUs=4",
        "PartitionName=main Default=YES Nodes=ALL",
    )
    return "\n".join((*lines, "")).encode()
