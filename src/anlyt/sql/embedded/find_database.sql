-- Is the service's database there already?
-- No parameters.
SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'anlyt');
