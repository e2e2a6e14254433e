.PHONY: sandbox
sandbox: setup ## Try to climb out of the serving unit, on hosts of the lab
	$(VENV)/bin/python tests/sandbox/run.py trixie bookworm

TEST_STEPS += sandbox
