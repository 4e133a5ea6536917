"""Months and years of days in minutes: the past is lived through day by day up to now, and all of it stays right.

The clock is what has been counted: JetStream times of the simulated days, so that every horizon of the jobs is where it
was on that day. Only what PostgreSQL stamps itself is put back to the day it would have been written on.
"""

from __future__ import annotations

import json
import random
import uuid
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest

from anlyt import jobs, postgres, recount, store
from anlyt.clickhouse import TABLES
from anlyt.crash import CrashPoints
from anlyt.events import DAY_US, HOT_RETENTION_US, Decoder, Message, Rules, to_datetime, to_instant
from anlyt.jetstream import StreamInfo
from anlyt.postgres import PARTITIONED_TABLES, session
from anlyt.reconcile import reconcile
from anlyt.settings import Settings
from anlyt.store import Batch, Position
from archives import archive_directory, archive_in
from serving import key_for, service
from support import run
from test_retention import list_partitions, month_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2
    from asyncpg import Connection

    from anlyt.clickhouse import ClickHouse

DAY: Final = timedelta(days=1)
SLOTS: Final = tuple(range(16))
MESSAGES_A_DAY: Final = 25
RULES: Final = recount.Rules("EUR", 7 * DAY_US, ())
NOT_ARMED: Final = CrashPoints()


