"""Who takes part in the sample, and what happened to them: operators, accounts, an incident and an outage.

In: a seed and how many there are; for the story, the instant at which it is told. Out: records with stable ids and
display names, the same for a seed at any time and on any machine. Pure. All names are invented.
"""

from __future__ import annotations

import random
import uuid
from typing import Final

from msgspec import Struct

from anlyt.events import DAY_US, HOUR_US, MINUTE_US

OPERATORS_DEFAULT: Final = 6
OPERATORS_MAX: Final = 100
ACCOUNTS_DEFAULT: Final = 24
ACCOUNTS_MAX: Final = 100_000

INCIDENT_HOURS: Final = (20, 22)  # UTC, of the last evening on which they are over: there is still traffic to fail
OUTAGE_DAYS_AGO: Final = 3
OUTAGE_START_US: Final = 14 * HOUR_US  # UTC
OUTAGE_US: Final = 90 * MINUTE_US

_INCIDENT_OPERATOR: Final = 1
_OUTAGE_OPERATOR: Final = 2  # modulo the number of operators
_LEGACY_ACCOUNT: Final = 3

# name, share of the traffic, median latency in ms, spread of its logarithm, failures, price of a segment in millionths
_OPERATORS: Final = (
    ("Alpha Mobile", 0.30, 1_400, 0.6, 0.02, 42_100),
    ("Nordtel", 0.22, 2_100, 0.7, 0.03, 38_750),
    ("Helvecom", 0.16, 900, 0.5, 0.015, 61_300),
    ("Cellara", 0.13, 3_600, 0.9, 0.06, 29_990),
    ("Iberfon", 0.11, 2_600, 0.8, 0.04, 33_475),
    ("Baltcell", 0.08, 5_200, 1.0, 0.09, 21_005),
    ("Danuvia Telecom", 0.06, 1_900, 0.7, 0.035, 27_640),
    ("Aegean Wireless", 0.05, 4_100, 0.9, 0.07, 35_118),
)
_ACCOUNTS: Final = (
    *("Lindner Savings Bank", "Boxwood Parcels", "Medrio Clinics", "Old Mill Tickets", "Fjordlight Energy"),
    *("Marigold Shops", "Cabrio Rides", "Harbour Insurance", "Eastside Utilities", "Kitchen Nine", "Larkair"),
    *("Summit Gyms", "Keyturn Logins", "Rent a Roof", "Two Wheels", "Gamut Games", "Hotel Aurora", "Quill Mail"),
    *("Pebble Credit", "Paws and Claws", "Civic Alerts", "Chalk Schools", "Bloom Florists"),
)
_QUIET_ACCOUNT: Final = "Dormant Ventures"


class Operator(Struct, frozen=True):
    """An operator; its latency is lognormal."""

    id: str
    name: str
    share: float
    latency_median_ms: int
    latency_spread: float
    failures: float
    price: int  # of a segment, in millionths


class Account(Struct, frozen=True):
    """An account. A legacy client writes UUIDs in capitals and costs as JSON numbers."""

    id: str
    name: str
    weight: float
    legacy: bool


class Roster(Struct, frozen=True):
    """Who takes part. The last account has a weight of 0: it never sends anything."""

    operators: tuple[Operator, ...]
    accounts: tuple[Account, ...]

    def names(self) -> dict[str, str]:
        """The display name of every id."""
        return {who.id: who.name for who in (*self.operators, *self.accounts)}


class Episode(Struct, frozen=True):
    """What happened to one operator between two instants (microseconds since 1970 UTC), the end excluded."""

    operator: Operator
    start: int
    end: int


class Story(Struct, frozen=True):
    """The incident (slow, many failures) and the outage (no receipts, then all at once) before an instant."""

    incident: Episode
    outage: Episode


def roster(seed: int, *, operators: int = OPERATORS_DEFAULT, accounts: int = ACCOUNTS_DEFAULT) -> Roster:
    """The operators and accounts of a seed; the sizes of the accounts follow Zipf's law."""
    senders = accounts - 1
    names = [*_ACCOUNTS[:senders], *(f"Account {n + 1}" for n in range(len(_ACCOUNTS), senders)), _QUIET_ACCOUNT]
    weights = [*(1 / (n + 1) for n in range(senders)), 0.0]
    return Roster(
        tuple(_operator(seed, n) for n in range(operators)),
        tuple(
            Account(_ident(seed, f"account {n}"), names[n], weights[n], n == _LEGACY_ACCOUNT) for n in range(accounts)
        ),
    )


def story(members: Roster, start: int) -> Story:
    """What had happened by `start` (microseconds since 1970 UTC)."""
    midnight = start - start % DAY_US
    first, last = INCIDENT_HOURS
    evening = midnight if midnight + last * HOUR_US <= start else midnight - DAY_US
    outage = midnight - OUTAGE_DAYS_AGO * DAY_US + OUTAGE_START_US
    operators = members.operators
    return Story(
        Episode(operators[_INCIDENT_OPERATOR], evening + first * HOUR_US, evening + last * HOUR_US),
        Episode(operators[_OUTAGE_OPERATOR % len(operators)], outage, outage + OUTAGE_US),
    )


def _operator(seed: int, number: int) -> Operator:
    again, place = divmod(number, len(_OPERATORS))
    name, share, latency, spread, failures, price = _OPERATORS[place]
    shown = f"{name} {again + 1}" if again else name
    return Operator(_ident(seed, f"operator {number}"), shown, share, latency, spread, failures, price)


def _ident(seed: int, what: str) -> str:
    chance = random.Random(f"{seed} {what}")  # noqa: S311 - a sample, no secret
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))
