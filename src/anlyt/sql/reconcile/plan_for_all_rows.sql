-- Let the statements of this transaction read every row with a hash table in memory and all the workers there are: with
-- the memory of an ordinary session the planner sorts two million rows on disk, at twice the cost.
-- $1 work_mem TEXT
SELECT set_config('work_mem', $1, TRUE), set_config('enable_sort', 'off', TRUE)
