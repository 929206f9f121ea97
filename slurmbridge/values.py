"""What every value of slurmbridge is made from."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A frozen value that knows all its fields and takes no other."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
