-- The archive's operator_performance, column for column, or its staging table. What it has said to have is on disk.
-- Generated from schema.sql by make gen.
CREATE TABLE IF NOT EXISTS {stored} ON CLUSTER '{cluster}'
(
    hour_bucket DateTime('UTC'),
    operator_id UUID,
    total_messages UInt64,
    delivered_messages Int64,
    failed_messages Int64,
    latency_sum_ms UInt64,
    latency_sample_count UInt64,
    latency_p95_ms Nullable(Int32),
    peak_tps Int32,
    error_count UInt64,
    updated_at DateTime64(6, 'UTC')
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(hour_bucket)
ORDER BY (operator_id, hour_bucket)
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_merge = 1
