"""Display names of operators and accounts, which no event carries: a JSON file of ids and names.

In: the file of ANLYT_NAMES_FILE, read again when it changes. Out: the names a Grant may see; without a file there are
none, and readers show ids. Names are for eyes only: nothing is counted, filtered or ordered by them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from msgspec import Struct

from anlyt.access import read_uuid
from anlyt.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from anlyt.access import Grant

NAMES_MAX: Final = 10_000
NAMES_BYTES_MAX: Final = 4 * 1024 * 1024
NAME_CHARS_MAX: Final = 100

log = structlog.get_logger("anlyt.api")


class Name(Struct, frozen=True):
    """What an operator or account is called."""

    id: str
    name: str


class NameList(Struct, frozen=True):
    """The answer of `/v1/names`, in the order of the ids."""

    data: list[Name]


class Names:
    """The names of a file. A file that goes bad later is told in the log, and the names stay as they were."""

    def __init__(self, path: Path | None) -> None:
        """Read the file. Raises ConfigurationError."""
        self._path = path
        self._seen = _mark(path)
        self._names = {} if path is None else read_names(path)

    def visible(self, grant: Grant) -> NameList:
        """The names of the ids that `grant` may see."""
        self._look_again()
        everything = grant.scope == "PLATFORM"
        return NameList([Name(i, name) for i, name in self._names.items() if everything or i in grant.scope_ids])

    def _look_again(self) -> None:
        seen = _mark(self._path)
        if self._path is None or seen == self._seen:
            return
        self._seen = seen
        try:
            self._names = read_names(self._path)
        except ConfigurationError as error:
            log.warning("names-unreadable", cause=str(error))


def read_names(path: Path) -> dict[str, str]:
    """Names by id in lower case, in the order of the ids. Raises ConfigurationError that says what is wrong."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the file of names {path} cannot be read: {error.strerror}") from None
    try:
        found = msgspec.json.decode(content, type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f'the file of names {path} must be JSON like {{"<id>": "name"}}: {error}') from None
    if len(found) > NAMES_MAX or len(content) > NAMES_BYTES_MAX:
        raise ConfigurationError(f"the file of names {path} has {len(found)} names, but at most {NAMES_MAX} are read")
    for key, name in found.items():
        if read_uuid(key) is None or not 1 <= len(name) <= NAME_CHARS_MAX or not re.search(r"\S", name):
            raise ConfigurationError(
                f"the file of names {path} says {key!r}: {name[:NAME_CHARS_MAX]!r}, but must have a UUID and a name of "
                f"1 to {NAME_CHARS_MAX} characters"
            )
    return {key.lower(): name for key, name in sorted(found.items(), key=lambda item: item[0].lower())}


def _mark(path: Path | None) -> tuple[int, int] | None:
    """What tells one content of a file from the next."""
    try:
        return None if path is None else ((found := path.stat()).st_mtime_ns, found.st_size)
    except OSError:
        return (0, 0)
