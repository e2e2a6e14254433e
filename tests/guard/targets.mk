# Campaigns against the guard of a node: damage, deceit, floods and intended changes.
TEST_STEPS += guard-short

.PHONY: guard guard-short
guard: setup ## N damages of the filter, 50 rollouts and a minute of flood against the guard: make guard N=100
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/campaign.py --count $(N) --rollouts 50 --flood 60 --bars

guard-short: setup
	PYTHONPATH=$(COLLECTIONS):tests python tests/guard/campaign.py --count 18 --rollouts 2 --flood 6
