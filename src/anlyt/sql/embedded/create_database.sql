-- The service's database, owned by its role; the other settings are the cluster's.
-- No parameters.
CREATE DATABASE anlyt OWNER anlyt;
