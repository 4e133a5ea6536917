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
-- Monthly partitions; 90-day hot retention
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
CREATE INDEX ix_anlyt_op_perf_operator_hour ON anlyt.operator_performance(operator_id, hour_bucket DESC);
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
CREATE INDEX ix_anlyt_acct_usage_account ON anlyt.account_usage_daily(account_id, day_bucket DESC);
CREATE TABLE anlyt.processed_events (
event_id TEXT PRIMARY KEY,
event_type TEXT NOT NULL,
processed_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX ix_anlyt_processed_at ON anlyt.processed_events(processed_at);
-- Purge job: DELETE WHERE processed_at < now() - interval '48 hours'
