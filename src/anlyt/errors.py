"""Everything that can go wrong, as one tree. Each class has one fate.

    AnlytError
    ├── UsageError            the command line asks for something that makes no sense      exit 2
    ├── ConfigurationError    a setting is unknown or invalid; nothing was started         exit 3
    ├── Retry                 the world is down: wait, read the position, go on            exit 4
    │   ├── DatabaseUnavailable
    │   ├── StreamUnavailable
    │   ├── ArchiveUnavailable
    │   └── PositionMoved     somebody else counted these messages: read the position again
    ├── DifferenceFound       a check found numbers that do not agree                      exit 5
    ├── NothingUnderstood     a stream of dead letters only: somebody has to look          exit 1
    ├── RequestError          an HTTP request is wrong; becomes problem+json
    └── Rejected              an event cannot be counted; becomes a dead letter

Anything else that is raised is our own mistake and crashes the process with its traceback.
The docstring of a class is its default message.
"""

from __future__ import annotations

import inspect
from typing import ClassVar


class AnlytError(Exception):
    """Something went wrong."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or type(self).__name__)


class UsageError(AnlytError):
    """This command does not take these arguments; see its --help."""

    exit_code = 2


class ConfigurationError(AnlytError):
    """A setting is not valid."""

    exit_code = 3


class Retry(AnlytError):
    """A dependency cannot be reached."""

    exit_code = 4


class DatabaseUnavailable(Retry):
    """PostgreSQL cannot be reached; check ANLYT_DATABASE_URL and that the server is running."""


class StreamUnavailable(Retry):
    """NATS JetStream cannot be reached; check ANLYT_NATS_URL and that the server is running."""


class ArchiveUnavailable(Retry):
    """The archive (ClickHouse) cannot be reached; check ANLYT_ARCHIVE_URL and that the server is running."""


class PositionMoved(Retry):
    """The stream position is not where this worker left it: another worker owns the partition now."""


class DifferenceFound(AnlytError):
    """The numbers do not agree."""

    exit_code = 5


class NothingUnderstood(AnlytError):
    """Next to nothing in the stream can be understood; counting has stopped."""


class RequestError(AnlytError):
    """The request is not valid."""

    def __init__(
        self, message: str, *, status: int, code: str, parameter: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.parameter = parameter
        self.retry_after_s = retry_after_s  # None: as its status says


class Rejected(AnlytError):
    """The event cannot be counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
