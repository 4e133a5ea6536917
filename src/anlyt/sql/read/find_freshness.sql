-- The database's clock, and the instant before which everything published has been counted: the lowest of all slots,
-- unknown (NULL) until every slot has been counted once.
-- $1 stream TEXT, $2 slots INTEGER (how many there are)
SELECT
    now() AS as_of,
    CASE WHEN count(complete_through) = $2 THEN min(complete_through) END AS complete_through
FROM anlyt.stream_positions
WHERE stream = $1
