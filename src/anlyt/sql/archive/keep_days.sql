-- Put into the staging table what the archive already has of some months, without the days that are copied anew.
-- {months:Array(UInt32)} like 202604; {days:Array(UInt32)} starts of those days, in seconds since 1970
INSERT INTO {table}
SELECT *
FROM {other}
WHERE toYYYYMM({bucket}) IN {months:Array(UInt32)}
  AND toUnixTimestamp(toStartOfDay({bucket})) NOT IN {days:Array(UInt32)}
SETTINGS insert_distributed_sync = 1
