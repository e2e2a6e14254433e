# Campaigns against the guard of a node: damage, deceit, floods and intended changes.
TEST_STEPS += guard-short drift-faults-short
TEST_BESIDE += drift-pull

.PHONY: guard guard-short drift-faults drift-faults-short drift-pull
guard: setup ## N damages of the filter, 50 rollouts and a minute of flood against the guard: make guard N=100
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/campaign.py --count $(N) --rollouts 50 --flood 60 --bars

drift-faults: setup serving ## Every deviation of the audit's fault table made on a running cluster, and given to drift correction
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/drift_faults.py
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/drift_faults.py --gateway
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/drift_faults.py --guard
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/drift_faults.py --vllm

drift-faults-short: setup
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/drift_faults.py --count 3 --only '^(table deleted|setting .*eth2.rp_filter=0|sshd: PermitRootLogin yes)'
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/drift_faults.py --guard --count 2 --only "^guard(.s settings belong to the service| overridden)$$"

guard-short: setup
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/campaign.py --count 18 --rollouts 2 --flood 6

drift-pull: setup ## A node that corrects itself with ansible-pull from signed commits
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/pull.py
