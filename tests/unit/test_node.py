"""What sysadmins install on nodes: by hand, by a package, and what each refuses."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from slurmbridge.cli import node

SCRIPT = node.PARTS / "sbnetwork"
INSTALL = node.PARTS / "install"
# What the plugin needs of Slurm's header, in a machine that has no Slurm.
SPANK_H = """
#include <stddef.h>
#include <stdint.h>
typedef struct spank_handle *spank_t;
typedef enum { ESPANK_SUCCESS, ESPANK_ENV_NOEXIST, ESPANK_NOSPACE } spank_err_t;
enum spank_item { S_JOB_ID, S_JOB_STEPID };
#define SPANK_PLUGIN(name, version) const char plugin_name[] = #name
spank_err_t spank_getenv(spank_t, const char *, char *, int);
spank_err_t spank_get_item(spank_t, enum spank_item, ...);
void slurm_error(const char *, ...);
"""


def cli(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: it is replaced by the script."""
    return subprocess.run(
        [sys.executable, "-m", "slurmbridge.cli", "node", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


@pytest.fixture
def compiler(tmp_path: Path) -> str:
    """One that finds a header of Slurm."""
    (tmp_path / "include/slurm").mkdir(parents=True)
    (tmp_path / "include/slurm/spank.h").write_text(SPANK_H)
    path = tmp_path / "cc"
    path.write_text(f'#!/bin/sh\nexec gcc -I{tmp_path}/include "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_a_package_gets_everything_below_its_folder(tmp_path: Path, compiler: str) -> None:
    root = tmp_path / "root"
    done = cli("install", "--root", str(root), CC=compiler)
    assert done.returncode == 0, done.stderr
    found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    scripts = [f"usr/libexec/slurmbridge/sbnetwork{end}" for end in ("", "-epilog", "-prolog")]
    plugin = "usr/lib/slurmbridge/sbspank.so"
    assert sorted(found) == sorted([*scripts, plugin, "etc/slurmbridge/network.conf"])
    assert all(stat.S_IMODE(found[one].stat().st_mode) == 0o755 for one in scripts)
    assert found[scripts[0]].read_bytes() == SCRIPT.read_bytes()
    symbols = subprocess.run(
        ["nm", "-D", found[plugin]], capture_output=True, text=True, check=True
    )
    assert " T slurm_spank_task_init_privileged" in symbols.stdout
    for line in ("PrologFlags=Alloc,DeferBatch", f"required /{plugin}", f"/{scripts[0]} guard"):
        assert line in done.stdout
    assert cli("uninstall", "--root", str(root)).returncode == 0
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["network.conf"]


def test_a_configuration_that_is_there_is_kept(tmp_path: Path, compiler: str) -> None:
    config = tmp_path / "root/etc/slurmbridge/network.conf"
    config.parent.mkdir(parents=True)
    config.write_text("nodes = n[1-4]\n")
    assert cli("install", "--root", str(tmp_path / "root"), CC=compiler).returncode == 0
    assert config.read_text() == "nodes = n[1-4]\n"


def test_without_slurm_s_headers_nothing_is_installed(tmp_path: Path) -> None:
    done = cli("install", "--root", str(tmp_path / "root"), CC="false")
    assert done.returncode == 1
    assert "libslurm-dev" in done.stderr
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]


def test_a_node_without_it_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if node.INSTALLED.exists():
        pytest.fail("this test is for a host on which nothing is installed")
    done = cli("check")
    assert (done.returncode, done.stdout) == (1, "")
    assert "run: slurmbridge node install" in done.stderr


def test_what_is_installed_can_be_read_before(tmp_path: Path) -> None:
    done = cli("parts")
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert {path.name for path in paths} == {"install", "network.conf", "sbnetwork", "sbspank.c"}
    assert all(path.is_file() for path in paths)


# --- the configuration ---


def configured(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """What `guard` says of a configuration, with an nft that prints what it is given."""
    config = tmp_path / "network.conf"
    config.write_text(text)
    # The script trusts no PATH of its caller: its copy is given another.
    script = tmp_path / "sbnetwork"
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    changed = SCRIPT.read_text().replace("PATH=/usr/sbin:", f"PATH={folder}:/usr/sbin:")
    script.write_text(changed.replace("/run/slurmbridge", str(tmp_path / "run")))
    for name, body in {
        "scontrol": 'printf "n1\\nn2\\n"',
        "getent": 'case $2 in n1) echo "192.0.2.1 STREAM n1";; n2) echo "192.0.2.2 STREAM";; esac',
        "nft": "cat",
        "ip": "true",
        "logger": "true",
        "sysctl": "true",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        ["bash", str(script), "guard"],
        capture_output=True,
        text=True,
        check=False,
        env={"SBNETWORK_CONFIG": str(config)},
    )


def test_the_rules_name_the_nodes_and_the_port(tmp_path: Path) -> None:
    done = configured(tmp_path, "# nodes\n\nnodes = n[1-2]  # all\nport=4000\n")
    assert done.returncode == 0, done.stderr
    assert "elements = { 192.0.2.1, 192.0.2.2 }" in done.stdout
    assert "udp dport 4000 ip saddr != @nodes counter drop" in done.stdout
    assert "udp dport 4000 meta skuid 0-4294967294 counter drop" in done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nodes is missing"),
        ("nodes =\n", "not KEY = VALUE"),
        ("nodes = n1\nprot = 1\n", "there is no key prot"),
        ("nodes = n1\nport = 80; reboot\n", "port: 80; reboot"),
        ("nodes = n1\nport = 123456\n", "port: 123456"),
        ("nodes = n1\nnetwork = 10\n", "network: two numbers"),
        ("nodes = n1\nmtu = $(id)\n", "mtu: $(id)"),
        ("nodes n1\n", "not KEY = VALUE: nodes n1"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(tmp_path: Path, text: str, said: str) -> None:
    done = configured(tmp_path, text)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stdout == ""


def test_a_node_without_an_address_is_named(tmp_path: Path) -> None:
    configured(tmp_path, "nodes = n[1-2]\n")
    getent = tmp_path / "bin/getent"
    getent.write_text("#!/bin/sh\nexit 2\n")
    done = subprocess.run(
        ["bash", str(tmp_path / "sbnetwork"), "guard"],
        capture_output=True,
        text=True,
        check=False,
        env={"SBNETWORK_CONFIG": str(tmp_path / "network.conf")},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "node n1 has no IPv4 address here" in done.stderr
