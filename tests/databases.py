"""Databases and roles of a test's own, and what the catalogue says about the schema anlyt in one of them."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anlyt.embedded import EmbeddedPostgres

# What a table, a function or a right is, each as one query; together they are the schema.
CATALOGUE = {
    "columns": """
        SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::TEXT,
               pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'anlyt'::REGNAMESPACE AND c.relkind IN ('r', 'p') AND a.attnum > 0""",
    "constraints": """
        SELECT c.relname, n.conname, pg_get_constraintdef(n.oid)
        FROM pg_constraint n JOIN pg_class c ON c.oid = n.conrelid WHERE c.relnamespace = 'anlyt'::REGNAMESPACE""",
    "indexes": """
        SELECT t.relname, c.relname, pg_get_indexdef(i.indexrelid)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
        WHERE c.relnamespace = 'anlyt'::REGNAMESPACE""",
    "partition keys": """
        SELECT c.relname, pg_get_partkeydef(c.oid) FROM pg_class c
        WHERE c.relnamespace = 'anlyt'::REGNAMESPACE AND c.relkind = 'p'""",
    "storage": """
        SELECT c.relname, c.relkind::TEXT, c.relpersistence::TEXT, c.reloptions FROM pg_class c
        WHERE c.relnamespace = 'anlyt'::REGNAMESPACE""",
    "sequences": """
        SELECT sequencename, data_type::TEXT, start_value, increment_by, max_value, cycle FROM pg_sequences
        WHERE schemaname = 'anlyt'""",
    "functions": """
        SELECT p.proname, pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'anlyt'::REGNAMESPACE""",
    "policies": """
        SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, p.polname, p.polcmd::TEXT, p.polpermissive,
               (SELECT array_agg(r.rolname ORDER BY r.rolname) FROM pg_roles r WHERE r.oid = ANY (p.polroles)),
               pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
        FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid
        WHERE c.relnamespace = 'anlyt'::REGNAMESPACE AND c.relkind IN ('r', 'p')""",
    "rights": """
        SELECT c.relname, pg_get_userbyid(c.relowner), c.relacl::TEXT FROM pg_class c
        WHERE c.relnamespace = 'anlyt'::REGNAMESPACE
        UNION ALL SELECT p.proname, pg_get_userbyid(p.proowner), p.proacl::TEXT FROM pg_proc p
        WHERE p.pronamespace = 'anlyt'::REGNAMESPACE
        UNION ALL SELECT c.relname || '.' || a.attname, pg_get_userbyid(c.relowner), a.attacl::TEXT
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'anlyt'::REGNAMESPACE AND a.attacl IS NOT NULL
        UNION ALL SELECT n.nspname, pg_get_userbyid(n.nspowner), n.nspacl::TEXT FROM pg_namespace n
        WHERE n.nspname = 'anlyt'""",
}


async def read_catalogue(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Everything CATALOGUE asks, sorted."""
    conn = await asyncpg.connect(url)
    try:
        return {
            what: sorted((tuple(row) for row in await conn.fetch(query)), key=repr) for what, query in CATALOGUE.items()
        }
    finally:
        await conn.close()


@asynccontextmanager
async def empty_database(server: EmbeddedPostgres) -> AsyncGenerator[str]:
    """The address of an empty database, as the role anlyt that owns it."""
    name = f"e_{secrets.token_hex(6)}"
    await execute(server.admin_url, f"CREATE DATABASE {name} OWNER anlyt")
    try:
        yield server.url.removesuffix("/anlyt") + f"/{name}"
    finally:
        await execute(server.admin_url, f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def login_role(server: EmbeddedPostgres, url: str, *, member_of: str = "") -> AsyncGenerator[str]:
    """The address `url` as another role, which owns nothing."""
    name, password = f"r_{secrets.token_hex(6)}", secrets.token_hex(8)
    membership = f"IN ROLE {member_of}" if member_of else ""
    await execute(server.admin_url, f"CREATE ROLE {name} LOGIN PASSWORD '{password}' {membership}")
    try:
        yield f"postgresql://{name}:{password}@{url.rpartition('@')[2]}"
    finally:
        await execute(server.admin_url, f"DROP ROLE {name}")


async def execute(url: str, statements: str) -> None:
    """Run statements in a session of their own."""
    conn = await asyncpg.connect(url)
    try:
        await conn.execute(statements)
    finally:
        await conn.close()
