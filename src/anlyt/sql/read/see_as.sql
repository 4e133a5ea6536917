-- For this transaction: read as the role of a Grant, which sees the rows of its ids and no others (row-level security).
-- What a tenant asks is looked up by its ids whatever the values are, so its statements keep one plan: planning would take
-- longer than most of them run. Staff's are planned with their values: an absent filter costs nothing then, and the period
-- decides which partitions are read at all.
-- $1 role TEXT ('anlyt_staff' or 'anlyt_tenant'), $2 scope TEXT, $3 ids TEXT[]
SELECT
    set_config(
        'plan_cache_mode',
        CASE $1::TEXT WHEN 'anlyt_tenant' THEN 'force_generic_plan' ELSE 'force_custom_plan' END,
        TRUE
    ),
    set_config('anlyt.scope', $2::TEXT, TRUE),
    set_config('anlyt.ids', array_to_string($3::TEXT[], ','), TRUE),
    set_config('role', $1::TEXT, TRUE)
