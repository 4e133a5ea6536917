"""Display names of operators and accounts, which no event carries: a JSON file of ids and names.

In: the file of ANLYT_NAMES_FILE, read again when it changes. Out: the names a Grant may see; without a file there are
none, and readers show ids. Names are for eyes only: nothing is counted, filtered or ordered by them.
"""

from __future__ import annotations

import re
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from msgspec import Struct

from anlyt.access import Scope, read_uuid
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

    scope: Scope
    id: str
    name: str


class NamesFile(Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds: names by id."""

    operators: dict[str, str] = {}
    accounts: dict[str, str] = {}


class NameList(Struct, frozen=True):
    """The answer of `/v1/names`: operators, then accounts, in the order of their names."""

    data: list[Name]


class Names:
    """The names of a file. A file that goes bad later is told in the log, and the names stay as they were."""

    def __init__(self, path: Path | None) -> None:
        """Read the file. Raises ConfigurationError."""
        self._path = path
        self._seen = _mark(path)
        self._names: list[Name] = [] if path is None else read_names(path)

    def visible(self, grant: Grant) -> NameList:
        """The names of the ids that `grant` may see."""
        self._look_again()
        if grant.scope == "PLATFORM":
            return NameList(self._names)
        return NameList([name for name in self._names if name.scope == grant.scope and name.id in grant.scope_ids])

    def _look_again(self) -> None:
        seen = _mark(self._path)
        if self._path is None or seen == self._seen:
            return
        self._seen = seen
        try:
            self._names = read_names(self._path)
        except ConfigurationError as error:
            log.warning("names-unreadable", cause=str(error))


def read_names(path: Path) -> list[Name]:
    """The names of a file. Raises ConfigurationError that says what is wrong."""
    try:
        content = path.read_bytes()
        found = msgspec.json.decode(content, type=NamesFile)
    except OSError as error:
        raise ConfigurationError(f"the file of names {path} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f'the file of names {path} must be JSON like {{"operators": {{"<id>": "name"}}, "accounts": {{}}}}: {error}'
        ) from None
    number = len(found.operators) + len(found.accounts)
    if number > NAMES_MAX or len(content) > NAMES_BYTES_MAX:
        raise ConfigurationError(f"the file of names {path} has {number} names, but at most {NAMES_MAX} are read")
    return [*_named("OPERATOR", found.operators, path), *_named("ACCOUNT", found.accounts, path)]


def _named(scope: Scope, names: dict[str, str], path: Path) -> list[Name]:
    for key, name in names.items():
        if read_uuid(key) is None or not 1 <= len(name) <= NAME_CHARS_MAX or not re.search(r"\S", name):
            raise ConfigurationError(
                f"the file of names {path} says {key!r}: {name[:NAME_CHARS_MAX]!r}, but must have a UUID and a name of "
                f"1 to {NAME_CHARS_MAX} characters"
            )
    return sorted((Name(scope, key.lower(), name) for key, name in names.items()), key=attrgetter("name", "id"))


def _mark(path: Path | None) -> tuple[int, int] | None:
    """What tells one content of a file from the next."""
    try:
        return None if path is None else ((found := path.stat()).st_mtime_ns, found.st_size)
    except OSError:
        return (0, 0)
