-- Open dead letters of the last 24 hours by reason, and how many of them are of the last hour; the most frequent first.
-- $1 stream TEXT
SELECT
    reason,
    count(*) AS day_letters,
    count(*) FILTER (WHERE recorded_at > now() - make_interval(hours => 1)) AS hour_letters
FROM anlyt.dead_letters
WHERE recorded_at > now() - make_interval(hours => 24)
  AND resolution IS NULL
  AND stream = $1
GROUP BY reason
ORDER BY day_letters DESC, reason
