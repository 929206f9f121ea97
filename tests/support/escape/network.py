"""N: hosts, addresses, sockets, and what tells of them."""

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from .calls import HIGH, call
from .harness import Facts, Finding, add, any_of, closed, error_name, opened, probe

_SECONDS = 2.0


def tcp(who: str, port: int) -> Callable[[Facts], Finding]:
    """Whether a host answers, if only by refusing."""

    def one(address: str) -> Finding:
        try:
            socket.create_connection((address, port), _SECONDS).close()
        except ConnectionRefusedError:
            return opened(f"{address} answered: ECONNREFUSED")
        return opened(f"{address} accepted")

    return lambda facts: any_of(facts[who], one)


for letter, port in zip("abcdef", (22, 6817, 6818, 6819, 111, 2049), strict=True):
    add(f"N1{letter}", f"the own node answers on TCP port {port}", tcp("own", port))
for letter, who, port, what in (
    ("a", "controller", 6817, "slurmctld"),
    ("b", "controller", 6819, "slurmdbd"),
    ("c", "controller", 3306, "the controller's database"),
    ("d", "login", 22, "the login node's sshd"),
    ("e", "bridge", 8642, "the bridge's API"),
    ("f", "others", 6818, "the slurmd of another node"),
    ("g", "others", 22, "the sshd port of another node"),
):
    add(f"N2{letter}", f"{what} answers", tcp(who, port))


def _stays(address: str) -> bool:
    """Whether what is sent to the address cannot leave this host."""
    if [name for _, name in socket.if_nameindex()] == ["lo"]:
        return True
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
        try:
            local.bind((address, 0))
        except OSError:
            return False
    return True


@probe("N3", "the metadata service of a cloud answers")
def metadata(facts: Facts) -> Finding:
    """Only where the address is the node's own, or there is no way out at all."""
    if not _stays(facts["metadata"][0]):
        raise RuntimeError("the address is not local: not tried")
    return tcp("metadata", facts["metadata_port"])(facts)


def _send(family: int, target: tuple[object, ...], *options: tuple[int, int, int]) -> Finding:
    with socket.socket(family, socket.SOCK_DGRAM) as datagram:
        for level, name, value in options:
            datagram.setsockopt(level, name, value)
        return opened(f"sent {datagram.sendto(b'x', target)} byte to {target[0]}")


@probe("N4a", "a datagram to port 53 of the controller can be sent")
def datagram(facts: Facts) -> Finding:
    """One byte."""
    return _send(socket.AF_INET, (facts["controller"][0], 53))


