"""The page at /docs: whole, its own, and under a policy that lets in nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from anlyt import manual
from serving import service
from support import run

VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """What a page is made of; an element that is closed out of turn is a mistake."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.sources += [given["src"]] if "src" in given else []
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"


def test_the_page_has_every_route_and_record_and_asks_nobody(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, _):
            response = await client.get("/docs")
            document = (await client.get("/openapi.json")).json()
            page = Page(response.text)
            routes = {each["operationId"] for path in document["paths"].values() for each in path.values()}

            assert response.headers["content-type"].startswith("text/html")
            assert response.headers["content-security-policy"] == manual.POLICY
            assert set(page.ids) == routes | {f"record-{name}" for name in document["components"]["schemas"]}
            assert len(page.ids) == len(set(page.ids))
            assert page.sources == []
            assert not {"script", "link", "iframe", "form", "img"} & set(page.names)
            for link in set(page.links):
                if link.startswith("#"):
                    assert link[1:] in page.ids
                else:
                    assert (await client.get(link)).status_code == 200, link

    run(story())


def test_the_policy_allows_the_own_style_by_its_hash_and_no_other() -> None:
    assert re.fullmatch(
        r"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        r"style-src 'sha256-[A-Za-z0-9+/]{43}='",
        manual.POLICY,
    )
    assert "@import" not in manual.STYLE
    assert "url(" not in manual.STYLE


def test_what_the_document_says_is_text_on_the_page() -> None:
    schema = {"title": "R", "description": "<script>alert(1)</script> `a<b`", "type": "object", "properties": {}}
    document = {
        "info": {"title": "<i>", "version": "0", "description": "&"},
        "tags": [],
        "paths": {},
        "components": {"schemas": {"R": schema}},
    }
    text = manual.write_page(document).decode()

    assert "script" not in Page(text).names
    assert "<code>a&lt;b</code>" in text
    assert "&lt;i&gt;" in text
