# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
TEST_BESIDE += fuzz-short
FUZZ_PACKAGES := tests/tools/packages.sh "The campaign of random rulesets" nft=nftables ip=iproute2

.PHONY: fuzz fuzz-short
fuzz: N = 10000
fuzz: SEED = 1
fuzz: setup ## Random rulesets against the kernel: make fuzz N=10000 SEED=1 stops at the first disagreement
	$(FUZZ_PACKAGES)
	python tests/fuzz/programs.py
	nice python tests/fuzz/campaign.py $(N) $(SEED)

fuzz-short: setup
	$(FUZZ_PACKAGES)
	python tests/fuzz/programs.py
	nice python tests/fuzz/campaign.py 500 1
