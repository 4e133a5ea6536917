"""What each member of an answer means and how a value of it looks: the words and examples of the descriptions.

In: the name of a member, and of the record it stands in. Out: its Term. A name means the same wherever it stands, but
where it does not, the entry is written `Record.name`. A test holds every member of every described record to have one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCOUNT: Final = "0196f1c2-7a11-7c50-8f0e-5a1f3c2ba001"
OPERATOR: Final = "0196f1c2-7a11-7c50-8f0e-5a1f3c2be001"
CURSOR: Final = "x0ZJ9m1Qm2b8r7a4c1d2e3"
_NOW: Final = "2026-04-18T11:20:05.250000Z"
_THROUGH: Final = "2026-04-18T11:20:04.750000Z"


class Term(Struct, frozen=True):
    """A member: what it means, and an example (None: its parts have theirs)."""

    meaning: str
    example: object


def find_term(record: str, name: str) -> Term | None:
    """The term of a member; None when there is none yet."""
    found = GLOSSARY.get(f"{record}.{name}") or GLOSSARY.get(name)
    return None if found is None else Term(*found)


GLOSSARY: Final[Mapping[str, tuple[str, object]]] = {
    # Rows.
    "hourBucket": ("Start of the UTC hour in which the messages were submitted.", "2026-04-18T10:00:00Z"),
    "dayBucket": ("Start of the UTC day on which the messages were submitted.", "2026-04-18T00:00:00Z"),
    "scope": ("Whose numbers these are.", "ACCOUNT"),
    "scopeId": ("Id of the operator or account; `platform` for the platform.", ACCOUNT),
    "Sums.scopeId": ("The id that was summed; null for the sum of several.", ACCOUNT),
    "SummaryRow.scopeId": ("The id that was summed; null for the sum of several.", ACCOUNT),
    "operatorId": ("Id of the operator.", OPERATOR),
    "accountId": ("Id of the account.", ACCOUNT),
    "totalMessages": ("Messages submitted in the bucket (for operators: submitted or routed to them).", 1200),
    "deliveredMessages": ("Of these, delivered.", 1140),
    "failedMessages": ("Of these, failed.", 36),
    "pendingMessages": (
        "Of these, without an outcome yet. May be negative for a moment, when an outcome is early.",
        24,
    ),
    "totalCost": ("Cost, exact, with six decimals, in the currency of the deployment.", "54.000000"),
    "latencySumMs": ("Sum of the latency samples in milliseconds.", 2052000),
    "latencySampleCount": ("Number of latency samples.", 1140),
    "latencyP95Ms": ("95th percentile of the latency samples, nearest rank, at most 1 % off.", 3400),
    "latencyP50Ms": ("Median of the latency samples; operators only.", 1700),
    "latencyP90Ms": ("90th percentile of the latency samples; operators only.", 2900),
    "latencyP99Ms": ("99th percentile of the latency samples; operators only.", 5100),
    "peakTps": ("Most messages submitted (for operators: or routed) in one second.", 9),
    "errorCount": ("Failures and reported errors of the operator.", 41),
    "messagesSent": ("Messages the account submitted on the day.", 1200),
    "messagesDelivered": ("Of these, delivered.", 1140),
    "messagesFailed": ("Of these, failed.", 36),
    "totalSegments": ("Segments of the messages.", 1310),
    "updatedAt": ("When this last changed.", "2026-04-18T11:20:04.500000Z"),
    "deliveryRate": ("Delivered divided by total; null when there were no messages.", 0.95),
    "avgLatencyMs": ("Mean of the latency samples; null when there are none or this table keeps none.", 1800.0),
    "AccountUsageDailyRow.avgLatencyMs": ("Always null: this table keeps no latency.", None),
    "errorRate": ("Failed divided by total; null when there were no messages.", 0.03),
    "final": ("No accepted event can change this any more, except a backfill.", False),
    "start": ("First instant of the span, inclusive.", "2026-04-18T10:00:00Z"),
    "end": ("End of the span, exclusive.", "2026-04-18T11:00:00Z"),
    "previous": ("The same sums over the period of the same length before; only with `compare=previous`.", None),
    # Around the rows.
    "data": ("The answer itself.", None),
    "next": ("The cursor of what lies behind this answer; null at the end.", None),
    "meta": ("What the answer is true of.", None),
    "asOf": ("When this was read, by the database's clock.", _NOW),
    "completeThrough": ("Every event published before this instant has been counted; null when not known.", _THROUGH),
    "lagSeconds": ("Seconds between completeThrough and asOf.", 0.5),
    "currency": ("Currency of all costs.", "EUR"),
    "source": ("Where the rows were read.", "postgres"),
    "from": ("First instant of the period, inclusive, as it was understood.", "2026-04-18T00:00:00Z"),
    "to": ("End of the period, exclusive, as it was understood.", "2026-04-19T00:00:00Z"),
    "countedSince": (
        "With `compare`: the first day anything is kept of, if any; a period that begins before is not whole.",
        "2025-11-01T00:00:00Z",
    ),
    "groupBy": ("What there is one row for.", "scopeId"),
    "groups": ("Number of groups, those beyond the limit included.", 1),
    # Events.
    "index": ("Place in the batch; 0 for a single event.", 0),
    "fate": ("What became of the event.", "accepted"),
    "id": ("`id` of the event.", "0196f1c2-7a11-7c50-8f0e-5a1f3c2b0001"),
    "Fate.source": ("`source` of the event.", "/gateway/eu-1"),
    "duplicateOf": ("Index of the event of this request that it repeats.", 0),
    "reason": ("Why, as a word that stays the same.", "invalid_field"),
    "detail": (
        "Why, as a sentence with the field and the value.",
        "data.segments must be a whole number from 1 to 1000, but is 0.",
    ),
    "accepted": ("Events stored in the stream.", 1),
    "duplicate": ("Events that were known already.", 0),
    "ignored": ("Events of a type this deployment skips.", 0),
    "rejected": ("Events that cannot be counted.", 0),
    # Dead letters.
    "stream": ("The stream.", "MESSAGING"),
    "sequence": ("Sequence of the message in the stream.", 4711),
    "batchIndex": ("Place in the batch; 0 for a single event or a whole body.", 0),
    "publishedAt": ("When JetStream stored the message.", "2026-04-18T10:00:00.120000Z"),
    "state": ("`open`, or what became of the letter.", "open"),
    "subject": ("Subject the message was published to.", "messaging.events.sms"),
    "bodyBytes": ("Size of the body.", 412),
    "recordedAt": ("When the letter was recorded.", "2026-04-18T10:00:00.480000Z"),
    "attempts": ("Retries so far.", 0),
    "attemptedAt": ("When the last retry was.", "2026-04-18T11:00:00Z"),
    "retryReason": ("Why the last retry failed, as a word.", "invalid_field"),
    "retryDetail": ("Why the last retry failed, as a sentence.", "data.segments must be a whole number."),
    "resolvedAt": ("When the letter was counted or discarded.", "2026-04-18T11:00:00Z"),
    "headers": ("Headers of the message.", {"Nats-Msg-Id": "e-1 /gateway/eu-1"}),
    "body": (
        "The event's own bytes as text; null when they are none.",
        '{"specversion": "1.0", "data": {"segments": 0}}',
    ),
    "bodyBase64": ("The very bytes.", "eyJzcGVjdmVyc2lvbiI6ICIxLjAiLCAiZGF0YSI6IHsic2VnbWVudHMiOiAwfX0="),
    "all": ("Every open letter.", True),
    "acceptStale": ("Count stale and too_late letters too, as a backfill, while they are inside hot retention.", False),
    "cursor": ("`next` of the answer before.", "4711-0"),
    "counted": ("Events counted.", 12),
    "failed": ("Letters that still cannot be counted; they stay open.", 0),
    "stillOpen": ("Letters of those that were named that are open now.", 0),
    "discarded": ("Letters discarded.", 12),
    "DiscardedPart.next": ("Always null; when some are still open, the same request goes on.", None),
    # Status.
    "Status.counted": ("Events counted since the beginning.", 250000),
    "duplicates": ("Events that were known already and counted nothing.", 1250),
    "Status.ignored": ("Events of types this deployment skips.", 0),
    "deadLetters": ("Events that became dead letters since the beginning.", 17),
    "deadLettersKept": ("Dead letters there are now, by reason, of the latest 100,000.", {"invalid_field": 17}),
    "lostMessages": ("Messages the stream dropped before they were read; not 0 is an alarm.", 0),
    "lateSecondCounts": ("Arrivals too late for their second's count: a peak may be under-reported.", 0),
    "slots": ("How far each slot of the stream has been counted.", None),
    "slot": ("Number of the slot.", 0),
    "lastSequence": ("Stream sequence up to which the slot has been read.", 250017),
    "lastPublishedAt": ("When that message was published.", _THROUGH),
    "jobs": ("The last run of each periodic job.", None),
    "job": ("Name of the job.", "percentiles"),
    "startedAt": ("When it began.", "2026-04-18T11:19:00Z"),
    "finishedAt": ("When it ended; null while it runs, or when it was killed.", "2026-04-18T11:19:01Z"),
    "succeededAt": ("When it last ended well; null: never.", "2026-04-18T11:19:01Z"),
    "outcome": ("`ok` or `failed`; null while it runs, or when it was killed.", "ok"),
    "partitions": ("Until when the partitioned tables have partitions.", None),
    "table": ("Name of the table.", "metrics_hourly"),
    "coveredUntil": ("Up to when there are partitions.", "2026-08-01T00:00:00Z"),
    "runwaySeconds": ("Seconds until then.", 9031194.75),
    "backfills": ("The latest named loads, which may have changed final rows.", None),
    "name": ("Name of the load.", "import-2026-04"),
    "Backfill.counted": ("Events counted from the load.", 9000),
    "firstHour": ("Earliest hour the load changed.", "2026-03-01T00:00:00Z"),
    "lastHour": ("Latest hour the load changed.", "2026-03-31T23:00:00Z"),
    "requestsByKey": ("Requests this process has answered, by key id.", {"a1b2c3d4e5f6": 42}),
    "status": ("The state in one word.", "ready"),
    # Live.
    "Progress.asOf": ("When the rows before this were read, by the database's clock.", _NOW),
    "Notice.reason": ("Why, as a word that stays the same.", "lifetime"),
    "Notice.detail": ("What to do.", "this connection has lasted long enough; connect again, nothing is missed"),
    # Who asks.
    "key": ("An API key.", "anlyt_..."),
    "scopeIds": ("The ids the key is for.", [ACCOUNT]),
    "permissions": ("What the key may do.", ["metrics:read"]),
    "expiresAt": ("When this ends by itself; null: never.", "2026-04-18T23:20:05Z"),
    # Problems.
    "type": ("What kind of problem this is; stable, for programs.", "urn:anlyt:problem:invalid-parameter"),
    "title": ("The same for people, without the particulars.", "A parameter is not valid"),
    "Problem.status": ("The HTTP status.", 422),
    "Problem.detail": ("What happened, to which value, and what to do.", "limit is '0', but must be from 1 to 1000"),
    "parameter": ("The parameter that is wrong.", "limit"),
    "events": ("Of events that were sent: the fate of each.", None),
}
