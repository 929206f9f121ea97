"""Runs on nodes, in and out of private networks; needs nothing but Python. Prints JSON.

usage: netprobe.py view
       netprobe.py meet PORT
       netprobe.py reach HOST:PORT ...
       netprobe.py serve PORT SECONDS TOKEN
       netprobe.py find PORT
       netprobe.py listen PORT SECONDS
       netprobe.py inject NODE PORT VNI MAC ADDRESS INNER-PORT TEXT
       netprobe.py bind PORT
"""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

SECONDS = 3.0


def view() -> object:
    """What of networks can be seen from here."""
    links = subprocess.run(["ip", "-d", "-j", "link"], capture_output=True, text=True, check=True)
    routes = subprocess.run(["ip", "-j", "route"], capture_output=True, text=True, check=True)
    ports = [line.split()[1] for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    hosts = [line.split() for line in Path("/etc/hosts").read_text().splitlines()]
    return {
        "node": socket.gethostname(),
        "links": {link["ifname"]: link for link in json.loads(links.stdout)},
        "sys": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "routes": json.loads(routes.stdout),
        "udp": sorted(int(port.partition(":")[2], 16) for port in ports),
        "hosts": {name: words[0] for words in hosts if words for name in words[1:]},
    }


def peers() -> dict[str, str]:
    """The nodes of the job, by the names that /etc/hosts has for them."""
    hosts = [line.split() for line in Path("/etc/hosts").read_text().splitlines()]
    return {words[1]: words[0] for words in hosts if len(words) == 2 and words[1][:2] == "sb"}


def reach(*places: str) -> object:
    """Whether each can be reached: who refuses has been reached."""
    return {place: _reached(place) for place in places}


def _reached(place: str) -> str:
    host, _, port = place.rpartition(":")
    try:
        with closing(socket.create_connection((host, int(port)), SECONDS)):
            return "reached"
    except ConnectionRefusedError:
        return "reached"
    except TimeoutError:
        return "timed out"
    except OSError as error:
        return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def serve(port: str, seconds: str, token: str) -> object:
    """Tell a token to whoever asks."""
    deadline, told = time.monotonic() + float(seconds), 0
    with socket.create_server(("", int(port))) as server:
        server.settimeout(0.2)
        while time.monotonic() < deadline:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.sendall(token.encode())
                told += 1
    return {"told": told}


def meet(port: str) -> object:
    """Every task serves and asks all others, by name."""
    me = socket.gethostname()
    serving = threading.Thread(target=serve, args=(port, "8", me))
    serving.start()
    found = {name: _ask(name, int(port), 6.0) for name in peers()}
    # Others may ask later.
    serving.join()
    return {"node": me, "found": found}


def find(port: str) -> object:
    """What is told at the first addresses of the network."""
    prefix = next(iter(peers().values())).rpartition(".")[0]
    return {f"{prefix}.{n}": _ask(f"{prefix}.{n}", int(port), 0.0) for n in range(1, 4)}


def _ask(host: str, port: int, patience: float) -> str:
    deadline = time.monotonic() + patience
    while True:
        try:
            with socket.create_connection((host, port), SECONDS) as connection:
                return connection.recv(100).decode()
        except OSError as error:
            if time.monotonic() >= deadline:
                return f"nothing: {error}"
            time.sleep(0.1)


def listen(port: str, seconds: str) -> object:
    """What comes by UDP."""
    deadline, heard = time.monotonic() + float(seconds), []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", int(port)))
        receiver.settimeout(0.2)
        while time.monotonic() < deadline:
            try:
                heard.append(receiver.recv(1000).decode())
            except TimeoutError:
                continue
    return {"heard": sorted(set(heard))}


def inject(
    node: str, port: str, vni: str, mac: str, address: str, inner_port: str, text: str
) -> object:
    """Send a frame to a task as a tunnel would, by an ordinary socket."""
    source = ".".join([*address.split(".")[:3], "77"])
    payload = text.encode()
    udp = struct.pack("!HHHH", 4000, int(inner_port), 8 + len(payload), 0) + payload
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
        socket.inet_aton(source), socket.inet_aton(address),
    )  # fmt: skip
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    frame = bytes.fromhex(mac.replace(":", "") + "025b0000ffff" + "0800") + head + udp
    packet = struct.pack("!II", 0x08000000, int(vni) << 8) + frame
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            for _ in range(3):
                sender.sendto(packet, (node, int(port)))
                time.sleep(0.05)
        except OSError as error:
            return {"sent": False, "error": os.strerror(error.errno or 0)}
    return {"sent": True}


def bind(port: str) -> object:
    """Whether a program can have a port, on all addresses or on one."""
    found = {}
    for address in ("", "127.0.0.1", socket.gethostbyname(socket.gethostname())):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taker:
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                taker.bind((address, int(port)))
                found[address or "all"] = "bound"
            except OSError as error:
                found[address or "all"] = os.strerror(error.errno or 0)
    return found


def main() -> None:
    """One of the above."""
    probes = (view, meet, reach, serve, find, listen, inject, bind)
    probe = {one.__name__: one for one in probes}[sys.argv[1]]
    # One write for each task, so that lines of several do not mix.
    os.write(1, json.dumps(probe(*sys.argv[2:])).encode() + b"\n")


if __name__ == "__main__":
    main()
