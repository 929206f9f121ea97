"""What came of the probes where it is not simply open outside and closed when sealed."""

from tests.support.escape.table import PROBES

OPEN_BY_DESIGN = {
    "F6b": "Apptainer's overlay; without privileges to gain, as P10 and F6a show, it gives none",
    "F10b": "Linux shows it; it says nothing of where the data came from",
    "F13": "an input may be shared; locks are among the side channels that are documented",
    "K6c": "programs may read how the clock is kept; to change it needs a right that none has",
    "K6d": "programs may read how the clock is kept; to change it needs a right that none has",
    "K15a": "language run-times and debuggers need it; it changes the program alone",
    "K8g": "it is public: the configuration that the distribution built its kernel with",
    "S8": "somebody has to be told how it ended; the channel is eight bits wide",
}
# What `apptainer exec --containall` leaves open, started from a careless job. No judgement: it is
# what the seal adds to, and a change of Apptainer's shows here.
_BARE = """
F1o F1p F2f F2g F2i F2j F2k F4a F4b F4c F4d F4e F6b F7b F8a F8b F8c F8d F10a F11b F11c
F13 F14a K1a K1b K1c K1d K1e K1f K1g K1h K1i K1j K1k K1l K1m K1n K1o K1p K1q K1r K2a K2b
K2c K3b K3c K3d K4a K4c K4d K4e K4f K4g K6a K6b K6c K6d K6e K6f K12a K12b K12c K13a K13b
K13c K13d K13f K14 K15a K15b K15c K5f K5j K5k K10c K8g K9a K9b K9c K9d K9e K9f N1a N1b
N1c N1d N1e N1f N2a N2b N2c N2d N2e N2f N2g N3 N4a N4b N4c N5a N5b N5c N5d N6a N6b N7a
N7b N7c N8a N8b N8c N9a N9b N9c N10d N11z N12a N12b N12f N12g N12h N12i N12j N12k N12l
N12m N12n N18a P2a P2b P2c P2d P2e P2f P2g P3a P3d P4b P7a P10e S5c S8 E1a E1b E1c E1d
E1e E1f
"""
BARE_OPEN = frozenset(_BARE.split())


def outside(control: str, reason: str) -> str:
    """What docs/probes.md says of the outside."""
    return {
        "user": "open",
        "root": "open to root",
        "own": "open in a namespace of its own",
        "bare": "open in the bare container",
        "none": f"not open: {reason}",
    }[control]


def table() -> list[list[str]]:
    """The rows of docs/probes.md."""
    return [
        [
            probe.id,
            probe.name,
            outside(probe.control, probe.reason),
            "open" if probe.id in BARE_OPEN else "closed",
            "open by design" if probe.id in OPEN_BY_DESIGN else "closed",
        ]
        for probe in PROBES
    ]
