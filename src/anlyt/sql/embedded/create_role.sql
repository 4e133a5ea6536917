-- The service's own role: logs in, makes the reading roles, is no superuser. Repeatable; sets the password each time.
-- No parameters (DO takes none): the password is the session setting anlyt.password, see set_password.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'anlyt') THEN
        CREATE ROLE anlyt LOGIN CREATEROLE;
    END IF;
    EXECUTE format('ALTER ROLE anlyt PASSWORD %L', current_setting('anlyt.password'));
END
$do$;
