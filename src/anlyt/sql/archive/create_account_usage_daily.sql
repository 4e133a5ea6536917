-- The archive's account_usage_daily, column for column, or its staging table. What it has said to have is on disk.
-- Generated from schema.sql by make gen.
CREATE TABLE IF NOT EXISTS {stored} ON CLUSTER '{cluster}'
(
    day_bucket DateTime('UTC'),
    account_id UUID,
    messages_sent UInt64,
    messages_delivered Int64,
    messages_failed Int64,
    total_cost Decimal(18, 6),
    total_segments UInt64,
    updated_at DateTime64(6, 'UTC')
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(day_bucket)
ORDER BY (account_id, day_bucket)
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_merge = 1
