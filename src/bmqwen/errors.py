"""The one exception tree. Each class carries the exit code and the HTTP status it maps to.

A message is one sentence that names the cause, and where there is one, the fix.
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

    http_status = 501
    code = "missing_dependency"


class CompileError(BmqwenError):
    """The vendor's compiler failed."""

    code = "compile_failed"


class DeviceError(BmqwenError):
    """A chip, the simulator or an engine refused a call."""

    http_status = 503
    code = "device_failed"


class FeedInterruptedError(DeviceError):
    """A feed was ended from another thread; the cache is as before it."""

    code = "interrupted"


class EngineLostError(DeviceError):
    """The process of an engine ended while it was needed."""

    code = "engine_lost"


class EngineHungError(DeviceError):
    """An engine gave no sign of life while loading, or when an answer was to end, and was killed."""

    http_status = 504
    code = "engine_hung"


class RequestError(InputError):
    """A request to the server cannot be served as it is.

    Attributes:
        param: the field that is at fault, as the request calls it: "messages[0].content".
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class SchemaError(RequestError):
    """A JSON schema that an answer cannot be held to."""

    code = "invalid_schema"

    def __init__(self, message: str, param: str = "response_format") -> None:
        super().__init__(message, param)


class UnsupportedFieldError(RequestError):
    """A request asks for something with an effect that this server does not have."""

    code = "unsupported_field"


class KeyRefusedError(RequestError):
    """A request has no API key, or a wrong one."""

    http_status = 401
    code = "invalid_api_key"


class OriginRefusedError(RequestError):
    """A request comes from a web page that may not talk to this server."""

    http_status = 403
    code = "origin_refused"


class NotFoundError(RequestError):
    """There is no such model or address."""

    http_status = 404
    code = "not_found"


class ModelNotFoundError(NotFoundError):
    """A request names a model that is not served."""

    code = "model_not_found"


class NotOfferedError(NotFoundError):
    """An address of the OpenAI API that this server does not have."""

    code = "not_offered"


class MethodRefusedError(RequestError):
    """An address was asked with the wrong method."""

    http_status = 405
    code = "method_not_allowed"


class SlowRequestError(RequestError):
    """A request's body did not arrive, or its answer did not begin, within the time limit."""

    http_status = 408
    code = "time_limit"


class LargeRequestError(RequestError):
    """A request's body is larger than the limit."""

    http_status = 413
    code = "request_too_large"


class MediaTypeError(RequestError):
    """A request's body is not JSON."""

    http_status = 415
    code = "unsupported_media_type"


class StoppedError(BmqwenError):
    """An answer was stopped by its client, on another connection."""

    http_status = 409
    code = "answer_stopped"


class BusyError(BmqwenError):
    """The queue is full.

    Attributes:
        retry_after: seconds after which trying again makes sense.
    """

    http_status = 429
    code = "queue_full"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class NotReadyError(BmqwenError):
    """No engine is ready, or the server is shutting down."""

    http_status = 503
    code = "not_ready"
