"""Write what follows from the routes and the events: the descriptions that the API serves; with --check, only compare.

In: the application as it is built for default settings, without any server. Out: the files named in OUTPUTS; exit code
1 and a diff when --check finds one that differs. Run after generate.py, because the application needs rows.py.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final, cast

import typescript
from anlyt import api, asyncapi
from anlyt.settings import Settings
from anlyt.telemetry import Telemetry
from generate import ROOT, write_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


def write_openapi() -> str:
    """docs/reference/openapi.json: what /openapi.json answers."""
    return _pretty(_app().openapi())


def write_asyncapi() -> str:
    """docs/reference/asyncapi.json: what /asyncapi.json answers with default settings."""
    return _pretty(asyncapi.describe(Settings.model_validate({})))


def write_typescript() -> str:
    """schema.ts: what is sent and answered, for the TypeScript client."""
    return typescript.write_schema(_app().openapi())


def _app() -> Any:  # noqa: ANN401 - FastAPI's class is no dependency of the tools
    """The application over no database: it is described, never asked."""
    return api.build_app(pool=cast("Any", None), settings=Settings.model_validate({}), telemetry=Telemetry())


def _pretty(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


OUTPUTS: Final[Mapping[str, Callable[[], str]]] = {
    "clients/typescript/src/schema.ts": write_typescript,
    "docs/reference/asyncapi.json": write_asyncapi,
    "docs/reference/openapi.json": write_openapi,
}


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Write the outputs, or compare them. The exit code."""
    return write_outputs({name: write() for name, write in OUTPUTS.items()}, arguments, root)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
