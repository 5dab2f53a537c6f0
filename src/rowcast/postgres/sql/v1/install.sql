-- What every watch of a database shares. Running it again changes nothing.
-- Nothing is granted to anybody: a role other than the installing one that reads needs USAGE on the schema and SELECT
-- on its tables. Writers need nothing: the trigger functions run with the rights of their owner.

-- name: schema
CREATE SCHEMA IF NOT EXISTS rowcast;

-- name: watches
-- One row a watch. `floor`: tombstones of transactions below it may have been purged, so older cursors are of no use.
CREATE TABLE IF NOT EXISTS rowcast.watch (
    name text PRIMARY KEY,
    version integer NOT NULL,
    floor xid8 NOT NULL DEFAULT '0'
);

-- name: tombstones
-- The rows that are gone: which session has to be told, and above which version the key may return.
-- CREATE INDEX IF NOT EXISTS would lock the table even where the index exists, and whoever deletes would wait for us
-- while we wait for the lock on the watched table.
DO $tombstones$
BEGIN
    IF to_regclass('rowcast.tombstone') IS NULL THEN
        CREATE TABLE rowcast.tombstone (
            watch text NOT NULL,
            key text NOT NULL,
            session_id text NOT NULL,
            version bigint NOT NULL,
            xid xid8 NOT NULL,
            deleted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (watch, key, session_id)
        );
        CREATE INDEX tombstone_session_xid ON rowcast.tombstone (watch, session_id, xid);
        CREATE INDEX tombstone_deleted_at ON rowcast.tombstone (deleted_at);
    END IF;
END
$tombstones$;

-- name: epochs
-- UNLOGGED on purpose: a crash, a promotion or a point-in-time recovery empties it, and that is how it is noticed.
CREATE UNLOGGED TABLE IF NOT EXISTS rowcast.epoch (
    watch text PRIMARY KEY,
    id uuid NOT NULL DEFAULT gen_random_uuid()
);

-- name: current_epoch
-- The name of the database's memory of a table, or NULL when it was emptied and a new one has to be begun.
-- The oids tell a restored dump apart, the system identifier another cluster. A standby cannot read UNLOGGED tables.
CREATE OR REPLACE FUNCTION rowcast.current_epoch(watched text, relation regclass) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    remembered uuid;
    cluster text;
BEGIN
    IF pg_is_in_recovery() THEN
        RETURN NULL;
    END IF;
    SELECT id INTO remembered FROM rowcast.epoch WHERE watch = watched;
    IF remembered IS NULL THEN
        RETURN NULL;
    END IF;
    IF has_function_privilege('pg_control_system()', 'EXECUTE') THEN
        SELECT system_identifier::text INTO cluster FROM pg_control_system();
    END IF;
    RETURN left(md5(concat_ws(':', remembered, relation::oid, cluster,
        (SELECT oid FROM pg_database WHERE datname = current_database()))), 16);
END
$function$;

-- name: begin_epoch
-- Begin an epoch where there is none.
CREATE OR REPLACE FUNCTION rowcast.begin_epoch(watched text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
    INSERT INTO rowcast.epoch (watch) VALUES (watched) ON CONFLICT (watch) DO NOTHING
$function$;

-- name: rotate_epoch
-- End the epoch: every cursor handed out before leads to a full snapshot.
CREATE OR REPLACE FUNCTION rowcast.rotate_epoch(watched text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
    INSERT INTO rowcast.epoch (watch) VALUES (watched) ON CONFLICT (watch) DO UPDATE SET id = gen_random_uuid()
$function$;

-- name: keep_stamp
-- Somebody wrote the stamp columns, as an ORM does that saves a stale object: put back what was there.
CREATE OR REPLACE FUNCTION rowcast.keep_stamp() RETURNS trigger
LANGUAGE plpgsql AS $function$
BEGIN
    NEW.rowcast_version := OLD.rowcast_version;
    NEW.rowcast_xid := OLD.rowcast_xid;
    RETURN NEW;
END
$function$;