class Platform:
    """Producers: what they publish on a day, seeded; some of it late, some of it twice."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._operators = [self._uuid() for _ in range(3)]
        self._accounts = [self._uuid() for _ in range(5)]
        self._later: list[tuple[datetime, bytes]] = []  # receipts that take days
        self._sent: list[bytes] = []  # yesterday's

    def publish(self, day: datetime) -> list[tuple[datetime, bytes]]:
        """Bodies with their times of publication on a day, in order."""
        messages = [each for _ in range(MESSAGES_A_DAY) for each in self._message(day)]
        messages += [
            (day + self._rng.random() * DAY, body) for body in self._rng.sample(self._sent, len(self._sent) // 9)
        ]
        messages += [each for each in self._later if each[0] < day + DAY]
        self._later = [each for each in self._later if each[0] >= day + DAY]
        today = sorted((each for each in messages if each[0] < day + DAY), key=lambda each: each[0])
        self._later += [each for each in messages if each[0] >= day + DAY]
        self._sent = [body for at, body in today if at > day]
        return today

    def _message(self, day: datetime) -> Iterator[tuple[datetime, bytes]]:
        rng = self._rng
        at = day + rng.random() * DAY * 0.999
        known = {"messageId": "m", "accountId": rng.choice(self._accounts), "operatorId": rng.choice(self._operators)}
        yield self._event("message.submitted", at, known | {"cost": f"0.{rng.randrange(10**6):06d}", "segments": 2})
        known["submittedAt"] = at.isoformat()
        passed = timedelta(seconds=rng.lognormvariate(1, 1)) if rng.random() < 0.9 else rng.random() * 6 * DAY
        kind = "message.delivered" if rng.random() < 0.8 else "message.failed"
        yield self._event(kind, at + passed, known)
        if rng.random() < 0.1:
            yield self._event("message.charged", at + passed, known | {"cost": "-0.000001"})
        if rng.random() < 0.05:
            yield at, b"not an event"

    def _event(self, kind: str, time: datetime, data: dict[str, Any]) -> tuple[datetime, bytes]:
        head = {"specversion": "1.0", "id": self._uuid(), "source": "/gateway", "type": kind, "time": time.isoformat()}
        return time, json.dumps(head | {"data": data}).encode()

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))


class Ledger:
    """What every cell must be, by the other reading of the contract, from the beginning."""

    def __init__(self) -> None:
        self.hours: defaultdict[int, recount.Count] = defaultdict(recount.Count)
        self._seen: set[str] = set()

    def add(self, body: bytes, published: int) -> None:
        """Count a message."""
        for fact in recount.read_message(body, None, published=published, sequence=1, rules=RULES).facts:
            if fact.key not in self._seen:
                self._seen.add(fact.key)
                self.hours[fact.at // recount.HOUR_US * recount.HOUR_US].add_closely(fact)

    def rows(self, table: str, since: datetime) -> dict[tuple[datetime, str, str], dict[str, int]]:
        """The rows of a table from a bucket on, without columns that are 0."""
        hourly = table in {"metrics_hourly", "operator_performance"}
        counts: defaultdict[int, recount.Count] = defaultdict(recount.Count)
        for start, hour in self.hours.items():
            hour.close_hour()
            bucket = start if hourly else start // DAY_US * DAY_US
            if bucket >= to_instant(since):
                for owner, cell in hour.cells.items():
                    into = counts[bucket].cells[owner]
                    for column, value in cell.items():
                        into[column] = max(into[column], value) if column == "peak_tps" else into[column] + value
        return {
            (to_datetime(bucket), scope, who): row
            for bucket, count in counts.items()
            for scope, who, row in recount.rows_of(count, table)
            if row
        }


class World:
    """The database, the producers, and what must come out."""

    def __init__(self, url: str, seed: int, clickhouse: ClickHouse | None) -> None:
        self.url = url
        self.clickhouse = clickhouse
        self.ledger = Ledger()
        self.platform = Platform(seed)
        self.position: Position | None = None
        self.sequence = 0
        self.rng = random.Random(seed + 1)
        self.sources: set[str] = set()  # where answers came from

    async def live(self, conn: Connection[Any], day: datetime) -> None:
        """One day: publish, count, and what PostgreSQL stamped is of that day."""
        end = day + DAY
        messages: list[Message] = []
        for at, body in self.platform.publish(day):
            self.sequence += 1
            messages.append(Message("messaging.events.x", None, body, self.sequence, to_instant(at)))
            self.ledger.add(body, to_instant(at))
        decoded = Decoder(Rules()).decode(messages)
        await postgres.ensure_partitions(conn, {to_datetime(event.at) for event in decoded.events})
        if self.position is None:
            created = to_instant(day)
            info = StreamInfo(created, 1, 0, 0, 0, created, {})
            self.position = (await store.open_position(conn, "S", SLOTS, info, seen=None)).position
        batch = Batch(messages, decoded, self.sequence, messages[-1].published, to_instant(end))
        self.position = (await store.apply(conn, self.position, batch, NOT_ARMED)).position
        await conn.execute("UPDATE anlyt.processed_events SET processed_at = $1 WHERE processed_at > $1", end)
        await conn.execute("UPDATE anlyt.second_counts SET touched_at = $1 WHERE touched_at > $1", end)
        await conn.execute("UPDATE anlyt.stream_positions SET updated_at = $1", end)

    async def run(self, *names: str) -> dict[str, dict[str, Any]]:
        """Run jobs."""
        return {
            name: await jobs.run_job(self.url, name, NOT_ARMED, clickhouse=self.clickhouse)
            for name in names
            if self.clickhouse is not None or name != "archive"
        }

    async def read(self, conn: Connection[Any], table: str, since: datetime) -> dict[Any, dict[str, int]]:
        """The rows there are, hot and cold, each once: where both have one they agree."""
        bucket = "hour_bucket" if table in {"metrics_hourly", "operator_performance"} else "day_bucket"
        query = f"SELECT * FROM anlyt.{table}"  # noqa: S608 - our own tables
        rows = _key_rows(table, bucket, [dict(row) for row in await conn.fetch(query)])
        if self.clickhouse is not None:
            cold = _key_rows(table, bucket, await self.clickhouse.fetch(f"SELECT * FROM {table}"))  # noqa: S608 - our own
            assert {key: rows[key] for key in rows.keys() & cold.keys()} == {
                key: cold[key] for key in rows.keys() & cold.keys()
            }
            rows = cold | rows
        return {key: row for key, row in rows.items() if key[0] >= since}

    async def check(self, conn: Connection[Any], today: datetime) -> None:
        """Every cell that has to be there is there and right; reconcile is clean."""
        for finding in await reconcile(self.url, self.clickhouse):
            assert finding.total == 0, (today, finding)
        for table in (table.name for table in TABLES):
            hourly = table in {"metrics_hourly", "operator_performance"}
            kept = timedelta(microseconds=HOT_RETENTION_US) if hourly else jobs.DAILY_RETENTION
            since = datetime(1970, 1, 1, tzinfo=UTC) if self.clickhouse is not None else today - kept
            assert await self.read(conn, table, since) == self.ledger.rows(table, since), (today, table)
        await self.ask(today)

    async def ask(self, today: datetime) -> None:
        """The API answers ranges that lie anywhere, and across the border, as if no row had ever moved."""
        first = min(to_datetime(hour) for hour in self.ledger.hours)
        kept = first if self.clickhouse is not None else max(first, today - timedelta(microseconds=HOT_RETENTION_US))
        settings = Settings.model_validate({"stream": "S", "currency": "EUR", "database_url": self.url})
        async with service(self.url, settings=settings, clickhouse=self.clickhouse) as (client, conn):
            headers = await key_for(conn, "PLATFORM")
            for start in (kept, kept + self.rng.random() * (today - kept)):
                await self._ask_daily_and_hourly(client, headers, start, today)

    async def _ask_daily_and_hourly(
        self, client: httpx2.AsyncClient, headers: dict[str, str], start: datetime, today: datetime
    ) -> None:
        for path, table, bucket, days in (
            ("/v1/metrics/daily", "metrics_daily", "dayBucket", 300),
            ("/v1/metrics/hourly", "metrics_hourly", "hourBucket", 30),
        ):
            end = min(today, start + days * DAY)
            period = {"from": start.isoformat(), "to": end.isoformat()}
            answer = await client.get(path, headers=headers, params=period | {"scope": "PLATFORM", "limit": "1000"})
            assert answer.status_code == 200, answer.text
            document = answer.json()
            expected = {
                key[0]: (row.get("total_messages", 0), row.get("peak_tps", 0), row.get("total_cost", 0))
                for key, row in self.ledger.rows(table, start).items()
                if key[1] == "PLATFORM" and key[0] < end
            }
            found = {
                datetime.fromisoformat(row[bucket]): (
                    row["totalMessages"],
                    row["peakTps"],
                    int(Decimal(row["totalCost"]) * 10**6),
                )
                for row in document["data"]
            }
            assert (expected, None) == (found, document["next"]), (path, period, document["meta"])
            self.sources.add(document["meta"]["source"])


def _key_rows(table: str, bucket: str, rows: list[dict[str, Any]]) -> dict[Any, dict[str, int]]:
    """Rows by bucket, scope and id, money in millionths, without what is 0."""
    keyed: dict[Any, dict[str, int]] = {}
    for row in rows:
        scope = row.get("scope") or ("OPERATOR" if "operator_id" in row else "ACCOUNT")
        who = str(row.get("scope_id") or row.get("operator_id") or row.get("account_id"))
        values = {
            column: int(row[column] * 10**6) if column == "total_cost" else int(row[column])
            for column in recount.COLUMNS[table]
        }
        cell = {column: value for column, value in values.items() if value}
        if cell:
            keyed[row[bucket], scope, who] = cell
    return keyed


async def live_through(world: World, days: int, *, nights: int, looks: int) -> None:
    """All days up to today: archive and retention every `nights`, the other jobs each; all is checked every `looks`."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    async with session(world.url, application="test") as conn:
        dropped = deleted = 0
        for n in range(days, 0, -1):
            day = today - n * DAY
            await world.live(conn, day)
            await world.run("percentiles", "purge")
            if n % nights == 0:
                ran = await world.run("archive", "retention")
                dropped += ran["retention"]["partitions_dropped"]
                deleted += ran["retention"]["days_deleted"]
            if n % looks == 0:
                await world.check(conn, day + DAY)
                await check_sizes(conn, day + DAY)
        await world.run("archive", "retention")
        await world.check(conn, today)
        first_kept = jobs.first_month_to_stay(today)
        months = {name[-8:] for name, state in (await list_partitions(conn)).items() if state == "attached"}
        assert min(months) == month_of(first_kept)
        lived = {month_of(today - n * DAY) for n in range(days + 1)}
        assert dropped == len(PARTITIONED_TABLES) * len([month for month in lived if month < min(months)])
        assert (deleted > 0) == (days > jobs.DAILY_RETENTION.days + 1)
        moved = not world.sources.isdisjoint({"clickhouse", "both"})
        assert moved == (world.clickhouse is not None)


