-- Whether changes can be heard of at all.

-- name: triggers
-- The triggers of the watch that are missing or switched off, the epoch, and marks that change whenever one of the
-- triggers is made anew or switched: what was changed between is not known.
SELECT pg_is_in_recovery() AS standby, rowcast.current_epoch('<<name>>', '<<table>>'::regclass) AS epoch,
    array_agg(wanted.name ORDER BY wanted.name) FILTER (WHERE actual.oid IS NULL) AS missing,
    string_agg(actual.oid::text || ':' || actual.xmin::text, ' ' ORDER BY wanted.name) AS marks
FROM (VALUES <<triggers>>) AS wanted (name)
LEFT JOIN pg_trigger AS actual
    ON actual.tgrelid = '<<table>>'::regclass AND actual.tgname = wanted.name AND actual.tgenabled IN ('A', 'O');

-- name: end_epoch
-- End an epoch, unless somebody else has.
-- $1 epoch, text
SELECT rowcast.rotate_epoch('<<name>>') WHERE rowcast.current_epoch('<<name>>', '<<table>>'::regclass) = $1::text;
