-- Keep every partition in its place while a snapshot is read: one that retention takes away meanwhile would be in the
-- snapshot's catalogue and no longer in its tables.
LOCK TABLE ONLY anlyt.metrics_hourly, ONLY anlyt.operator_performance IN ACCESS SHARE MODE