async def check_sizes(conn: Connection[Any], today: datetime) -> None:
    """Working tables hold what they must and no more: ids of 48 h, the seconds of the day that was just lived."""
    oldest = await conn.fetchval("SELECT min(processed_at) FROM anlyt.processed_events")
    assert oldest >= today - 2 * DAY
    seconds = await conn.fetchval("SELECT min(touched_at) FROM anlyt.second_counts")
    assert seconds is None or seconds >= today - DAY
    assert await conn.fetchval("SELECT count(*) FROM anlyt.latency_histograms WHERE segment > 0") == 0


@pytest.fixture
def clickhouse() -> Iterator[ClickHouse]:
    with archive_directory() as path:
        made = archive_in(path)
        yield made
        run(made.close())


@pytest.mark.timeout(600)
def test_seven_months_stay_right_without_an_archive(database_url: str) -> None:
    run(live_through(World(database_url, 7, None), 215, nights=3, looks=30), limit_s=580)


@pytest.mark.timeout(600)
def test_four_months_move_into_the_archive_and_every_row_stays(database_url: str, clickhouse: ClickHouse) -> None:
    run(live_through(World(database_url, 8, clickhouse), 130, nights=15, looks=45), limit_s=580)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_years_of_days_move_into_the_archive_and_every_row_stays(database_url: str, clickhouse: ClickHouse) -> None:
    run(live_through(World(database_url, 9, clickhouse), 730, nights=7, looks=14), limit_s=3500)


def test_a_day_that_is_lived_twice_changes_nothing(database_url: str) -> None:
    """The test's own clock: what was published twice within two days counts once."""

    async def scenario() -> None:
        world = World(database_url, 1, None)
        day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - 3 * DAY
        async with session(database_url, application="test") as conn:
            await world.live(conn, day)
            await world.live(conn, day + DAY)
            assert await conn.fetchval("SELECT sum(duplicate_events) FROM anlyt.ingest_totals") > 0
            await world.run("percentiles")
            await world.check(conn, day + 2 * DAY)

    run(scenario())
