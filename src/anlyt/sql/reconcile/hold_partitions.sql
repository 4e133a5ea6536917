-- Keep every partition in its place while the snapshot is read: one that retention takes away meanwhile would be in the
-- snapshot's catalogue and no longer in its tables.
LOCK TABLE anlyt.metrics_hourly, anlyt.operator_performance, anlyt.latency_histograms IN ACCESS SHARE MODE
