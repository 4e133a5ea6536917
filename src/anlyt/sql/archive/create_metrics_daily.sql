-- The archive's metrics_daily, column for column, or its staging table. What it has said to have is on disk.
-- Generated from schema.sql by make gen.
CREATE TABLE IF NOT EXISTS {stored} ON CLUSTER '{cluster}'
(
    day_bucket DateTime('UTC'),
    scope LowCardinality(String),
    scope_id String,
    total_messages UInt64,
    delivered_messages Int64,
    failed_messages Int64,
    pending_messages Int64,
    total_cost Decimal(18, 6),
    latency_sum_ms UInt64,
    latency_sample_count UInt64,
    peak_tps Int32,
    updated_at DateTime64(6, 'UTC')
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(day_bucket)
ORDER BY (scope, scope_id, day_bucket)
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_merge = 1
