-- The schema of anlyt: THE definition. Row records and reference pages are generated from it (make gen), and
-- sql/migrations brings a database to it (a test proves them equal). Change it, add a migration, run make gen.

CREATE SCHEMA anlyt;

-- ------------------------------------------------------------------------------------------------------------------
-- 1. The five contract tables, to the letter of the founding document.
-- ------------------------------------------------------------------------------------------------------------------

-- Hourly aggregates across all scopes (platform, operator, account). Monthly partitions; 90-day hot retention.
CREATE TABLE anlyt.metrics_hourly (
    hour_bucket TIMESTAMPTZ NOT NULL, -- date_trunc('hour', ...)
    scope TEXT NOT NULL, -- 'PLATFORM'|'OPERATOR'|'ACCOUNT'
    scope_id TEXT NOT NULL, -- operatorId, accountId, or 'platform'
    total_messages BIGINT NOT NULL DEFAULT 0,
    delivered_messages BIGINT NOT NULL DEFAULT 0,
    failed_messages BIGINT NOT NULL DEFAULT 0,
    pending_messages BIGINT NOT NULL DEFAULT 0,
    total_cost NUMERIC(18,6) NOT NULL DEFAULT 0,
    latency_sum_ms BIGINT NOT NULL DEFAULT 0,
    latency_sample_count BIGINT NOT NULL DEFAULT 0,
    peak_tps INTEGER NOT NULL DEFAULT 0,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (hour_bucket, scope, scope_id)
) PARTITION BY RANGE (hour_bucket);

-- Daily roll-up of the same columns. 365-day hot retention.
CREATE TABLE anlyt.metrics_daily (
    day_bucket TIMESTAMPTZ NOT NULL, -- date_trunc('day', ...)
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    total_messages BIGINT NOT NULL DEFAULT 0,
    delivered_messages BIGINT NOT NULL DEFAULT 0,
    failed_messages BIGINT NOT NULL DEFAULT 0,
    pending_messages BIGINT NOT NULL DEFAULT 0,
    total_cost NUMERIC(18,6) NOT NULL DEFAULT 0,
    latency_sum_ms BIGINT NOT NULL DEFAULT 0,
    latency_sample_count BIGINT NOT NULL DEFAULT 0,
    peak_tps INTEGER NOT NULL DEFAULT 0,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (day_bucket, scope, scope_id)
);

-- Dedicated hourly operator-level table with richer latency tracking. Monthly partitions; 90-day hot retention.
CREATE TABLE anlyt.operator_performance (
    hour_bucket TIMESTAMPTZ NOT NULL,
    operator_id UUID NOT NULL,
    total_messages BIGINT NOT NULL DEFAULT 0,
    delivered_messages BIGINT NOT NULL DEFAULT 0,
    failed_messages BIGINT NOT NULL DEFAULT 0,
    latency_sum_ms BIGINT NOT NULL DEFAULT 0,
    latency_sample_count BIGINT NOT NULL DEFAULT 0,
    latency_p95_ms INTEGER, -- updated by periodic percentile recompute job
    peak_tps INTEGER NOT NULL DEFAULT 0,
    error_count BIGINT NOT NULL DEFAULT 0,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (hour_bucket, operator_id)
) PARTITION BY RANGE (hour_bucket);
CREATE INDEX ix_anlyt_op_perf_operator_hour ON anlyt.operator_performance (operator_id, hour_bucket DESC);

-- Daily account-level cost and volume summary. 365-day hot retention.
CREATE TABLE anlyt.account_usage_daily (
    day_bucket TIMESTAMPTZ NOT NULL,
    account_id UUID NOT NULL,
    messages_sent BIGINT NOT NULL DEFAULT 0,
    messages_delivered BIGINT NOT NULL DEFAULT 0,
    messages_failed BIGINT NOT NULL DEFAULT 0,
    total_cost NUMERIC(18,6) NOT NULL DEFAULT 0,
    total_segments BIGINT NOT NULL DEFAULT 0,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (day_bucket, account_id)
);
CREATE INDEX ix_anlyt_acct_usage_account ON anlyt.account_usage_daily (account_id, day_bucket DESC);

