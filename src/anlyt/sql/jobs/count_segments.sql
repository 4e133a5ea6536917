-- How many segments percentiles has to merge.
SELECT count(*)
FROM anlyt.latency_histograms
WHERE segment > 0
