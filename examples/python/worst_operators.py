"""Print the operators with the worst delivery rate of the last day, with the true 95th percentile of their latency."""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request

PARAMETERS = {
    "scope": "OPERATOR",
    "groupBy": "scopeId",
    "from": "-24h",
    "sort": "deliveryRate",
    "order": "asc",
    "limit": "5",
}


def main() -> None:
    """One line an operator."""
    request = urllib.request.Request(
        f"{os.environ['API_URL']}/v1/summary?{urllib.parse.urlencode(PARAMETERS)}",
        headers={"Authorization": f"Bearer {os.environ['API_KEY']}"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        rows = json.load(response)["data"]
    for row in rows:
        rate = "-" if row["deliveryRate"] is None else f"{row['deliveryRate']:.1%}"
        print(f"{row['scopeId']}  {rate:>6}  p95 {row['latencyP95Ms']} ms  {row['failedMessages']} failed")


main()
