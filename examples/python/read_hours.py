"""Read the platform's hours of the last three days, page by page, and add them up without rounding.

Money comes as text with six decimals: keep it in Decimal. A null rate means that there was nothing to divide by.
"""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from decimal import Decimal


def main() -> None:
    """Print the sums, and up to when they are complete."""
    messages, cost, open_hours = 0, Decimal(0), 0
    for row in read("/v1/metrics/hourly", scope="PLATFORM", **{"from": "-3d", "limit": "24"}):
        messages += row["totalMessages"]
        cost += Decimal(row["totalCost"])
        open_hours += not row["final"]
    print(f"{messages} messages, cost {cost}, {open_hours} hours may still change")


def read(path: str, **parameters: str) -> Iterator[dict]:
    """The rows of all pages. `next` is the cursor of the page behind; the other parameters stay as they are."""
    cursor = None
    while True:
        page = get(path, parameters if cursor is None else parameters | {"cursor": cursor})
        yield from page["data"]
        cursor = page["next"]
        if cursor is None:
            print("complete through", page["meta"]["completeThrough"])
            return


def get(path: str, parameters: dict[str, str]) -> dict:
    """One page."""
    request = urllib.request.Request(
        f"{os.environ['API_URL']}{path}?{urllib.parse.urlencode(parameters)}",
        headers={"Authorization": f"Bearer {os.environ['API_KEY']}"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


main()
