-- Accounts that have numbers of today and of yesterday (UTC), each counted up to a limit: many new ids are an alarm.
-- $1 limit BIGINT
SELECT
    (
        SELECT count(*)
        FROM (
            SELECT
            FROM anlyt.account_usage_daily
            WHERE day_bucket = date_trunc('day', now(), 'UTC')
            LIMIT $1
        ) AS found
    ) AS today,
    (
        SELECT count(*)
        FROM (
            SELECT
            FROM anlyt.account_usage_daily
            WHERE day_bucket = date_trunc('day', now(), 'UTC') - INTERVAL '1 day'
            LIMIT $1
        ) AS found
    ) AS yesterday
