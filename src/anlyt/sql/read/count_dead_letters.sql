-- The open dead letters by reason, of the latest ones: a flood of letters must not make the status slow.
-- $1 stream TEXT, $2 letters BIGINT (how many are looked at)
SELECT reason, count(*) AS letters
FROM (
    SELECT coalesce(retry_reason, reason) AS reason
    FROM anlyt.dead_letters
    WHERE stream = $1
      AND resolution IS NULL
    ORDER BY recorded_at DESC
    LIMIT $2
) AS latest
GROUP BY reason
ORDER BY reason
