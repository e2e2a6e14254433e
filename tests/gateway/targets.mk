# The gateway against everything that a network can send it, and under load.
TEST_STEPS += gateway

.PHONY: gateway
gateway: setup ## The gateway: malformed requests, keys, streams through reloads, TLS
	PYTHONPATH=$(COLLECTIONS):tests/gateway python -m pytest -q -p no:cacheprovider tests/gateway