-- Deduplication table. Prevents double-counting. event_id is '<id> <source>' of the CloudEvent. 48-hour retention.
CREATE TABLE anlyt.processed_events (
    event_id TEXT PRIMARY KEY,
    event_type TEXT NOT NULL,
    processed_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX ix_anlyt_processed_at ON anlyt.processed_events (processed_at);

-- ------------------------------------------------------------------------------------------------------------------
-- 2. Working tables: what the service needs to keep the five above right.
-- ------------------------------------------------------------------------------------------------------------------

-- How far the stream has been counted. The stream is cut into 16 slots; a partition owns some of them. The row moves in
-- the same transaction as the counts, so it is the ledger: messages up to last_seq are counted, later ones are not.
CREATE TABLE anlyt.stream_positions (
    stream TEXT NOT NULL,
    slot SMALLINT NOT NULL, -- 0..15
    last_seq BIGINT NOT NULL, -- stream sequence of the last message read
    last_published_at TIMESTAMPTZ, -- JetStream time of that message
    complete_through TIMESTAMPTZ, -- everything published to this slot before this instant has been counted
    stream_created_at TIMESTAMPTZ NOT NULL, -- tells a recreated stream from the one last_seq belongs to
    lost_messages BIGINT NOT NULL DEFAULT 0, -- messages the stream dropped before they were read
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    refused_events INTEGER NOT NULL DEFAULT 0, -- events nobody understood, less what others forgive; workers stop at 20,000
    PRIMARY KEY (stream, slot)
);

-- What became of the events read so far, summed since the beginning.
CREATE TABLE anlyt.ingest_totals (
    stream TEXT NOT NULL,
    slot SMALLINT NOT NULL,
    counted_events BIGINT NOT NULL DEFAULT 0,
    duplicate_events BIGINT NOT NULL DEFAULT 0,
    dead_letter_events BIGINT NOT NULL DEFAULT 0,
    ignored_events BIGINT NOT NULL DEFAULT 0,
    late_second_counts BIGINT NOT NULL DEFAULT 0, -- arrivals more than 6 h after their second: the peak may be under-reported
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, slot)
);

-- Messages submitted (operators: or routed) per UTC second, for peak_tps. Kept 6 h after the last touch.
CREATE TABLE anlyt.second_counts (
    second TIMESTAMPTZ NOT NULL,
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    message_count INTEGER NOT NULL,
    touched_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (second, scope, scope_id)
);

-- Latency samples of an operator's hour as log-linear buckets (rollup.latency_bucket). Batches append segments; the
-- percentile job merges them into segment 0. The histogram of an hour is the sum of all its segments, always.
CREATE TABLE anlyt.latency_histograms (
    hour_bucket TIMESTAMPTZ NOT NULL,
    operator_id UUID NOT NULL,
    segment BIGINT NOT NULL, -- 0: merged by the percentile job; else from anlyt.latency_segments
    buckets SMALLINT[] NOT NULL, -- ascending bucket numbers
    sample_counts BIGINT[] NOT NULL, -- samples in each of them
    PRIMARY KEY (hour_bucket, operator_id, segment)
) PARTITION BY RANGE (hour_bucket);
CREATE INDEX ix_anlyt_latency_unmerged ON anlyt.latency_histograms (hour_bucket, operator_id) WHERE segment > 0;
CREATE SEQUENCE anlyt.latency_segments AS BIGINT;

-- The same by the day: segment 0 of its hours added up, by the percentile job whenever one of them changes.
CREATE TABLE anlyt.latency_days (
    day_bucket TIMESTAMPTZ NOT NULL,
    operator_id UUID NOT NULL,
    buckets SMALLINT[] NOT NULL,
    sample_counts BIGINT[] NOT NULL,
    PRIMARY KEY (day_bucket, operator_id)
);

-- The same by the week, from Monday on: its days added up, so that a quarter of a year takes some 25 rows.
CREATE TABLE anlyt.latency_weeks (
    week_bucket TIMESTAMPTZ NOT NULL,
    operator_id UUID NOT NULL,
    buckets SMALLINT[] NOT NULL,
    sample_counts BIGINT[] NOT NULL,
    PRIMARY KEY (week_bucket, operator_id)
);

-- Hours whose rows a transaction changed, kept for half an hour. They tell live readers where to look; the rows
-- themselves tell by their xmin whether they are among the changed ones.
CREATE TABLE anlyt.changed_hours (
    changed_by XID8 NOT NULL DEFAULT pg_current_xact_id(),
    hour_bucket TIMESTAMPTZ NOT NULL,
    changed_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (changed_by, hour_bucket)
);

