"""Display names: read from a file, shown to those who may see the id, and never in the way."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from anlyt import names
from anlyt.access import make_grant
from anlyt.errors import ConfigurationError
from anlyt.names import Names
from anlyt.settings import Settings
from serving import key_for, service
from support import run

if TYPE_CHECKING:
    from pathlib import Path

ACCOUNT = "0b1d6f2e-0000-4000-8000-00000000acc1"
OPERATOR = "0b1d6f2e-0000-4000-8000-0000000000e1"
STAFF = make_grant("PLATFORM", [], ["metrics:read"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "names.json"
    path.write_text(
        f'{{"operators": {{"{OPERATOR.upper()}": "Nordtel"}}, "accounts": {{"{ACCOUNT}": "=HYPERLINK()"}}}}'
    )
    return path


def test_a_key_gets_the_names_of_what_it_may_see(database_url: str, file: Path) -> None:
    async def story() -> None:
        settings = Settings.model_validate({"names_file": file})
        async with service(database_url, settings=settings) as (client, conn):

            async def names_for(scope: str, *ids: str) -> list[dict[str, str]]:
                response = await client.get("/v1/names", headers=await key_for(conn, scope, *ids))
                assert response.status_code == 200
                return response.json()["data"]

            account = {"scope": "ACCOUNT", "id": ACCOUNT, "name": "=HYPERLINK()"}
            operator = {"scope": "OPERATOR", "id": OPERATOR, "name": "Nordtel"}
            assert await names_for("PLATFORM") == [operator, account]
            assert await names_for("OPERATOR", OPERATOR) == [operator]
            assert await names_for("ACCOUNT", ACCOUNT[:-1] + "2") == []
            assert await names_for("ACCOUNT", OPERATOR) == []  # the same id, but of another kind
            assert (await client.get("/v1/names")).status_code == 401

    run(story())


def test_without_a_file_there_are_no_names() -> None:
    assert Names(None).visible(STAFF).data == []


def test_a_file_is_read_again_when_it_changes_and_kept_when_it_goes_bad(file: Path) -> None:
    found = Names(file)
    file.write_text(f'{{"operators": {{"{OPERATOR}": "Nordtel AB"}}}}')
    os.utime(file, ns=(1, 1))
    renamed = found.visible(STAFF)
    with capture_logs() as logs:
        file.write_text("[]")
        found.visible(STAFF)
        file.unlink()
        gone = found.visible(STAFF)

    assert [name.name for name in renamed.data] == ["Nordtel AB"]
    assert gone == renamed
    assert [line["event"] for line in logs] == ["names-unreadable", "names-unreadable"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "must be JSON"),
        ('{"operators": {"%s": 1}}', "must be JSON"),
        ('{"%s": "Nordtel"}', "must be JSON"),
        ('{"operators": {"x": "Nordtel"}}', "UUID"),
        ('{"accounts": {"%s": " "}}', "1 to 100 characters"),
        ('{"accounts": {"%s": "' + "x" * 101 + '"}}', "1 to 100 characters"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_at_the_start_with_its_name(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "names.json"
    if content is not None:
        path.write_text(content.replace("%s", OPERATOR))

    with pytest.raises(ConfigurationError, match=r"names\.json") as refused:
        Names(path)
    assert told in str(refused.value)


def test_the_number_of_names_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    ids = (f"{n:08x}-0000-4000-8000-000000000000" for n in range(names.NAMES_MAX + 1))
    path.write_text('{"accounts": {' + ",".join(f'"{each}": "n"' for each in ids) + "}}")

    with pytest.raises(ConfigurationError, match="10001 names, but at most 10000"):
        Names(path)
