# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
TEST_STEPS += fuzz-short

.PHONY: fuzz fuzz-short
fuzz: N = 10000
fuzz: SEED = 1
fuzz: setup ## Random rulesets against the kernel: make fuzz N=10000 SEED=1 stops at the first disagreement
	tests/fuzz/packages.sh
	nice python tests/fuzz/campaign.py $(N) $(SEED)

fuzz-short: setup
	tests/fuzz/packages.sh
	nice python tests/fuzz/campaign.py 500 1
