-- Make the monthly partition of a table that holds a moment, if it is missing; true when it was made.
-- $1 parent TEXT, $2 moment TIMESTAMPTZ
SELECT anlyt.ensure_partition($1, $2)
