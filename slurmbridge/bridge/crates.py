"""Research objects of finished Processes: what is known of one, and its files, in one crate."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slurmbridge import __version__
from slurmbridge.context.results import Results
from slurmbridge.errors import IllegalTransition, SchedulerUnavailable
from slurmbridge.model import Process
from slurmbridge.provenance import Provenance, write_bag, write_crate
from slurmbridge.store import ImageStore, ProcessStore

Usage = Callable[[str, int], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class CratePacker:
    """Packs crates; `usage` asks the accounting of a cluster for what a job has used."""

    processes: ProcessStore
    images: ImageStore
    results: Results
    usage: Usage

    def pack(self, process_id: str, target: Path, *, five_safes: bool) -> None:
        """Write a crate as the folder `target`, or as a bag in the ZIP `target`.

        Raises:
            UnknownProcess
            IllegalTransition: it has not ended.
            SchedulerUnavailable: accounting does not answer, or does not know the end yet.
            StagingFailed: a file is not there any more, or not the one that was carried.
        """
        process = self.processes.get(process_id)
        if not process.state.final:
            raise IllegalTransition(f"Process {process_id} has not ended: it is {process.state}")
        write = write_bag if five_safes else write_crate
        with self._files(process) as files:
            write(self._provenance(process), files, target)

    def _provenance(self, process: Process) -> Provenance:
        digest = process.image_sha256
        return Provenance(
            process=process,
            version=__version__,
            image=self.images.with_digest(digest) if digest else None,
            script=self.processes.script(process.id),
            attestation=self.processes.attestation(process.id),
            trace_verdict=process.traced.verdict if process.traced else None,
            requirements=process.requirements.text if process.requirements else None,
            accounting=self._accounting(process),
            events=tuple(self.processes.events(process.id)),
        )

    def _accounting(self, process: Process) -> Mapping[str, str]:
        if process.job_id is None:
            return {}
        found = self.usage(process.cluster, process.job_id)
        if found.get("End") == "Unknown":
            raise SchedulerUnavailable(
                f"accounting does not know yet how job {process.job_id} ended: try again"
            )
        return found

    @contextmanager
    def _files(self, process: Process) -> Iterator[Mapping[str, Path]]:
        if process.outputs_location is None:
            yield {}
            return
        names = [file.path for file in process.outputs]
        with self.results.files(process.outputs_location, names) as found:
            yield found
