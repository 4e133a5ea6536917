-- The month as it stands in the staging table instead of the one the archive has, in one step.
-- {month:String} like 202604
ALTER TABLE {stored} ON CLUSTER '{cluster}'
REPLACE PARTITION ID {month:String} FROM {other_stored}
SETTINGS alter_sync = 2
