# Campaigns against the packet filter: faults injected into its change, and traffic during its change.
N ?= 20
SEED ?= 1
TEST_STEPS += faults-short traffic-short

.PHONY: faults faults-short traffic traffic-short
faults: setup ## N faults injected into firewall changes, nobody locked out: make faults N=200 SEED=1
	PYTHONPATH=$(COLLECTIONS):tests python tests/faults/faults.py --count $(N) --seed $(SEED) --bars

traffic: setup ## N firewall changes under traffic, nothing opened and nothing refused: make traffic N=100
	PYTHONPATH=$(COLLECTIONS):tests python tests/faults/traffic.py --count $(N)

faults-short: setup
	PYTHONPATH=$(COLLECTIONS):tests python tests/faults/faults.py --count 20

traffic-short: setup
	PYTHONPATH=$(COLLECTIONS):tests python tests/faults/traffic.py --count 20