-- Everything that could not be counted, whole. Identified by stream, sequence and index; published_at tells apart two
-- messages that got the same sequence because the stream was recreated or restored. A letter is never deleted: what it
-- was and what became of it stay.
CREATE TABLE anlyt.dead_letters (
    stream TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    batch_index INTEGER NOT NULL, -- place in the batch, 0 for a single event or a whole body
    published_at TIMESTAMPTZ NOT NULL, -- JetStream time of the message
    reason TEXT NOT NULL,
    detail TEXT NOT NULL, -- a sentence that names the field and the value
    subject TEXT NOT NULL,
    headers JSON NOT NULL,
    body BYTEA NOT NULL, -- the event's own bytes; for too_large and malformed bodies the whole body
    recorded_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    resolution TEXT, -- 'counted'|'duplicate'|'ignored'|'discarded'; NULL while it is open
    resolved_at TIMESTAMPTZ,
    attempts INTEGER NOT NULL DEFAULT 0, -- retries so far
    attempted_at TIMESTAMPTZ, -- time of the last one
    retry_reason TEXT, -- why the last retry that failed did so; reason stays as it was
    retry_detail TEXT,
    event_ids TEXT[], -- what a retry counted from it, so that a copy that is retried later is known as one
    event_id TEXT, -- the event's identity, where the body tells it; the purge closes a letter whose event was counted
    PRIMARY KEY (stream, sequence, batch_index, published_at)
);
CREATE INDEX ix_anlyt_dead_letters_recorded ON anlyt.dead_letters (recorded_at);
CREATE INDEX ix_anlyt_dead_letters_open ON anlyt.dead_letters (recorded_at) WHERE resolution IS NULL;
CREATE INDEX ix_anlyt_dead_letters_event ON anlyt.dead_letters (event_id) WHERE resolution IS NULL;
CREATE INDEX ix_anlyt_dead_letters_ids ON anlyt.dead_letters USING gin (event_ids);

-- Backfills by name, because they may change final buckets.
CREATE TABLE anlyt.backfills (
    name TEXT NOT NULL,
    counted_events BIGINT NOT NULL DEFAULT 0,
    duplicate_events BIGINT NOT NULL DEFAULT 0,
    dead_letter_events BIGINT NOT NULL DEFAULT 0,
    first_hour TIMESTAMPTZ, -- earliest and latest hour bucket the load changed
    last_hour TIMESTAMPTZ,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (name)
);

-- Runs of the periodic jobs.
CREATE TABLE anlyt.job_runs (
    run_id BIGINT GENERATED ALWAYS AS IDENTITY,
    job TEXT NOT NULL,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    finished_at TIMESTAMPTZ,
    outcome TEXT, -- 'ok'|'failed'; NULL while it runs or when it was killed
    detail JSON NOT NULL DEFAULT '{}', -- what was done, as counts; for a failure the error
    PRIMARY KEY (run_id)
);
CREATE INDEX ix_anlyt_job_runs_job ON anlyt.job_runs (job, started_at DESC);
CREATE INDEX ix_anlyt_job_runs_ok ON anlyt.job_runs (job, started_at DESC) WHERE outcome = 'ok';

-- What the archive has, day by day: the sums of the rows as they were copied. A day whose rows add up to something else
-- by now is copied again.
CREATE TABLE anlyt.archive_receipts (
    table_name TEXT NOT NULL,
    day TIMESTAMPTZ NOT NULL,
    row_count BIGINT NOT NULL,
    sums NUMERIC[] NOT NULL, -- of every number, in the order of the columns
    checksum NUMERIC, -- of every value of every row; NULL in receipts from before it was made as it is now
    copied_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (table_name, day)
);

-- From when on all rows of a table are here. Rows of buckets before it leave, or have left; the archive has them.
CREATE TABLE anlyt.archive_borders (
    table_name TEXT NOT NULL,
    hot_since TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (table_name)
);

-- What brought the schema to this state.
CREATE TABLE anlyt.migrations (
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL, -- of the file that was applied
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (name)
);

-- API keys. The key itself is shown once and never stored.
CREATE TABLE anlyt.api_keys (
    key_id TEXT NOT NULL, -- public part of the key
    key_sha256 BYTEA NOT NULL,
    name TEXT NOT NULL,
    scope TEXT NOT NULL, -- 'PLATFORM'|'OPERATOR'|'ACCOUNT'
    scope_ids TEXT[] NOT NULL, -- lower-case ids; {platform} for PLATFORM
    permissions TEXT[] NOT NULL, -- 'metrics:read'|'events:write'|'admin'
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ,
    last_used_at TIMESTAMPTZ,
    PRIMARY KEY (key_id)
);

