"""What one call about sockets says, as events."""

import re

from slurmbridge.trace.calls import Call, Reader
from slurmbridge.trace.events import (
    Address,
    Contact,
    Contacted,
    Happening,
    Key,
    Listening,
    SocketMade,
)
from slurmbridge.trace.lines import STRING, error_of, plain
from slurmbridge.trace.living import Process

_RESULT = re.compile(rb"\) += ([^\"]+)$").search
_SOCKET = re.compile(
    rb"([^,\"\x7f-\xff]+), ([^,\"\x7f-\xff]+), ([^,\"\x7f-\xff]+?)"
    rb"(?:, (?:\[.*\]|0x[0-9a-f]+|NULL))?\) += (.+)$"
).match
# Whole strings and whole paths are passed over, so that sent text is never taken for an address.
_ADDRESSES = re.compile(
    rb"(?:msg_name=)?\{sa_family=(\w+)((?:[^\"}]|"
    + STRING
    + rb"){0,4096})\}|"
    + STRING
    + rb"|<[^>]*>"
).finditer
_INET = re.compile(rb"(?:htons\((\d{1,5})\))?[^\"]*?(?:inet_addr\(|AF_INET6, )\"([^\"]*)\"").search
_UNIX = re.compile(rb'sun_path=(@?)"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL).search
_PORT = re.compile(rb"_port=htons\((\d{1,5})\)").search
_DECORATED = re.compile(rb"\d+<(socket:\[\d+\])>").match
_MOST_FAMILIES = 256
_CONTACTS = {
    b"connect": Contact.CONNECT,
    b"bind": Contact.BIND,
    b"accept": Contact.ACCEPT,
    b"accept4": Contact.ACCEPT,
    b"sendto": Contact.SEND,
    b"sendmsg": Contact.SEND,
    b"sendmmsg": Contact.SEND,
}


def address(family: bytes, text: bytes) -> Address:
    """What strace prints between `{sa_family=` and `}`."""
    if family == b"AF_UNIX":
        found = _UNIX(text)
        if found is None:
            return Address("AF_UNIX", b"", None)
        return Address("AF_UNIX", (b"\0" if found[1] else b"") + plain(found[2]), None)
    if family in {b"AF_INET", b"AF_INET6"}:
        host, port = _INET(text), _PORT(text)
        name = host[2] if host else b""
        return Address(family.decode(), name, int(port[1]) if port else None)
    return Address(family.decode(), text.lstrip(b", "), None)


def _error(call: Call) -> str | None:
    found = _RESULT(call.text)
    return None if found is None else error_of(found[1])


def contact(call: Call) -> tuple[Happening, ...] | None:
    """Calls with an address; without one (a socket that is connected) they tell nothing."""
    error = _error(call)
    if error is None:
        return None
    kind = _CONTACTS[call.name]
    key = call.thread.process.key
    found = {
        address(match[1], match[2]): None for match in _ADDRESSES(call.text) if match[1] is not None
    }
    if not found and kind is Contact.ACCEPT and not error:
        # It asks for no address: somebody was there all the same.
        found = {Address(_family(call), b"", None): None}
    return tuple(Contacted(call.line, call.time, key, kind, where, error) for where in found)


def _family(call: Call) -> str:
    """Of the socket, if the caller or one of those it descends from has made it."""
    decoration = _DECORATED(call.text)
    process: Process | None = call.thread.process
    while decoration is not None and process is not None:
        if family := process.families.get(decoration[1]):
            return family
        process = process.parent
    return "AF_UNSPEC"


def make_socket(call: Call) -> tuple[Happening, ...] | None:
    """socket, socketpair."""
    found = _SOCKET(call.text)
    if found is None:
        return None
    family, kind, protocol = (word.decode() for word in found.groups()[:3])
    if made := _DECORATED(found[4]):
        families = call.thread.process.families
        families.pop(made[1], None)
        families[made[1]] = family
        if len(families) > _MOST_FAMILIES:
            del families[next(iter(families))]
    key: Key = call.thread.process.key
    return (SocketMade(call.line, call.time, key, family, kind, protocol, error_of(found[4])),)


_FAMILIES = (
    "UNSPEC", "UNIX", "INET", "AX25", "IPX", "APPLETALK", "NETROM", "BRIDGE", "ATMPVC", "X25",
    "INET6", "ROSE", "DECnet", "NETBEUI", "SECURITY", "KEY", "NETLINK", "PACKET", "ASH", "ECONET",
    "ATMSVC", "RDS", "SNA", "IRDA", "PPPOX", "WANPIPE", "LLC", "IB", "MPLS", "CAN", "TIPC",
    "BLUETOOTH", "IUCV", "RXRPC", "ISDN", "PHONET", "IEEE802154", "CAIF", "ALG", "NFC", "VSOCK",
    "KCM", "QIPCRTR", "SMC", "XDP", "MCTP",
)  # fmt: skip
_TYPES = {1: "STREAM", 2: "DGRAM", 3: "RAW", 4: "RDM", 5: "SEQPACKET", 6: "DCCP", 10: "PACKET"}
_TYPE_FLAGS = {0o2000000: "SOCK_CLOEXEC", 0o4000: "SOCK_NONBLOCK"}
_INET_PROTOCOLS = {
    0: "IP", 1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 33: "DCCP", 41: "IPV6", 47: "GRE",
    58: "ICMPV6", 132: "SCTP", 136: "UDPLITE", 143: "ETHERNET", 255: "RAW", 256: "SMC",
    262: "MPTCP",
}  # fmt: skip
_NETLINK_PROTOCOLS = {
    0: "ROUTE", 2: "USERSOCK", 3: "FIREWALL", 4: "SOCK_DIAG", 5: "NFLOG", 6: "XFRM", 7: "SELINUX",
    8: "ISCSI", 9: "AUDIT", 10: "FIB_LOOKUP", 11: "CONNECTOR", 12: "NETFILTER", 13: "IP6_FW",
    14: "DNRTMSG", 15: "KOBJECT_UEVENT", 16: "GENERIC", 18: "SCSITRANSPORT", 19: "ECRYPTFS",
    20: "RDMA", 21: "CRYPTO", 22: "SMC",
}  # fmt: skip
_PROTOCOLS = {
    "AF_INET": ("IPPROTO_", _INET_PROTOCOLS),
    "AF_INET6": ("IPPROTO_", _INET_PROTOCOLS),
    "AF_NETLINK": ("NETLINK_", _NETLINK_PROTOCOLS),
}


def socket_words(family: int, kind: int, protocol: int) -> tuple[str, str, str]:
    """The arguments of a socket as strace prints them, as far as their names are known here."""
    name = f"AF_{_FAMILIES[family]}" if family < len(_FAMILIES) else f"{family:#x} /* AF_??? */"
    rest = kind & ~0xF & ~sum(_TYPE_FLAGS)
    low = _TYPES.get(kind & 0xF)
    words = [f"SOCK_{low}" if low else f"{kind & 0xF:#x} /* SOCK_??? */"]
    words += [word for bit, word in _TYPE_FLAGS.items() if kind & bit]
    words += [f"{rest:#x}"] if rest else []
    prefix, known = _PROTOCOLS.get(name, ("", {}))
    last = f"{prefix}{known[protocol]}" if protocol in known else str(protocol)
    return name, "|".join(words), last


def listen(call: Call) -> tuple[Happening, ...] | None:
    """listen."""
    error = _error(call)
    key = call.thread.process.key
    return None if error is None else (Listening(call.line, call.time, key, error),)


NETWORK: dict[bytes, Reader] = {
    **dict.fromkeys(_CONTACTS, contact),
    b"socket": make_socket,
    b"socketpair": make_socket,
    b"listen": listen,
}
