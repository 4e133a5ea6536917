-- Plan the statements of this transaction with their values: a page's period decides which partitions are read at all,
-- and an absent filter costs nothing. No parameters.
SELECT set_config('plan_cache_mode', 'force_custom_plan', TRUE)
