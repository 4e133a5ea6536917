-- The server's version, as a number and as text.
SELECT
    current_setting('server_version_num')::INTEGER AS version_number,
    current_setting('server_version') AS version
