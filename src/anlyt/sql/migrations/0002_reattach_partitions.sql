-- A month that retention has detached, or was interrupted in detaching, is no longer taken for one that is there.
CREATE OR REPLACE FUNCTION anlyt.ensure_partition(parent TEXT, moment TIMESTAMPTZ) RETURNS BOOLEAN
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
