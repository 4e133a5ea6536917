"""The page's files: small, from nowhere else, kept by browsers exactly as long as they are the same."""

from __future__ import annotations

import gzip
import re
from typing import TYPE_CHECKING

from anlyt.assets import PAGE, load_assets
from serving import problem_of, service
from support import run

if TYPE_CHECKING:
    from pathlib import Path

PACKED_BYTES_MAX = 80 * 1024


def test_the_whole_page_is_at_most_80_kb_compressed() -> None:
    sizes = {name: len(asset.packed) for name, asset in load_assets().files.items()}

    assert sum(sizes.values()) <= PACKED_BYTES_MAX, sizes
    assert {PAGE, "app.js", "style.css", "icon.svg"} <= set(sizes)


def test_no_file_asks_another_host_or_carries_code_in_markup() -> None:
    for name, asset in load_assets().files.items():
        text = asset.body.decode().replace("http://www.w3.org/2000/svg", "")

        assert not re.search(r"https?://", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
        assert "sessionStorage" not in text, name
    page = load_assets().files[PAGE].body.decode()
    assert not re.search(r"<style|style=|\son[a-z]+=|<script(?![^>]*\ssrc=)", page)


def test_every_module_that_is_imported_is_there() -> None:
    files = load_assets().files
    for name, asset in files.items():
        for imported in re.findall(r'(?:from|import) "\./([^"]+)"', asset.body.decode()):
            assert imported in files, f"{name} imports {imported}"


def test_files_are_kept_for_ever_and_the_page_is_asked_for_anew(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, _):
            page = await client.get("/")
            (script,) = re.findall(r'src="(/assets/[0-9a-f]{16}/app\.js)"', page.text)
            asset = await client.get(script)
            again = await client.get("/", headers={"if-none-match": page.headers["etag"]})

            assert page.headers["cache-control"] == "no-cache"
            assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert asset.headers["content-type"] == "text/javascript; charset=utf-8"
            assert asset.headers["x-content-type-options"] == "nosniff"
            assert (again.status_code, again.content) == (304, b"")
            assert "script-src 'self';" in page.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in page.headers["content-security-policy"]

    run(story())


def test_files_are_sent_packed_to_those_who_take_it(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, _):
            plain = await client.get("/", headers={"accept-encoding": "identity"})
            packed = await client.get("/", headers={"accept-encoding": "gzip"})

            assert "content-encoding" not in plain.headers
            assert packed.headers["content-encoding"] == "gzip"
            assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"
            assert packed.content == plain.content
            assert len(gzip.compress(plain.content)) >= int(packed.headers["content-length"]) - 64

    run(story())


def test_other_versions_and_other_paths_do_not_exist(database_url: str) -> None:
    version = load_assets().version

    async def story() -> None:
        async with service(database_url) as (client, _):
            for path in (
                f"/assets/{version}/nothing.js",
                "/assets/0000000000000000/app.js",
                f"/assets/{version}/..%2f..%2fapi.py",
                f"/assets/{version}/index.html",
                f"/assets/{version}/__init__.py",
                "/assets/app.js",
            ):
                response = await client.get(path)

                assert response.status_code == 404, path
                assert problem_of(response)["type"].endswith(":not-found")

    run(story())


def test_any_change_gives_every_file_a_new_name(tmp_path: Path) -> None:
    for name in ("index.html", "a.js", "b.css"):
        (tmp_path / name).write_text(f'<link href="/assets/{name}">')
    before = load_assets(tmp_path)
    (tmp_path / "b.css").write_text("changed")
    after = load_assets(tmp_path)

    assert before.version != after.version
    assert f"/assets/{after.version}/index.html".encode() in after.files["index.html"].body
    assert before.files["a.js"].etag == after.files["a.js"].etag
