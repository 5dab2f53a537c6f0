-- Removes what install.sql made, unless another watch still needs it.

-- name: everything
DO $uninstall$
BEGIN
    IF to_regclass('rowcast.watch') IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM rowcast.watch) THEN
            DROP SCHEMA rowcast CASCADE;
        END IF;
    END IF;
END
$uninstall$;
