"""One snapshot of the roll-ups, in which PostgreSQL shows only what a Grant may see.

In: a connection and a Grant. Out: a read-only transaction that has given up the rights of the owner: it reads as
anlyt_staff, or as anlyt_tenant, for whom row-level security hides every row of other scopes and ids. access.see decides
first what a statement asks for; should that ever be wrong, the rows are not there (I8). Role and settings end with the
transaction, so a pooled session keeps nothing of them.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from anlyt.access import make_grant
from anlyt.cold import find_cold
from anlyt.postgres import sql

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy

    from anlyt.access import Grant
    from anlyt.clickhouse import ClickHouse
    from anlyt.cold import Cold

    AnyConnection = Connection[Record] | PoolConnectionProxy[Record]

STAFF_ROLE: Final = "anlyt_staff"
TENANT_ROLE: Final = "anlyt_tenant"
GUARDED_TABLES: Final = (  # those with rows of tenants, each with policies
    "metrics_hourly",
    "metrics_daily",
    "operator_performance",
    "account_usage_daily",
    "latency_histograms",
    "latency_days",
    "latency_weeks",
)
STAFF: Final = make_grant("PLATFORM", (), ["metrics:read"])  # for what is read about the service, on nobody's behalf


@asynccontextmanager
async def snapshot(
    conn: AnyConnection, grant: Grant, clickhouse: ClickHouse | None = None
) -> AsyncGenerator[Cold | None]:
    """A read-only transaction on one state of the database, with the sight of `grant`; and the archive's side of it."""
    role = STAFF_ROLE if grant.scope == "PLATFORM" else TENANT_ROLE
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        cold = await find_cold(conn, clickhouse)
        await conn.execute(sql("read/see_as"), role, grant.scope, sorted(grant.scope_ids))
        yield cold
