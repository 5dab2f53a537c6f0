-- The settings of each server decide again.

-- name: rollout
DROP TABLE IF EXISTS rollout;
