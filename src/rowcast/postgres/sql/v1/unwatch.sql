-- Takes one watch away from its table. Running it again changes nothing.

-- name: triggers
DO $triggers$
BEGIN
    DROP TRIGGER IF EXISTS "~rowcast_<<name>>_1_keep" ON <<table>>;
    DROP TRIGGER IF EXISTS "~rowcast_<<name>>_2_stamp" ON <<table>>;
    DROP TRIGGER IF EXISTS "~rowcast_<<name>>_3_stamp_wide" ON <<table>>;
    DROP TRIGGER IF EXISTS "~rowcast_<<name>>_4_stamp_insert" ON <<table>>;
    DROP TRIGGER IF EXISTS "<<trigger>>" ON <<table>>;
    DROP TRIGGER IF EXISTS "<<trigger>>_insert" ON <<table>>;
    DROP TRIGGER IF EXISTS "<<trigger>>_delete" ON <<table>>;
    DROP TRIGGER IF EXISTS "<<trigger>>_truncate" ON <<table>>;
    DROP FUNCTION IF EXISTS "<<function>>"();
    DROP FUNCTION IF EXISTS rowcast.stamp_<<name>>();
    IF to_regclass('rowcast.watch') IS NOT NULL THEN
        DELETE FROM rowcast.watch WHERE name = '<<name>>';
        DELETE FROM rowcast.tombstone WHERE watch = '<<name>>';
        DELETE FROM rowcast.epoch WHERE watch = '<<name>>';
    END IF;
END
$triggers$;

-- name: index
DROP INDEX <<concurrently>> IF EXISTS <<schema_prefix>>"rowcast_<<name>>_session_xid";

-- name: columns
ALTER TABLE <<table>>
    DROP COLUMN IF EXISTS rowcast_version,
    DROP COLUMN IF EXISTS rowcast_xid;
