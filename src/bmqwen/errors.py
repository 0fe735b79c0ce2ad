"""The one exception tree. Each class carries the exit code and the HTTP status it maps to.

A message is one sentence that names the cause, and where there is one, the cure.
"""

from typing import ClassVar


class BmqwenError(Exception):
    """Base of every error that bmqwen raises on purpose."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"


class InputError(BmqwenError):
    """What the user gave cannot be used: a wrong path, option, file or prompt."""

    exit_code = 2
    http_status = 400
    code = "invalid_request"


class ConfigError(InputError):
    """A model's configuration is missing, damaged or describes something unsupported."""

    code = "unsupported_model"


class CheckpointError(InputError):
    """A file of weights is missing, truncated, inconsistent or holds values that cannot be used."""

    code = "bad_checkpoint"


class BundleError(InputError):
    """A bundle is incomplete, was edited, or was made for something else."""

    code = "bad_bundle"


class ContextLengthError(InputError):
    """A prompt does not fit into the context.

    Attributes:
        limit: tokens that fit.
        got: tokens that were given.
    """

    code = "context_length_exceeded"

    def __init__(self, limit: int, got: int, hint: str = "") -> None:
        self.limit, self.got = limit, got
        text = f"the prompt has {got:,} tokens, but only {limit:,} fit into the context"
        super().__init__(f"{text}; {hint}" if hint else text)


class DownloadError(BmqwenError):
    """A download failed for a reason outside of the request: no network, a wrong checksum."""

    http_status = 502
    code = "download_failed"


class StorageError(BmqwenError):
    """A file cannot be written: the disk is full or the folder is read-only."""

    http_status = 507
    code = "storage_failed"


class MissingDependencyError(BmqwenError):
    """An optional package or program that this command needs is not installed."""

    code = "missing_dependency"


class CompileError(BmqwenError):
    """The vendor's compiler failed."""

    code = "compile_failed"


class DeviceError(BmqwenError):
    """A chip, the simulator or an engine refused a call."""

    http_status = 503
    code = "device_failed"
