# What the lab's nodes serve, and the scenarios that mount it.
SERVING := $(LAB_CACHE)/serving

.PHONY: serving
serving: setup ## The wheels of the CPU build of vLLM and a tiny model, for the lab
	$(VENV)/bin/python tests/lab/serving/prepare.py $(SERVING)

$(filter molecule-default molecule-gateway molecule-serve molecule-topologies,$(SCENARIOS:%=molecule-%)): serving

.PHONY: lab-killed
TEST_BESIDE += lab-killed
lab-killed: setup ## Labs whose processes were all killed: repaired, replaced, taken down
	PYTHONPATH=tests python -m lab.killed
