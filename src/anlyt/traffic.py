"""`anlyt events simulate` and `publish`: traffic from a generator or a file into the stream, with progress on stderr.

In: settings and what to publish. Out: everything acknowledged by JetStream, or an error that says it may be repeated.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from anlyt import jetstream, publishing, simulate
from anlyt.terminal import progress

if TYPE_CHECKING:
    import asyncio

    from anlyt.settings import Settings


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
                await publishing.publish_each(
                    nc, publishing.at_their_time(publications, stop=stop), on_progress=on_progress
                )
            else:
                await publishing.publish_fast(nc, publications, on_progress=on_progress)
    finally:
        await nc.close()


async def publish_file(settings: Settings, file: IO[bytes], *, backfill: str | None) -> publishing.Published:
    """Publish NDJSON. Raises UsageError that names the line the server cannot take."""
    nc = await _open(settings)
    try:
        subject = settings.subjects.removesuffix(">") + "published"
        messages = publishing.read_ndjson(file, subject=subject, backfill=backfill, bytes_max=nc.max_payload)
        with progress("publishing", unit="messages") as advance:
            return await publishing.publish_fast(
                nc, messages, on_progress=lambda done: advance(done.stored + done.known)
            )
    finally:
        await nc.close()


async def _open(settings: Settings) -> jetstream.Client:
    assert settings.nats_url is not None
    nc = await jetstream.connect(settings.nats_url.get_secret_value(), name="anlyt-events")
    await jetstream.ensure_stream(nc, settings.stream, settings.subjects)
    return nc
