-- Forget the positions of a stream that nobody has counted for a while; a worker that counts it would find nothing to
-- move and fail its batch.
-- $1 stream TEXT, $2 idle INTERVAL
DELETE FROM anlyt.stream_positions
WHERE stream = $1
  AND NOT EXISTS (
      SELECT
      FROM anlyt.stream_positions AS lively
      WHERE lively.stream = $1
        AND lively.updated_at >= now() - $2::INTERVAL
  )
