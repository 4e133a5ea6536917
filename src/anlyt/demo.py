"""The sample of `anlyt up --demo`: 30 days of history with deliberate duplicates and bad events, then live traffic.

In: settings. Out: the history published as a named backfill, counted, and a printed proof that what was counted is what
was published. Deterministic from DEMO_SEED; a second start finds the history by its name and does not load it again.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from anlyt import jetstream, jobs, postgres, publishing, simulate
from anlyt.access import make_grant
from anlyt.crash import CrashPoints
from anlyt.errors import AnlytError, DifferenceFound
from anlyt.postgres import sql
from anlyt.sample import Roster, roster
from anlyt.terminal import progress

if TYPE_CHECKING:
    from anlyt.access import Grant
    from anlyt.settings import Settings

DEMO_SEED: Final = 7
HISTORY: Final = timedelta(days=30)
HISTORY_RATE: Final = 0.12  # distinct events a second on average: about 300,000 in all
HISTORY_BATCHES: Final = 0.9  # of the events: fewer messages, a faster start
LIVE_RATE: Final = 0.5  # not much more than in the past, so that one chart can show both
COUNTED_LIMIT_S: Final = 300.0
POLL_S: Final = 0.2
LIVE: Final = ["events", "simulate", "--seed", str(DEMO_SEED), "--rate", str(LIVE_RATE), "--quiet"]


class Story(Struct, frozen=True):
    """Who takes part, and the traffic of the past."""

    members: Roster
    past: simulate.Traffic


def story(settings: Settings, *, now: datetime | None = None) -> Story:
    """The sample for a deployment. Its history ends at the last full minute."""
    start = (now or datetime.now(UTC)).replace(second=0, microsecond=0)
    past = simulate.Traffic(
        start=start,
        seed=DEMO_SEED,
        rate=HISTORY_RATE,
        history=HISTORY,
        batches=HISTORY_BATCHES,
        currency=settings.currency,
        subject_prefix=settings.subjects.removesuffix(">"),
    )
    return Story(roster(DEMO_SEED), past)


def grants(sample: Story) -> dict[str, Grant]:
    """Keys to look at the sample with: one operator's and one account's, by name."""
    operator, account = sample.members.operators[0], sample.members.accounts[0]
    return {
        "operator": make_grant("OPERATOR", [operator.id], ["metrics:read"]),
        "account": make_grant("ACCOUNT", [account.id], ["metrics:read"]),
    }


def names(sample: Story) -> bytes:
    """The sample's display names, as a file of ANLYT_NAMES_FILE has them."""
    members = sample.members
    kinds = {"operators": members.operators, "accounts": members.accounts}
    found = {kind: {each.id: each.name for each in group} for kind, group in kinds.items()}
    return msgspec.json.format(msgspec.json.encode(found))


async def load_history(settings: Settings, sample: Story, *, stop: asyncio.Event) -> None:
    """Publish the history, wait until it is counted, and print the proof. Does nothing when there is one already.

    Once begun, the history is published to its end whatever `stop` says, because a half one would stay half.
    Raises DifferenceFound when the tables do not hold what was published.
    """
    assert settings.database_url is not None
    assert settings.nats_url is not None
    url = settings.database_url.get_secret_value()
    async with postgres.session(url, application="anlyt-demo") as conn:
        nc = await jetstream.connect_as(settings, name="anlyt-demo")
        try:
            await _wait_until_counted(conn, nc, settings.stream, stop)  # it may hold the history of an earlier start
            if stop.is_set():
                return
            if await conn.fetchval(sql("read/find_backfill"), f"simulated-{DEMO_SEED}-%"):
                _say("the sample history is there already")
                return
            tally = await _publish(nc, sample)
            await _wait_until_counted(conn, nc, settings.stream, stop)
        finally:
            await nc.close()
        if not stop.is_set():
            await jobs.run_job(url, "percentiles", CrashPoints())
            await _prove(conn, simulate.backfill_name(sample.past), tally)


async def _publish(nc: jetstream.Client, sample: Story) -> simulate.Tally:
    tally = simulate.Tally()
    with progress("publishing 30 days of history", unit="messages") as advance:
        await publishing.publish_fast(
            nc, simulate.simulate(sample.past, tally), on_progress=lambda done: advance(done.stored + done.known)
        )
    return tally


async def _wait_until_counted(
    conn: postgres.AnyConnection, nc: jetstream.Client, stream: str, stop: asyncio.Event
) -> None:
    """Until the workers have counted the stream's present end, or `stop`."""
    end = (await jetstream.stream_info(nc, stream)).last_seq
    deadline = asyncio.get_running_loop().time() + COUNTED_LIMIT_S
    with progress("counting it", unit="messages", total=end) as advance:
        while (counted := await conn.fetchval(sql("read/lowest_last_seq"), stream)) < end and not stop.is_set():
            advance(counted)
            if asyncio.get_running_loop().time() > deadline:
                raise AnlytError(
                    f"the stream was not counted up to {end} within {COUNTED_LIMIT_S:.0f} s; look at what the workers "
                    "wrote above, and start again: what is counted stays counted"
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await stop.wait()


async def _prove(conn: postgres.AnyConnection, load: str, tally: simulate.Tally) -> None:
    row = await conn.fetchrow(sql("read/prove_backfill"), load)
    assert row is not None
    made = (tally.events, tally.duplicates, sum(tally.bad.values()))
    found = (row["counted_events"], row["duplicate_events"], row["dead_letter_events"])
    _say(f"published {made[0]:,} events, {made[1]:,} of them a second time, and {made[2]:,} bad ones")
    _say(f"counted   {found[0]:,} events, ignored {found[1]:,} duplicates, kept {found[2]:,} dead letters")
    _say(f"accounts add up to the platform: {row['account_total']:,} = {row['platform_total']:,} messages")
    if made != found or row["account_total"] != row["platform_total"]:
        raise DifferenceFound("the tables do not hold what was published; please report this")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
