"""From a specification to the script that is submitted. Pure but for reading the image record."""

from dataclasses import dataclass
from pathlib import Path

from slurmbridge import __version__
from slurmbridge.container.apptainer import (
    SealedContainer,
    context_container,
    recording,
    seal,
)
from slurmbridge.model import Image, ProcessSpec, job_name
from slurmbridge.script import Directive, Script, ScriptContext, Templates


@dataclass(frozen=True, slots=True)
class Renderer:
    """The templates and where contexts lie."""

    templates: Templates
    contexts: Path
    log_limit_bytes: int = 256 * 1024 * 1024

    def render(self, process_id: str, spec: ProcessSpec, image: Image) -> Script:
        """Exactly what is submitted for this Process."""
        return self.templates.render(self._context(process_id, spec, image))

    def _context(self, process_id: str, spec: ProcessSpec, image: Image) -> ScriptContext:
        folder = f"{self.contexts}/{process_id}"
        container = context_container(folder, spec.trace)
        sealed = container if isinstance(container, SealedContainer) else container.sealed
        record = recording(spec.trace)
        return ScriptContext(
            version=Directive(__version__),
            process_id=Directive(process_id),
            template_digest=Directive(self.templates.digest),
            job_name=Directive(job_name(process_id)),
            account=Directive(spec.account) if spec.account else None,
            partition=Directive(spec.partition) if spec.partition else None,
            nodes=Directive(str(spec.resources.nodes)),
            tasks=Directive("1"),
            cpus_per_task=Directive(str(spec.resources.cpus_per_task)),
            memory=Directive(f"{spec.resources.memory_mib}M"),
            time_limit=Directive(str(spec.time_limit_minutes)),
            working_directory=Directive(folder),
            job_log=Directive(f"{folder}/job.log"),
            context=folder,
            image_path=image.path,
            image_sha256=Directive(image.sha256),
            image_offset=Directive(str(image.squashfs_offset)),
            log_limit=Directive(str(self.log_limit_bytes)),
            seal=seal(sealed),
            traced=record is not None,
            trace_filtered=record is not None and record.filtered,
            trace_calls=record.calls if record else "",
            trace_string_limit=Directive(str(record.string_limit if record else 0)),
        )
