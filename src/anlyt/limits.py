"""So that nobody takes everything: how often each caller may ask, and how many of its questions are answered at once.

In: who asks. Out: a turn, or a 429 that says when to come back. A caller waits for its own turns first and only then in
the common line, so one that asks a hundred things at once holds up itself. Equal questions that meet are answered
together. Turns come before sessions of the database: what waits here holds none. Everything is in one process; several
API processes allow as many times more.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar

from anlyt.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable

T = TypeVar("T")
Kind = Literal["light", "heavy", "file"]

CALLERS_MAX: Final = 10_000  # whose pace is remembered, the least recent forgotten first
REQUESTS_BURST_S: Final = 5  # a rested caller may send the requests of so many seconds at once
TURN_WAIT_S: Final = 2.0  # for a turn; then 429
LIGHT_EACH_MAX: Final = 4  # pages of rows and the like at once, of one caller
LIGHT_MAX: Final = 10  # of all callers together: as many as there are sessions
HEAVY_EACH_MAX: Final = 2  # sums at once
HEAVY_MAX: Final = 4  # with the files, so many sessions at most: the rest stays for light questions
FILE_EACH_MAX: Final = 1  # exports at once; each holds a session for minutes
FILE_MAX: Final = 3


class Pace:
    """How much each caller may still spend: a store that fills at `per_s` up to `burst`."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # by caller: what is left, and when it was

    def spend(self, caller: str, amount: int, now_s: float) -> float | None:
        """Take `amount` from a caller's store; if it does not hold it, the seconds until it will. Any steady clock."""
        assert amount <= self._burst, "it would never be allowed"
        left, at = self._left.get(caller, (self._burst, now_s))
        left = min(self._burst, left + (now_s - at) * self._per_s)
        wait_s = None if amount <= left else (amount - left) / self._per_s
        self._left[caller] = (left if wait_s is not None else left - amount, now_s)
        self._left.move_to_end(caller)
        if len(self._left) > CALLERS_MAX:
            self._left.popitem(last=False)
        return wait_s


class Lane:
    """Turns of one kind: at most `each` of one caller and `total` of all at once, waited for at most `wait_s`."""

    def __init__(self, each: int, total: int, *, wait_s: float = TURN_WAIT_S) -> None:
        self.each = each
        self.total = total
        self._wait_s = wait_s
        self._all = asyncio.Semaphore(total)
        self._own: dict[str, asyncio.Semaphore] = {}
        self._asking: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncGenerator[None]:
        """A turn for the length of a with block. Raises RequestError 429."""
        self._asking[caller] += 1
        own = self._own.setdefault(caller, asyncio.Semaphore(self.each))
        try:
            async with asyncio.timeout(self._wait_s):
                await self._take(own)
        except TimeoutError:
            self._leave(caller)
            raise _too_many(
                f"at most {self.each} such requests of one key are answered at a time, and {self.total} in all"
            ) from None
        except BaseException:  # cancelled: the caller is gone
            self._leave(caller)
            raise
        try:
            yield
        finally:
            self._all.release()
            own.release()
            self._leave(caller)

    async def _take(self, own: asyncio.Semaphore) -> None:
        await own.acquire()
        try:
            await self._all.acquire()
        except BaseException:
            own.release()
            raise

    def _leave(self, caller: str) -> None:
        self._asking[caller] -= 1
        if not self._asking[caller]:
            del self._asking[caller], self._own[caller]


class Together(Generic[T]):
    """Equal questions that are asked while one of them is being answered get one answer between them.

    It is never one that was begun before they came: each waits for the run at hand to end, then one of them asks for
    all. So an answer tells at least what was true when its question arrived, and a hundred that come at once cost two
    runs. Only answers are shared: when a run fails, or its caller leaves, the next one asks for itself.
    """

    def __init__(self, *, wait_s: float = TURN_WAIT_S) -> None:
        self._wait_s = wait_s
        self._asked: dict[Hashable, _Question[T]] = {}

    async def answer(self, question: Hashable, find: Callable[[], Awaitable[T]]) -> T:
        """What `find` returned to this caller, or to another one after this call. Raises RequestError 429."""
        asked = self._asked.setdefault(question, _Question())
        asked.askers += 1
        begun_before = asked.begun
        try:
            try:
                async with asyncio.timeout(self._wait_s):
                    await asked.run.acquire()
            except TimeoutError:
                raise _too_many("the same question is being answered and takes long") from None
            try:
                if asked.answer is None or asked.answer[0] <= begun_before:
                    asked.begun += 1
                    number = asked.begun
                    asked.answer = (number, await find())
                return asked.answer[1]
            finally:
                asked.run.release()
        finally:
            asked.askers -= 1
            if not asked.askers:
                del self._asked[question]


class _Question(Generic[T]):
    """A question as long as somebody waits for its answer."""

    def __init__(self) -> None:
        self.askers = 0
        self.run = asyncio.Lock()
        self.begun = 0  # runs so far
        self.answer: tuple[int, T] | None = None  # the latest, and which run it came from


def _too_many(limit: str) -> RequestError:
    return RequestError(
        f"{limit}; send this again in a moment",
        status=429,
        code="too-fast",
        retry_after_s=math.ceil(TURN_WAIT_S),
    )


class Limits:
    """Everything that is limited by caller."""

    def __init__(self, requests_per_s: int) -> None:
        self._pace = Pace(requests_per_s, requests_per_s * REQUESTS_BURST_S)
        self._per_s = requests_per_s
        self._lanes: dict[Kind, Lane] = {
            "light": Lane(LIGHT_EACH_MAX, LIGHT_MAX),
            "heavy": Lane(HEAVY_EACH_MAX, HEAVY_MAX),
            "file": Lane(FILE_EACH_MAX, FILE_MAX, wait_s=0.0),
        }

    def check_pace(self, caller: str, now_s: float) -> None:
        """Raise the 429 of a caller that asks too often. `now_s` is any steady clock."""
        wait_s = self._pace.spend(caller, 1, now_s)
        if wait_s is not None:
            raise RequestError(
                f"one key may send {self._per_s} requests a second; wait a moment",
                status=429,
                code="too-fast",
                retry_after_s=math.ceil(wait_s),
            )

    def lane(self, kind: Kind) -> Lane:
        """The turns of a kind."""
        return self._lanes[kind]
