export DEMO_NAME ?= demo
DEMO_PLAYBOOK = ansible-playbook -i .build/labs/$(DEMO_NAME)/inventory.yml -i tests/demo/instances.yml -e vllm_audit_directory=.build/demo

.PHONY: demo demo-audit demo-drift demo-down
demo: setup ## A hardened two-node vLLM cluster on this machine, from nothing to its audit
	python3 tests/demo/run.py

demo-audit: ## Audit the demo's cluster again
	$(DEMO_PLAYBOOK) playbooks/audit.yml

demo-drift: ## Audit the demo's cluster, correct what deviates, audit again
	$(DEMO_PLAYBOOK) playbooks/drift.yml || [ $$? -eq 4 ] # 4: all drift was corrected

demo-down: ## Remove the demo's hosts
	tests/lab/lab down --name $(DEMO_NAME)
