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

_RESULT = re.compile(rb"\) += ([^\"]+)$").search
_SOCKET = re.compile(
    rb"([^,\"\x7f-\xff]+), ([^,\"\x7f-\xff]+), ([^,\"\x7f-\xff]+?)(?:, \[.*\])?\) += (.+)$"
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
    return tuple(Contacted(call.line, call.time, key, kind, where, error) for where in found)


def make_socket(call: Call) -> tuple[Happening, ...] | None:
    """socket, socketpair."""
    found = _SOCKET(call.text)
    if found is None:
        return None
    family, kind, protocol = (word.decode() for word in found.groups()[:3])
    key: Key = call.thread.process.key
    return (SocketMade(call.line, call.time, key, family, kind, protocol, error_of(found[4])),)


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
