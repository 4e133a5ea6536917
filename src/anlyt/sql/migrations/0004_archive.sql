-- The archive: what was copied, and from when on rows are hot.

-- What the archive has, day by day: the sums of the rows as they were copied. A day whose rows add up to something else
-- by now is copied again.
CREATE TABLE anlyt.archive_receipts (
    table_name TEXT NOT NULL,
    day TIMESTAMPTZ NOT NULL,
    row_count BIGINT NOT NULL,
    sums NUMERIC[] NOT NULL, -- of every number, in the order of the columns
    checksum NUMERIC NOT NULL, -- of the first half of each row's MD5
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

REVOKE ALL ON anlyt.archive_receipts, anlyt.archive_borders FROM PUBLIC;
