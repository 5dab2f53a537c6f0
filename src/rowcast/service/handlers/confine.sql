-- Confines the transaction that a question runs in: what it may see, and for how long. Ends with the transaction.
select set_config('transaction_read_only', 'on', true),
       set_config('statement_timeout', $1, true),
       set_config('lock_timeout', $2, true),
       set_config('idle_in_transaction_session_timeout', $3, true),
       set_config('search_path', 'demo', true),
       -- One question keeps at most one core busy, and does not wait for a compiler.
       set_config('max_parallel_workers_per_gather', '0', true),
       set_config('jit', 'off', true),
       set_config('role', 'rowcast_questions', true);