@probe("N4b", "a broadcast can be sent")
def broadcast(facts: Facts) -> Finding:
    """To the cluster's own network."""
    option = (socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return _send(socket.AF_INET, (facts["broadcast"], 9), option)


@probe("N4c", "a multicast can be sent")
def multicast(_facts: Facts) -> Finding:
    """It ends on this host: its time to live is 0."""
    option = (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
    return _send(socket.AF_INET, ("239.255.77.77", 9), option)


@probe("N5a", "the name of a host can be looked up")
def lookup(_facts: Facts) -> Finding:
    """The controller's."""
    try:
        return opened(socket.getaddrinfo("controller", 6817)[0][4][0])
    except socket.gaierror as error:
        return closed(error.args[1])


@probe("N5b", "resolv.conf names a server")
def resolver(_facts: Facts) -> Finding:
    """Any."""
    servers = [
        line for line in Path("/etc/resolv.conf").read_text().splitlines() if "nameserver" in line
    ]
    return opened(servers) if servers else closed("it names none")


@probe("N5c", "a name server answers a question")
def question(facts: Facts) -> Finding:
    """Asked without the C library."""
    name = b"".join(bytes([len(part)]) + part for part in (b"controller", b""))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.settimeout(_SECONDS)
        asked.connect((facts["resolver"], 53))
        asked.send(struct.pack(">6H", 77, 0x100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1))
        return opened(f"{len(asked.recv(512))} bytes")


@probe("N5d", "/etc/hosts names a host of the cluster")
def hosts(facts: Facts) -> Finding:
    """By name or by address."""
    text = Path("/etc/hosts").read_text()
    named = [word for word in (*facts["node_names"], *facts["own"]) if word in text.split()]
    return opened(named) if named else closed("none")


def _other_links() -> list[tuple[int, str]]:
    return [(number, name) for number, name in socket.if_nameindex() if name != "lo"]


@probe("N6a", "all hosts on a link can be reached by IPv6")
def all_nodes(_facts: Facts) -> Finding:
    """ff02::1 on every link but lo."""
    return any_of(_other_links(), lambda link: _send(socket.AF_INET6, ("ff02::1", 9, 0, link[0])))


@probe("N6b", "a link-local IPv6 address can be reached")
def link_local(facts: Facts) -> Finding:
    """An address of the node."""
    return any_of(
        socket.if_nameindex(),
        lambda link: _send(socket.AF_INET6, (facts["link_local"], 9, 0, link[0])),
    )


@probe("N7a", "a listener on the node's loopback accepts")
def loopback(facts: Facts) -> Finding:
    """Refusing is no answer here: every namespace has a loopback."""
    socket.create_connection(("127.0.0.1", facts["port"]), _SECONDS).close()
    return opened("accepted")


@probe("N7b", "a service on the node's loopback answers a datagram")
def loopback_datagram(facts: Facts) -> Finding:
    """It sends back what it gets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.settimeout(_SECONDS)
        asked.connect(("127.0.0.1", facts["port"]))
        asked.send(b"x")
        return opened(asked.recv(10))


@probe("N7c", "a listener on another address of the node's loopback accepts")
def loopback_network(facts: Facts) -> Finding:
    """All of 127/8 is local."""
    socket.create_connection(("127.77.77.77", facts["port"]), _SECONDS).close()
    return opened("accepted")


def _abstract(kind: socket.SocketKind) -> Callable[[Facts], Finding]:
    def run(facts: Facts) -> Finding:
        with socket.socket(socket.AF_UNIX, kind) as asked:
            asked.connect(f"\0{facts['abstract']}-{kind.name}")
        return opened("accepted")

    return run


add("N8a", "an abstract socket of the node accepts", _abstract(socket.SOCK_STREAM))
add("N8b", "an abstract datagram socket of the node accepts", _abstract(socket.SOCK_DGRAM))
add("N8c", "an abstract packet socket of the node accepts", _abstract(socket.SOCK_SEQPACKET))


def made(family: int, kind: int, protocol: int = 0) -> Callable[[Facts], Finding]:
    """Whether a socket can be made. It is never connected."""

    def run(_facts: Facts) -> Finding:
        os.close(call("socket", family, kind, protocol))
        return opened("made")

    return run


_STREAM, _DATAGRAM, _RAW, _SEQPACKET = 1, 2, 3, 5
add("N9a", "a stream socket to the hypervisor can be made", made(40, _STREAM))
add("N9b", "a packet socket to the hypervisor can be made", made(40, _SEQPACKET))
add("N9c", "a vsock can be made with bits above the 32nd", made(40 | HIGH, _STREAM))
add("N10a", "a raw ICMP socket can be made", made(2, _RAW, 1), "root")
add("N10b", "a raw packet socket can be made", made(17, _RAW, 0x300), "root")
add("N10c", "a datagram packet socket can be made", made(17, _DATAGRAM, 0x300), "root")
add("N10d", "a ping socket can be made", made(2, _DATAGRAM, 1))
add("N10e", "a raw IPv6 socket can be made", made(10, _RAW, 58), "root")
add("N10f", "a packet socket can be made with bits above the 32nd", made(17 | HIGH, _RAW), "root")
add("N11a", "an XDP socket can be made", made(44, _RAW), "root")
_ABSENT = "the kernel of the cluster has no such family"
for letter, name, family, kind in (
    ("b", "ALG", 38, _SEQPACKET),
    ("c", "BLUETOOTH", 31, _RAW),
    ("d", "CAN", 29, _RAW),
    ("e", "TIPC", 30, _DATAGRAM),
    ("f", "RDS", 21, _SEQPACKET),
    ("g", "KCM", 41, _DATAGRAM),
    ("h", "QIPCRTR", 42, _DATAGRAM),
    ("i", "KEY", 15, _RAW),
    ("j", "LLC", 26, _STREAM),
    ("k", "SMC", 43, _STREAM),
    ("l", "NFC", 39, _RAW),
):
    add(f"N11{letter}", f"a socket of family {name} can be made", made(family, kind), "none",
        reason=_ABSENT)  # fmt: skip


@probe("N11z", "a socket of a family that no program needs can be made")
def families(_facts: Facts) -> Finding:
    """All that a kernel may know but UNIX, INET, INET6 and NETLINK."""
    found = []
    for family in set(range(1, 48)) - {1, 2, 10, 16}:
        for kind in (_STREAM, _DATAGRAM, _RAW, _SEQPACKET):
            try:
                os.close(call("socket", family, kind, 0))
                found.append(family)
            except OSError:
                continue
    return opened(f"families {found}") if found else closed("none of 43")


@probe("N12a", "network links other than lo are listed")
def links(_facts: Facts) -> Finding:
    """By netlink."""
    names = [name for _, name in _other_links()]
    return opened(names) if names else closed("only lo")


@probe("N12b", "there is a route")
def routes(_facts: Facts) -> Finding:
    """In the tables of the kernel, for either protocol."""
    four = Path("/proc/net/route").read_text().splitlines()[1:]
    six = Path("/proc/net/ipv6_route")
    found = [line.split()[0] for line in four]
    found += [line for line in six.read_text().splitlines() if " lo" not in line] if (
        six.exists()
    ) else []  # fmt: skip
    return opened(f"{len(found)} routes") if found else closed("none")


def _netlink(kind: int, flags: int, body: bytes) -> int:
    """Ask the kernel for a change; its error number."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asked:
        asked.settimeout(_SECONDS)
        asked.send(struct.pack("=IHHII", 16 + len(body), kind, 5 | flags, 1, 0) + body)
        return -int(struct.unpack("=i", asked.recv(4096)[16:20])[0])


def _change(make: int, undo: int, body: bytes) -> Callable[[Facts], Finding]:
    def run(_facts: Facts) -> Finding:
        code = _netlink(make, 0x600, body)
        if code:
            return closed(error_name(OSError(code, "")))
        _netlink(undo, 0, body)
        return opened("made, and undone")

    return run


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


_LOCAL = socket.inet_aton("127.9.9.9")
_ADDRESS = struct.pack("=BBBBI", 2, 32, 0, 254, 1) + _attribute(2, _LOCAL) + _attribute(1, _LOCAL)
# A blackhole for a network that is reserved for documentation.
_ROUTE = struct.pack("=8BI", 2, 24, 0, 0, 254, 3, 0, 6, 0) + _attribute(
    1, socket.inet_aton("192.0.2.0")
)
_LINK = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _attribute(3, b"sbprobe0\0") + _attribute(
    18, _attribute(1, b"veth\0")
)  # fmt: skip
add("N12c", "an address can be given to a link", _change(20, 21, _ADDRESS), "root")
add("N12d", "a route can be added", _change(24, 25, _ROUTE), "root")
add("N12e", "a link can be added", _change(16, 17, _LINK), "root")
for letter, name, protocol in (
    ("f", "SOCK_DIAG", 4),
    ("g", "XFRM", 6),
    ("h", "SELINUX", 7),
    ("i", "AUDIT", 9),
    ("j", "CONNECTOR", 11),
    ("k", "NETFILTER", 12),
    ("l", "KOBJECT_UEVENT", 15),
    ("m", "GENERIC", 16),
):
    add(f"N12{letter}", f"a netlink socket of {name} can be made", made(16, _RAW, protocol))
add("N12n", "a netlink socket of AUDIT can be made with bits above the 32nd",
    made(16, _RAW, 9 | HIGH))  # fmt: skip


@probe("N18a", "a variable names a proxy")
def proxies(_facts: Facts) -> Finding:
    """In either case of letters."""
    found = [name for name in os.environ if name.lower().endswith("_proxy")]
    return opened(found) if found else closed("none")


def in_home(path: str, word: str) -> Callable[[Facts], Finding]:
    """Whether a file of the service user's home, or of the variable's, is read."""

    def one(home: str) -> Finding:
        return opened(f"{home}/{path}") if word in (Path(home) / path).read_text() else closed("-")

    return lambda facts: any_of([os.environ.get("HOME", "/"), facts["home"]], one)


add("N18b", "git is configured to use a proxy", in_home(".gitconfig", "proxy"))
add("N18c", "ssh is configured to use a proxy", in_home(".ssh/config", "ProxyCommand"))
add("N18d", "passwords for hosts are in .netrc", in_home(".netrc", "password"))


def _joined(descriptor: int) -> Finding:
    try:
        return opened(f"setns gave {call('setns', descriptor, 0x40000000)}")
    finally:
        os.close(descriptor)


@probe("N19a", "the network namespace of process 1 can be joined", "root")
def join_first(_facts: Facts) -> Finding:
    """By its file in /proc."""
    return _joined(os.open("/proc/1/ns/net", os.O_RDONLY))


@probe("N19b", "a network namespace of the node can be opened")
def named_namespace(_facts: Facts) -> Finding:
    """Where `ip netns` keeps them."""
    paths = [path for folder in ("/run/netns", "/var/run/netns", "/run/docker/netns")
             if Path(folder).is_dir() for path in Path(folder).iterdir()]  # fmt: skip

    def one(path: Path) -> Finding:
        os.close(os.open(path, os.O_RDONLY))
        return opened(path)

    return any_of(paths, one)


@probe("N19c", "the network namespace of a process can be joined by its descriptor", "root")
def join_by_process(_facts: Facts) -> Finding:
    """The parent's."""
    return _joined(call("pidfd_open", os.getppid(), 0))
