-- How many events of a partition were not understood, on balance: workers stop before a whole stream becomes dead letters.
ALTER TABLE anlyt.stream_positions ADD COLUMN refused_events INTEGER NOT NULL DEFAULT 0;
