-- How far a stream has been counted, what was lost, and recent dead letters that are open.
-- $1 stream TEXT
SELECT
    min(complete_through) AS complete_through,
    coalesce(max(lost_messages), 0) AS lost_messages,
    (
        SELECT count(*)
        FROM anlyt.dead_letters
        WHERE recorded_at > now() - INTERVAL '24 hours'
          AND resolution IS NULL
    ) AS dead_letters
FROM anlyt.stream_positions
WHERE stream = $1
