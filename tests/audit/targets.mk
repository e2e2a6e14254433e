# The audit: deviations it has to report, and what other programs make of its reports.
TEST_STEPS += faults-audit-short
TEST_BESIDE += reports

.PHONY: reports faults-audit faults-audit-short
reports: setup ## The audit's reports: published schemas, and the HTML in a browser; with what its playbooks leave
	tests/tools/packages.sh "The test of the HTML report" "chromium-headless-shell=chromium-headless-shell fonts-dejavu-core"
	python tests/audit/schemas.py $(BUILD)/schemas
	SCHEMAS=$(BUILD)/schemas PYTHONPATH=$(COLLECTIONS):tests/audit:tests/bench python -m pytest -q -p no:cacheprovider tests/audit

faults-audit: setup ## Every deviation of the audit's fault table, each reported by exactly its controls
	python tests/audit/run_faults.py
	python tests/audit/run_faults.py --gateway
	python tests/audit/run_faults.py --guard

faults-audit-short: setup
	python tests/audit/run_faults.py --count 10
