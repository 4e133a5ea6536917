-- How many ids purge_events would forget.
SELECT count(*)
FROM anlyt.processed_events
WHERE processed_at < (
    SELECT LEAST(now(), min(complete_through)) - INTERVAL '48 hours'
    FROM anlyt.stream_positions
    HAVING count(*) > 0
       AND count(*) = count(complete_through)
)
