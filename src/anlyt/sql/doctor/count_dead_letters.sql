-- Open dead letters of the last 24 hours by reason, the most frequent first; how many of them belong to named loads,
-- which are published at once and over, and how many of the others came in the last hour.
-- $1 stream TEXT
SELECT
    reason,
    count(*) AS day_letters,
    count(*) FILTER (WHERE of_load) AS load_letters,
    count(*) FILTER (WHERE NOT of_load AND recorded_at > now() - make_interval(hours => 1)) AS hour_letters
FROM (
    SELECT
        reason,
        recorded_at,
        EXISTS (
            SELECT
            FROM json_object_keys(headers) AS header
            WHERE lower(header) = 'anlyt-backfill'
        ) AS of_load
    FROM anlyt.dead_letters
    WHERE recorded_at > now() - make_interval(hours => 24)
      AND resolution IS NULL
      AND stream = $1
) AS letters
GROUP BY reason
ORDER BY day_letters DESC, reason
