"""For every test: no setting of the caller leaks in."""

import os

for _name in [name for name in os.environ if name.startswith("SLURMBRIDGE_")]:
    if _name not in {"SLURMBRIDGE_PORT", "SLURMBRIDGE_SSH_PORT"}:
        del os.environ[_name]
