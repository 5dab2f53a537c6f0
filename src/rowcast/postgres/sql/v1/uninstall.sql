-- Removes what install.sql made, unless another watch still needs it.

-- name: everything
DO $uninstall$
BEGIN
    IF NOT EXISTS (SELECT FROM rowcast.watch) THEN
        DROP SCHEMA rowcast CASCADE;
    END IF;
END
$uninstall$;
