# `make demo` and `make test` are all a fresh machine needs; the scripts do the work, and CI calls the same ones.
.PHONY: demo test check lock clean

demo:
	@scripts/install demo
	@exec .venv/bin/rowcast demo

test:
	@scripts/test

check:
	@scripts/check

lock:
	@scripts/lock

clean:
	rm -rf .venv .rowcast .mypy_cache .ruff_cache .pytest_cache .hypothesis
