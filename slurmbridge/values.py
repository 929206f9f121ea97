"""What every value of slurmbridge is made from."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Value(BaseModel):
    """A frozen value that knows all its fields and takes no other."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _plain_folder(path: Path) -> Path:
    if not re.fullmatch(r"(/[A-Za-z0-9._][A-Za-z0-9._+-]*)+", str(path)):
        raise ValueError(
            f"{str(path)!r} must be absolute, of letters, digits and ._+- only: "
            "it stands on #SBATCH lines"
        )
    return path


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"must be absolute: {str(path)!r}")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
PlainFolder = Annotated[Path, AfterValidator(_plain_folder)]
