"""A file that goes to S3: at once when it is small, otherwise in parts."""

from collections.abc import Callable
from typing import Any

from slurmbridge.errors import StoreFailed

_MIB = 1024 * 1024
# S3 takes no more than 10,000 parts; so they grow on the way.
_PARTS, _GROWS_EVERY = 10_000, 1000
_LARGEST = 64 * _MIB
Ask = Callable[..., dict[str, Any]]


def part_bytes(number: int, first: int) -> int:
    """How large a part is; the first one has the number 1."""
    return min(_LARGEST, first * (1 + (number - 1) // _GROWS_EVERY))


class PartedUpload:
    """What is written until `finish`. `ask` calls S3 for one key; one part is held in memory."""

    def __init__(self, ask: Ask, marks: dict[str, str], part_mib: int) -> None:
        self._ask = ask
        self._marks = marks
        self._first = part_mib * _MIB
        self._part = bytearray()
        self._id: str | None = None
        self._tags: list[str] = []
        self.written = 0

    def write(self, data: bytes, /) -> int:
        """See Target."""
        self.written += len(data)
        view = memoryview(data)
        while view:
            # A part goes only when more is to come: what fits into one needs no parts.
            if len(self._part) == (size := part_bytes(len(self._tags) + 1, self._first)):
                self._send_part()
                continue
            room = size - len(self._part)
            self._part += view[:room]
            view = view[room:]
        return len(data)

    def finish(self) -> None:
        """Make it appear, unless something has its name.

        Raises:
            FileExistsError
            StoreFailed
        """
        if self._id is None:
            self._ask("put_object", Body=self._part, Metadata=self._marks, IfNoneMatch="*")
            return
        self._send_part()
        parts = [{"PartNumber": at, "ETag": tag} for at, tag in enumerate(self._tags, 1)]
        self._ask(
            "complete_multipart_upload",
            UploadId=self._id, MultipartUpload={"Parts": parts}, IfNoneMatch="*",
        )  # fmt: skip
        self._id = None

    def abort(self) -> None:
        """Have the server forget the parts."""
        if self._id is not None:
            self._ask("abort_multipart_upload", UploadId=self._id)

    def _send_part(self) -> None:
        if self._id is None:
            self._id = self._ask("create_multipart_upload", Metadata=self._marks)["UploadId"]
        number = len(self._tags) + 1
        if number > _PARTS:
            raise StoreFailed(f"more than the {_PARTS} parts that S3 takes")
        told = self._ask("upload_part", UploadId=self._id, PartNumber=number, Body=self._part)
        self._tags.append(told["ETag"])
        self._part = bytearray()