-- ------------------------------------------------------------------------------------------------------------------
-- 3. Storage settings and partitions.
-- ------------------------------------------------------------------------------------------------------------------

-- Rows come and go all day: vacuum when 2 % are dead, not 20 %.
ALTER TABLE anlyt.processed_events SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1
);
ALTER TABLE anlyt.changed_hours SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1
);
ALTER TABLE anlyt.second_counts SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
-- Rows are updated in place again and again: leave room for HOT updates.
ALTER TABLE anlyt.metrics_daily SET (fillfactor = 70);
ALTER TABLE anlyt.account_usage_daily SET (fillfactor = 70);
ALTER TABLE anlyt.stream_positions SET (fillfactor = 50);
ALTER TABLE anlyt.ingest_totals SET (fillfactor = 50);

-- Make the monthly partition of `parent` that holds `moment`, if it is missing; true when it was made. Built aside and
-- attached, because CREATE ... PARTITION OF would queue every writer behind the oldest open transaction. A month that
-- retention has begun to take away, and that is needed after all, comes back with its rows.
CREATE FUNCTION anlyt.ensure_partition(parent TEXT, moment TIMESTAMPTZ) RETURNS BOOLEAN
LANGUAGE plpgsql SET search_path = pg_catalog, anlyt AS $$
DECLARE
    month TIMESTAMP := date_trunc('month', moment AT TIME ZONE 'UTC');
    child TEXT := parent || '_' || to_char(month, '"y"YYYY"m"MM');
    detaching BOOLEAN; -- NULL: a table of its own
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('anlyt.ensure_partition'));
    -- Not to_regclass: it may remember from before the lock that there was none.
    SELECT inhdetachpending INTO detaching
    FROM pg_class LEFT JOIN pg_inherits ON inhrelid = oid
    WHERE relnamespace = 'anlyt'::REGNAMESPACE AND relname = child;
    IF NOT FOUND THEN
        EXECUTE format('CREATE TABLE anlyt.%I (LIKE anlyt.%I INCLUDING ALL) WITH (fillfactor = 70)', child, parent);
    ELSIF detaching THEN
        EXECUTE format('ALTER TABLE anlyt.%I DETACH PARTITION anlyt.%I FINALIZE', parent, child);
    ELSIF NOT detaching THEN
        RETURN FALSE;
    END IF;
    EXECUTE format(
        'ALTER TABLE anlyt.%I ATTACH PARTITION anlyt.%I FOR VALUES FROM (%L) TO (%L)',
        parent, child, month AT TIME ZONE 'UTC', (month + INTERVAL '1 month') AT TIME ZONE 'UTC'
    );
    RETURN TRUE;
END
$$;

-- The latency in ms that stands for a histogram bucket (rollup.latency_value says the same in Python; a test holds them
-- together): the value itself below 128, else the middle of the bucket.
CREATE FUNCTION anlyt.latency_value(bucket INTEGER) RETURNS INTEGER
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN CASE
    WHEN bucket < 128 THEN bucket
    ELSE (((bucket & 63) + 64) << ((bucket >> 6) - 1)) + ((1 << ((bucket >> 6) - 1)) >> 1)
END;

-- Whether a row, by its xmin, was written by a transaction that `since` does not see. `latest` is the end of the present
-- snapshot: of all ids of 64 bits that end like xmin, the newest one that can be in it. Not for rows that a savepoint
-- wrote (a snapshot does not know its id); the statements that write roll-ups use none.
CREATE FUNCTION anlyt.written_since(row_xmin XID, since PG_SNAPSHOT, latest XID8) RETURNS BOOLEAN
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN NOT pg_visible_in_snapshot(
    (latest::TEXT::BIGINT - ((latest::TEXT::BIGINT - row_xmin::TEXT::BIGINT) & 4294967295))::TEXT::XID8, since
);

-- ------------------------------------------------------------------------------------------------------------------
-- 4. Rights: the owner writes, anlyt_reader reads the roll-ups, nobody else sees anything. The API reads as anlyt_staff
--    for the platform and as anlyt_tenant for everybody else, who sees the rows of its own ids and no others.
-- ------------------------------------------------------------------------------------------------------------------

REVOKE ALL ON SCHEMA anlyt FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA anlyt FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA anlyt FROM PUBLIC;
GRANT USAGE ON SCHEMA anlyt TO anlyt_reader;
GRANT SELECT ON anlyt.metrics_hourly, anlyt.metrics_daily, anlyt.operator_performance, anlyt.account_usage_daily
    TO anlyt_reader;
