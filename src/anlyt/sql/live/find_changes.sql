-- The present snapshot, and the hours that transactions it sees and `since` does not have changed, the latest first.
-- $1 since TEXT (a snapshot; NULL: now), $2 hours INTEGER (at most)
SELECT
    pg_current_snapshot()::TEXT AS snapshot,
    pg_snapshot_xmin(pg_current_snapshot())::TEXT::BIGINT AS oldest,
    ARRAY(
        SELECT DISTINCT hour_bucket
        FROM anlyt.changed_hours
        WHERE changed_by >= pg_snapshot_xmin($1::TEXT::PG_SNAPSHOT)
          AND NOT pg_visible_in_snapshot(changed_by, $1::TEXT::PG_SNAPSHOT)
        ORDER BY hour_bucket DESC
        LIMIT $2
    ) AS hours
