# The gateway against everything that a network can send it, and under load.
TEST_STEPS += gateway

.PHONY: gateway bench-gateway
gateway: setup ## The gateway: malformed requests, keys, streams through reloads, TLS
	tests/tools/packages.sh "The test of the gateway" haproxy=haproxy wrk=wrk
	PYTHONPATH=$(COLLECTIONS):tests/gateway python -m pytest -q -p no:cacheprovider tests/gateway

bench-gateway: setup ## What the gateway costs, as ratios to an engine without it
	python tests/bench/gateway.py
