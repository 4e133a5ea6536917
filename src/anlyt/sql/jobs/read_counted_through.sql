-- Until when everything that was published has been counted; at most now, and nothing while a position is unknown.
-- Events published later are at most their hot retention old then, so what is older than that has come to rest.
SELECT LEAST(now(), min(complete_through))
FROM anlyt.stream_positions
HAVING count(*) = count(complete_through)
