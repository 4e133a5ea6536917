-- Messages of the platform and of each operator in steps of the seconds before an instant, for rates of the moment.
-- Seconds are kept 6 h; the primary key begins with them.
-- $1 end TIMESTAMPTZ, exclusive; $2 step INTEGER, in seconds; $3 steps INTEGER, numbered from 0, the oldest
SELECT
    scope_id,
    $3::INTEGER - 1 - floor(extract(epoch FROM $1::TIMESTAMPTZ - second - make_interval(secs => 1)) / $2::INTEGER)::INTEGER
        AS step,
    sum(message_count)::BIGINT AS messages
FROM anlyt.second_counts
WHERE second >= $1 - make_interval(secs => $2 * $3)
  AND second < $1
  AND scope IN ('OPERATOR', 'PLATFORM')
GROUP BY scope_id, step
