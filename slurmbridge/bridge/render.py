"""From a specification to the script that is submitted. Pure but for what is read."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from slurmbridge import __version__
from slurmbridge.container.apptainer import (
    USUAL_OUTPUTS,
    OutputRules,
    SealedContainer,
    context_container,
    environment,
    recording,
    seal,
)
from slurmbridge.container.facts import expected_facts, expected_of_pods
from slurmbridge.container.frameworks import framework, shares
from slurmbridge.model import Helpers, Image, InstalledRequirements, job_name
from slurmbridge.script import Directive, Script, ScriptContext, Templates, words
from slurmbridge.spec import ParallelKind, ProcessSpec, TraceFull

_MIB = 1024 * 1024
_GIB = 1024 * _MIB


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the script reads of its context beside the staged files."""

    command: bytes
    environment: bytes
    # Of the first pod.
    expected_facts: bytes
    # Of all pods.
    expected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Equipment:
    """What was installed for a Process: where its image lies on the cluster, and what it is."""

    path: str
    found: InstalledRequirements


def prepared(
    folder: Path,
    spec: ProcessSpec,
    image: Image,
    outputs: OutputRules,
    *,
    requirements: bool = False,
) -> Prepared:
    """The command, the whole environment, and what the container must be found to be."""
    sealed = _sealed(str(folder), spec, image, outputs, requirements)
    variables = environment(spec, image, requirements=requirements)
    return Prepared(
        command=words(spec.command),
        environment=words(f"{name}={value}" for name, value in variables.items()),
        expected_facts="".join(f"{line}\n" for line in expected_facts(sealed)).encode(),
        expected=expected_of_pods(sealed, spec.parallel.nodes if spec.parallel else 1),
    )


def _sealed(
    folder: str, spec: ProcessSpec, image: Image, outputs: OutputRules, requirements: bool
) -> SealedContainer:
    container = context_container(folder, spec, image, outputs=outputs, requirements=requirements)
    return container if isinstance(container, SealedContainer) else container.sealed


@dataclass(frozen=True, slots=True)
class Renderer:
    """The templates and where contexts lie; limits in bytes."""

    templates: Templates
    contexts: Path
    log_limit: int = _GIB // 4
    outputs: OutputRules = USUAL_OUTPUTS
    trace_limit: int = 4 * _GIB
    # The nodes that a job keeps away from; it raises NoNodeReady when there is no other.
    avoid: Callable[[ProcessSpec], tuple[str, ...]] = lambda _spec: ()

    def prepared(
        self,
        process_id: str,
        spec: ProcessSpec,
        image: Image,
        equipment: Equipment | None = None,
    ) -> Prepared:
        """What goes into the context for this Process."""
        return prepared(
            self.contexts / process_id,
            spec,
            image,
            self.outputs,
            requirements=equipment is not None,
        )

    def render(
        self,
        process_id: str,
        spec: ProcessSpec,
        image: Image,
        helpers: Helpers,
        equipment: Equipment | None = None,
        *,
        code_sha256: str | None = None,
    ) -> Script:
        """Exactly what is submitted for this Process, whose staged code has this digest."""
        context = self._context(process_id, spec, image, helpers, equipment)
        if code_sha256:
            context = replace(context, code_sha256=Directive(code_sha256))
        return self.templates.render(context)

    def _trace_limit(self, spec: ProcessSpec) -> int:
        asked = spec.limits.trace_mib
        return self.trace_limit if asked is None else min(asked * _MIB, self.trace_limit)

    def _context(
        self,
        process_id: str,
        spec: ProcessSpec,
        image: Image,
        helpers: Helpers,
        equipment: Equipment | None,
    ) -> ScriptContext:
        folder = f"{self.contexts}/{process_id}"
        sealed = _sealed(folder, spec, image, self.outputs, equipment is not None)
        record = recording(spec.trace)
        avoided = self.avoid(spec)
        parallel = spec.parallel
        kind = parallel.kind if parallel else None
        shared = shares(spec)
        nodes = parallel.nodes if parallel else spec.resources.nodes
        tasks = parallel.tasks_per_node if parallel else spec.resources.tasks_per_node
        return ScriptContext(
            version=Directive(__version__),
            process_id=Directive(process_id),
            template_digest=Directive(self.templates.digest),
            job_name=Directive(job_name(process_id)),
            account=Directive(spec.account) if spec.account else None,
            partition=Directive(spec.partition) if spec.partition else None,
            exclude=Directive(",".join(avoided)) if avoided else None,
            nodes=Directive(str(nodes)),
            tasks=Directive(str(nodes * tasks)),
            tasks_per_node=Directive(str(tasks)),
            cpus_per_task=Directive(str(spec.resources.cpus_per_task)),
            memory=Directive(f"{spec.resources.memory_mib}M"),
            gres=Directive(spec.resources.gres) if spec.resources.gres else None,
            time_limit=Directive(str(spec.time_limit_minutes)),
            warn_signal=Directive(spec.warn.signal) if spec.warn else None,
            warn_seconds=Directive(str(spec.warn.seconds)) if spec.warn else None,
            working_directory=Directive(folder),
            job_log=Directive(f"{folder}/job.log"),
            context=folder,
            image_path=image.path,
            image_sha256=Directive(image.sha256),
            image_offset=Directive(str(image.squashfs_offset)),
            tmp_bytes=Directive(str(sealed.bounds.tmp_bytes)),
            shm_bytes=Directive(str(sealed.bounds.shm_bytes)),
            helper_folder=helpers.path,
            sbseal_sha256=Directive(helpers.sbseal_sha256),
            sbprobe_sha256=Directive(helpers.sbprobe_sha256),
            log_limit=Directive(str(self.log_limit)),
            output_in_memory=sealed.output_in_memory,
            output_bytes=Directive(str(sealed.bounds.output_bytes)),
            output_inodes=Directive(str(sealed.bounds.output_inodes)),
            code_sha256=None,
            seal=seal(sealed),
            traced=record is not None,
            trace_filtered=record is not None and record.filtered,
            trace_calls=record.calls if record else "",
            trace_string_limit=Directive(str(record.string_limit if record else 0)),
            trace_limit=Directive(str(self._trace_limit(spec))),
            requirements_path=equipment.path if equipment else "",
            requirements_sha256=Directive(equipment.found.sha256) if equipment else None,
            trace_stops=spec.limits.trace_full is TraceFull.STOP,
            pods=parallel is not None,
            networked=sealed.networked,
            mpi=kind is ParallelKind.MPI,
            bind=parallel is not None and parallel.bind,
            workers=framework(spec) is not None,
            spark=kind is ParallelKind.SPARK,
            dask=kind is ParallelKind.DASK,
            ray=kind is ParallelKind.RAY,
            program_mib=Directive(str(shared.program)),
            workers_mib=Directive(str(shared.workers)),
            cpus_per_node=Directive(str(tasks * spec.resources.cpus_per_task)),
        )
