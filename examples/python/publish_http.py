"""Send events over HTTP, a batch in one request, and read the fate of each. Needs nothing but Python.

The batch is sent twice, as after a timeout: sending again is always safe, each event counts once.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
import uuid
from datetime import UTC, datetime

BATCH = 5


def main() -> None:
    """Send a good batch twice, with one event in it that cannot be counted."""
    events = [submitted(segments=1) for _ in range(BATCH)] + [submitted(segments=0)]
    for _ in range(2):
        for fate in send(events):
            print(fate["fate"], fate.get("reason", ""), fate.get("detail", ""))


def submitted(segments: int) -> dict[str, object]:
    """A message handed in just now."""
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "/examples/publish-http",
        "type": "message.submitted",
        "time": datetime.now(UTC).isoformat(),
        "data": {
            "messageId": str(uuid.uuid4()),
            "accountId": "0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a0001",
            "segments": segments,
            "cost": "0.041250",
        },
    }


def send(events: list[dict[str, object]]) -> list[dict[str, str]]:
    """The fate of each event. Raises HTTPError, whose body is problem+json with a sentence in `detail`."""
    request = urllib.request.Request(
        os.environ["API_URL"] + "/v1/events",
        data=json.dumps(events).encode(),
        headers={
            "Authorization": f"Bearer {os.environ['API_KEY']}",
            "Content-Type": "application/cloudevents-batch+json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)["data"]
    except urllib.error.HTTPError as error:
        print(json.load(error)["detail"])
        raise


main()
