"""Whose a file is, by its path in the container alone.

Where the container's folders lie is said in slurmbridge/container/apptainer.py. A path is as the
program gave it, without looking at links, unless the kernel told the real one.
"""

import re
from collections.abc import Mapping

from slurmbridge.rules import Place

_OWN = (
    "(?:self|thread-self|[0-9]+)(?:/task/[0-9]+)?"
    "(?:/(?:auxv|cgroup|cmdline|comm|exe|fd(?:/[0-9]+)?|fdinfo(?:/[0-9]+)?|limits|maps|mountinfo"
    "|mounts|oom_score|oom_score_adj|schedstat|smaps|smaps_rollup|stat|statm|status|task))?"
)
_PROC = (
    f"/proc(?:/(?:{_OWN}|cpuinfo|diskstats|filesystems|loadavg|meminfo|mounts|stat|swaps|uptime"
    "|version|vmstat|sys/kernel/(?:cap_last_cap|ngroups_max|osrelease|ostype|pid_max|threads-max"
    "|random/(?:boot_id|uuid|entropy_avail))|sys/vm/(?:max_map_count|mmap_min_addr"
    "|overcommit_memory|overcommit_ratio)|sys/fs/(?:file-max|nr_open|pipe-max-size)"
    "|sys/net/core/somaxconn))?"
)
_DEV = (
    "/dev(?:/(?:null|zero|full|random|urandom|tty|console|ptmx|pts(?:/[0-9]+)?|stdin|stdout|stderr"
    "|fd(?:/[0-9]+)?))?"
)
_SYS = (
    "/sys(?:/devices(?:/system(?:/(?:cpu|node)(?:/.*)?)?)?|/fs/cgroup(?:/.*)?"
    "|/kernel/mm/(?:transparent_hugepage|hugepages)(?:/.*)?)?"
)
# What the program prints to: pipes that the launcher has made in a mount which is gone by then.
_PRINTED = "/stdout|/stderr"
_BELOW = "(?:/.*)?"
# In this order; what no row knows is unexpected.
_TABLE: Mapping[Place, str] = {
    Place.INPUT: "/input" + _BELOW,
    Place.CODE: "/code" + _BELOW,
    Place.REQUIREMENT: "/requirements" + _BELOW,
    Place.OUTPUT: "/output" + _BELOW,
    Place.TEMPORARY: "/(?:tmp|var/tmp|dev/shm)" + _BELOW,
    Place.SYSTEM: "|".join((_PROC, _DEV, _SYS, _PRINTED)),
    Place.IMAGE: "/|/(?:bin|etc|lib|lib32|lib64|libx32|opt|run|sbin|usr|var|[.]singularity[.]d)"
    + _BELOW,
    Place.UNEXPECTED: ".*",
}
_PLACE = re.compile(
    "|".join(f"(?P<{place}>{pattern})" for place, pattern in _TABLE.items()).encode(), re.DOTALL
).fullmatch
# A `..` that is left would lead elsewhere.
_CLIMBS = re.compile(rb"(?:.*/)?\.\.(?:/.*)?", re.DOTALL).fullmatch


def place_of(path: bytes) -> Place:
    """Whose the file is."""
    found = _PLACE(path)
    assert found is not None
    assert found.lastgroup is not None
    return Place.UNEXPECTED if b".." in path and _CLIMBS(path) else Place(found.lastgroup)
