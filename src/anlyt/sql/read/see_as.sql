-- For this transaction: read as the role of a Grant, which sees the rows of its ids and no others (row-level security),
-- and plan the statements with their values: a page's period decides which partitions are read at all, and an absent
-- filter costs nothing.
-- $1 role TEXT ('anlyt_staff' or 'anlyt_tenant'), $2 scope TEXT, $3 ids TEXT[]
SELECT
    set_config('plan_cache_mode', 'force_custom_plan', TRUE),
    set_config('anlyt.scope', $2::TEXT, TRUE),
    set_config('anlyt.ids', array_to_string($3::TEXT[], ','), TRUE),
    set_config('role', $1::TEXT, TRUE)
