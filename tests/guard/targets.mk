# Campaigns against the guard of a node: damage, deceit, floods and intended changes.
TEST_STEPS += guard-short

.PHONY: guard guard-short drift-faults
guard: setup ## N damages of the filter, 50 rollouts and a minute of flood against the guard: make guard N=100
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/campaign.py --count $(N) --rollouts 50 --flood 60 --bars

drift-faults: setup ## N deviations of the audit's fault table given to drift correction: make drift-faults N=20
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/drift_faults.py --count $(N)

guard-short: setup
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/campaign.py --count 18 --rollouts 2 --flood 6
