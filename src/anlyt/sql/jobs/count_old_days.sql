-- How many rows of days, and of weeks, are past their retention.
-- $1 until TIMESTAMPTZ, exclusive
SELECT (SELECT count(*) FROM anlyt.metrics_daily WHERE day_bucket < $1)
    + (SELECT count(*) FROM anlyt.latency_weeks WHERE week_bucket < $1)
    + (SELECT count(*) FROM anlyt.latency_days WHERE day_bucket < $1)
    + (SELECT count(*) FROM anlyt.account_usage_daily WHERE day_bucket < $1)
