"""Every error that slurmbridge raises on purpose.

    SlurmBridgeError
    ├── ConfigurationError        refuse to start
    ├── RequestError              the caller can fix it
    │   ├── InvalidProcess        ── NotThere
    │   ├── UnknownProcess        ├── UnknownImage
    │   ├── AmbiguousImage        ├── Unauthenticated    ├── BodyTooLarge
    │   ├── IllegalTransition     ├── NotAttested        ├── NotTraced
    │   ├── IdempotencyConflict├── StoreForbids
    │   └── SubmissionRefused     Slurm said no; its own words are in the message
    ├── SiteError                 the site must recover
    │   ├── SchedulerUnavailable  ── SubmissionNotSent ── OverBudget
    │   ├── ShellUnavailable      ── HostKeyRefused
    │   ├── StagingFailed         ── FilesUnavailable
    │   ├── ReplyUnreadable       ├── DatabaseUnavailable
    │   ├── NotStanding           a Runner that others may have taken for dead
    │   ├── RequirementsAwaited   a job installs them
    │   └── NoNodeReady           none can seal, or none can trace what is to be traced
    ├── BridgeUnreachable         the client cannot talk to the API
    └── ContainerError
        ├── DefinitionInvalid     ├── ImageBuildFailed
        ├── HelpersMissing        ├── AttestationInvalid
        └── ImageRefused          revoked, not signed, or not the one that was meant

Bugs are not in the tree: they stay AssertionError, TypeError and so on.
"""

from datetime import timedelta


class SlurmBridgeError(Exception):
    """Root. The message is one sentence for the person who must act."""

    code = "internal"
    transient = False


class ConfigurationError(SlurmBridgeError):
    """The configuration is incomplete or contradicts itself."""

    code = "configuration"


class RequestError(SlurmBridgeError):
    """The caller can fix it."""

    code = "request"


class InvalidProcess(RequestError):
    """The specification of a Process cannot be accepted.

    `fields` holds one (location, message) pair for each thing that is wrong.
    """

    code = "invalid-process"

    def __init__(self, message: str, fields: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields


class NotThere(InvalidProcess):
    """A file that a specification names does not exist."""


class Forbidden(RequestError):
    """Who asks may not do, or see, this."""

    code = "forbidden"


class NotWaiting(RequestError):
    """No decision on these outputs is waited for."""

    code = "not-waiting"


class UnknownProcess(RequestError):
    """No Process has this id."""

    code = "unknown-process"


class UnknownImage(RequestError):
    """No image of this name is recorded."""

    code = "unknown-image"


class AmbiguousImage(RequestError):
    """What was written stands for several images."""

    code = "ambiguous-image"


class Unauthenticated(RequestError):
    """No token, or one that is not known."""

    code = "unauthenticated"


class BodyTooLarge(RequestError):
    """The request body is larger than a specification can be."""

    code = "body-too-large"


class IllegalTransition(RequestError):
    """The Process is in a state in which this cannot be done."""

    code = "illegal-transition"


class IdempotencyConflict(RequestError):
    """An Idempotency-Key was used before, for something else."""

    code = "idempotency-conflict"


class NotAttested(RequestError):
    """The container of a Process was not attested, or not yet."""

    code = "not-attested"


class NotTraced(RequestError):
    """A Process has left no trace, or not yet."""

    code = "not-traced"


class StoreForbids(RequestError):
    """A Data Store is not there for this, or a path cannot be one in a store."""

    code = "store-forbids"


class SubmissionRefused(RequestError):
    """Slurm refused the job. `retry` is set when a limit was reached that time resolves."""

    code = "submission-refused"

    def __init__(self, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.retry = retry


class SiteError(SlurmBridgeError):
    """The site must recover; the request itself was fine."""

    code = "site"


class SchedulerUnavailable(SiteError):
    """Slurm did not answer. Whether a submission took effect is not known from this."""

    code = "scheduler-unavailable"
    transient = True


class SubmissionNotSent(SchedulerUnavailable):
    """A submission that surely never reached Slurm, so that it can be tried again."""

    code = "submission-not-sent"


class OverBudget(SubmissionNotSent):
    """A submission that was not sent, because too much was asked of Slurm already."""

    code = "over-budget"


class ShellUnavailable(SiteError):
    """A command could not be run or did not end in time.

    `never_started`: it surely did nothing. Otherwise it may have done all that it was to do.
    """

    code = "shell-unavailable"
    transient = True

    def __init__(self, message: str, *, never_started: bool = False) -> None:
        super().__init__(message)
        self.never_started = never_started


class HostKeyRefused(ShellUnavailable):
    """A host did not show the key that it is known by, so that nothing was said to it."""

    code = "host-key-refused"
    transient = False


class ReplyUnreadable(SiteError):
    """A command answered with text that is not understood."""

    code = "reply-unreadable"


class StagingFailed(SiteError):
    """Inputs could not be brought in, or outputs could not be carried out."""

    code = "staging-failed"


class FilesUnavailable(StagingFailed):
    """The host on which files lie cannot be reached, or did not answer in time."""

    code = "files-unavailable"
    transient = True


class StoreFailed(StagingFailed):
    """A Data Store did not do what was asked, and trying again does not help."""

    code = "store-failed"


class StoreUnavailable(StoreFailed):
    """A Data Store did not answer, broke off, or asks to be asked later.

    `retry_after_seconds` is what it said, if it said when.
    """

    code = "store-unavailable"
    transient = True

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class StoreRefused(StoreFailed):
    """A Data Store does not let the bridge in, or is not who it should be."""

    code = "store-refused"


class StoreFull(StoreFailed):
    """A Data Store has no room left, or a quota is used up."""

    code = "store-full"


class StoreChanged(StoreFailed):
    """A file changed while it was read: what was read so far is of no use. Begin anew."""

    code = "store-changed"
    transient = True


class StoreAnswerUnreadable(StoreFailed):
    """A Data Store answered with what is not understood, or cannot be true."""

    code = "store-answer-unreadable"


class DatabaseUnavailable(SiteError):
    """The database cannot be reached or has another schema version."""

    code = "database-unavailable"
    transient = True


class NotStanding(SiteError):
    """A Runner was paused or cut off for so long that others may have taken over."""

    code = "not-standing"
    transient = True


class NoNodeReady(SiteError):
    """No node of a partition can seal, or none can trace what is to be traced."""

    code = "no-node-ready"
    transient = True


class RequirementsAwaited(SiteError):
    """The requirements of a Process are not installed yet. `retry_after`: when to look again."""

    code = "requirements-awaited"
    transient = True

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BridgeUnreachable(SlurmBridgeError):
    """The API did not answer, or not as the API does."""

    code = "bridge-unreachable"
    transient = True


class ContainerError(SlurmBridgeError):
    """An image or a container cannot be made as asked."""

    code = "container"


class DefinitionInvalid(ContainerError):
    """A definition file lacks something, or asks for something that is not allowed."""

    code = "definition-invalid"


class ImageBuildFailed(ContainerError):
    """Apptainer could not build an image, or its %test failed."""

    code = "image-build-failed"


class HelpersMissing(ContainerError):
    """The sealing helpers are not built, or cannot be."""

    code = "helpers-missing"


class AttestationInvalid(ContainerError):
    """An attestation that does not say what it must, or is not signed by who it must be."""

    code = "attestation-invalid"


class ImageRefused(ContainerError):
    """An image is revoked, is not signed, or is not the one that was meant."""

    code = "image-refused"
