"""`anlyt events simulate` and `publish`: traffic from a generator or a file into the stream, with progress on stderr.

In: settings and what to publish. Out: everything acknowledged by JetStream, or an error that says it may be repeated.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Final

from anlyt import jetstream, publishing, simulate
from anlyt.errors import UsageError
from anlyt.events import BACKFILL_NAME_CHARS_MAX, CLOCK_MARGIN_US, DEDUPE_WINDOW_US
from anlyt.terminal import progress

if TYPE_CHECKING:
    import asyncio

    from anlyt.settings import Settings

HOUR: Final = timedelta(hours=1)
FAST_MAX: Final = (
    timedelta(microseconds=DEDUPE_WINDOW_US - CLOCK_MARGIN_US) - HOUR * 3 / 4
)  # 47 h; it is published in less


def check_times(duration: timedelta | None, history: timedelta | None, *, fast: bool) -> None:
    """Raise UsageError for times that do not go together, or that would make good events stale."""
    if history is not None and (fast or duration is not None):
        raise UsageError("--history is past traffic, published at once: it takes neither --duration nor --fast")
    if fast and duration is None:
        raise UsageError("--fast needs --duration: how much traffic to publish at once")
    if fast and duration is not None and duration > FAST_MAX:
        raise UsageError(
            f"--fast takes a --duration of at most {FAST_MAX // HOUR} h, because older events are stale; for more, "
            "publish a backfill: --history"
        )


async def publish(
    settings: Settings,
    wanted: simulate.Traffic,
    tally: simulate.Tally,
    *,
    paced: bool,
    quiet: bool,
    stop: asyncio.Event,
) -> None:
    """Publish simulated traffic, each message at its time (`paced`) or all at full speed, until its end or `stop`."""
    nc = await _open(settings)
    try:
        with progress("publishing", unit="messages", quiet=quiet) as advance:

            def on_progress(done: publishing.Published) -> None:
                advance(done.stored + done.known)

            publications = simulate.simulate(wanted, tally)
            if paced:
                at_their_time = publishing.at_their_time(publications, stop=stop)
                await publishing.publish_each(nc, at_their_time, on_progress=on_progress)
            else:
                at_once = publishing.until_stopped(publications, stop=stop)
                await publishing.publish_fast(nc, at_once, on_progress=on_progress)
    finally:
        await nc.close()


async def publish_file(
    settings: Settings, file: IO[bytes], *, backfill: str | None, stop: asyncio.Event
) -> publishing.Published:
    """Publish NDJSON to its end, or until `stop`; what was read by then is published.

    Raises UsageError that names the line the server cannot take, or an odd name of a backfill.
    """
    if backfill is not None and not (0 < len(backfill) <= BACKFILL_NAME_CHARS_MAX and backfill.isprintable()):
        raise UsageError(f"--backfill takes a printable name of at most {BACKFILL_NAME_CHARS_MAX} characters")
    nc = await _open(settings)
    bytes_all, bytes_read = os.fstat(file.fileno()).st_size, 0  # of a pipe 0

    def on_read(count: int) -> None:
        nonlocal bytes_read
        bytes_read = count

    try:
        subject = settings.subjects.removesuffix(">") + "published"
        bytes_max = nc.max_payload - publishing.HEADERS_BYTES_MAX
        lines = publishing.Lines(subject, backfill=backfill, bytes_max=bytes_max)
        with progress("publishing", unit="messages") as advance:

            def on_progress(done: publishing.Published) -> None:
                count = done.stored + done.known
                advance(count, count * bytes_all // bytes_read if bytes_all and bytes_read else None)

            batches = publishing.read_batches(file, lines, stop=stop, on_read=on_read)
            return await publishing.publish_batches(nc, batches, on_progress=on_progress)
    finally:
        await nc.close()


async def _open(settings: Settings) -> jetstream.Client:
    nc = await jetstream.connect_as(settings, name="anlyt-events")
    await jetstream.ensure_stream(nc, settings.stream, settings.subjects, replicas=settings.stream_replicas)
    return nc
