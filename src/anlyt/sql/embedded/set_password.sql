-- Hand the service role's password to create_role, for this session only.
-- $1 password TEXT
SELECT set_config('anlyt.password', $1, FALSE);