GRANT USAGE ON SCHEMA anlyt TO anlyt_staff, anlyt_tenant;
GRANT SELECT ON anlyt.metrics_hourly, anlyt.metrics_daily, anlyt.operator_performance, anlyt.account_usage_daily,
    anlyt.latency_histograms, anlyt.latency_days, anlyt.latency_weeks TO anlyt_staff, anlyt_tenant;
GRANT SELECT (stream, complete_through) ON anlyt.stream_positions TO anlyt_tenant;
GRANT SELECT ON anlyt.archive_borders TO anlyt_staff, anlyt_tenant;
GRANT SELECT ON anlyt.stream_positions, anlyt.ingest_totals, anlyt.backfills, anlyt.job_runs TO anlyt_staff;
GRANT SELECT (stream, reason, recorded_at, resolution, retry_reason) ON anlyt.dead_letters TO anlyt_staff;

ALTER TABLE anlyt.metrics_hourly ENABLE ROW LEVEL SECURITY;
ALTER TABLE anlyt.metrics_daily ENABLE ROW LEVEL SECURITY;
ALTER TABLE anlyt.operator_performance ENABLE ROW LEVEL SECURITY;
ALTER TABLE anlyt.account_usage_daily ENABLE ROW LEVEL SECURITY;
ALTER TABLE anlyt.latency_histograms ENABLE ROW LEVEL SECURITY;
ALTER TABLE anlyt.latency_days ENABLE ROW LEVEL SECURITY;
ALTER TABLE anlyt.latency_weeks ENABLE ROW LEVEL SECURITY;

CREATE POLICY everything ON anlyt.metrics_hourly FOR SELECT TO anlyt_reader, anlyt_staff USING (TRUE);
CREATE POLICY everything ON anlyt.metrics_daily FOR SELECT TO anlyt_reader, anlyt_staff USING (TRUE);
CREATE POLICY everything ON anlyt.operator_performance FOR SELECT TO anlyt_reader, anlyt_staff USING (TRUE);
CREATE POLICY everything ON anlyt.account_usage_daily FOR SELECT TO anlyt_reader, anlyt_staff USING (TRUE);
CREATE POLICY everything ON anlyt.latency_histograms FOR SELECT TO anlyt_staff USING (TRUE);
CREATE POLICY everything ON anlyt.latency_days FOR SELECT TO anlyt_staff USING (TRUE);
CREATE POLICY everything ON anlyt.latency_weeks FOR SELECT TO anlyt_staff USING (TRUE);

-- A tenant's scope and ids are settings of its transaction (read/see_as); without them nothing is visible. They
-- stand in sub-selects, so that they are read once a statement and not once a row.
CREATE POLICY own ON anlyt.metrics_hourly FOR SELECT TO anlyt_tenant USING (
    scope = (SELECT current_setting('anlyt.scope', TRUE))
    AND scope_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::TEXT[])
);
CREATE POLICY own ON anlyt.metrics_daily FOR SELECT TO anlyt_tenant USING (
    scope = (SELECT current_setting('anlyt.scope', TRUE))
    AND scope_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::TEXT[])
);
CREATE POLICY own ON anlyt.operator_performance FOR SELECT TO anlyt_tenant USING (
    (SELECT current_setting('anlyt.scope', TRUE)) = 'OPERATOR'
    AND operator_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::UUID[])
);
CREATE POLICY own ON anlyt.account_usage_daily FOR SELECT TO anlyt_tenant USING (
    (SELECT current_setting('anlyt.scope', TRUE)) = 'ACCOUNT'
    AND account_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::UUID[])
);
CREATE POLICY own ON anlyt.latency_histograms FOR SELECT TO anlyt_tenant USING (
    (SELECT current_setting('anlyt.scope', TRUE)) = 'OPERATOR'
    AND operator_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::UUID[])
);
CREATE POLICY own ON anlyt.latency_days FOR SELECT TO anlyt_tenant USING (
    (SELECT current_setting('anlyt.scope', TRUE)) = 'OPERATOR'
    AND operator_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::UUID[])
);
CREATE POLICY own ON anlyt.latency_weeks FOR SELECT TO anlyt_tenant USING (
    (SELECT current_setting('anlyt.scope', TRUE)) = 'OPERATOR'
    AND operator_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::UUID[])
);
