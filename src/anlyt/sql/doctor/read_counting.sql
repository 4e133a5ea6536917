-- How far a stream has been counted, what was lost or not understood, and how many workers have a session.
-- $1 stream TEXT
SELECT
    min(complete_through) AS complete_through,
    coalesce(max(lost_messages), 0) AS lost_messages,
    coalesce(max(refused_events), 0) AS refused_events,
    (
        SELECT count(*)
        FROM pg_stat_activity
        WHERE datname = current_database()
          AND application_name = 'anlyt-worker'
    ) AS worker_sessions
FROM anlyt.stream_positions
WHERE stream = $1
