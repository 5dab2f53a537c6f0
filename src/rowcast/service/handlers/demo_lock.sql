-- One at a time in a database. The number means nothing, it is ours alone; the lock ends with the transaction.
set local statement_timeout = '120s';
set local lock_timeout = '60s';
select pg_advisory_xact_lock(7239001482115);
