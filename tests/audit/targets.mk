# The audit: deviations it has to report, and what other programs make of its reports.
TEST_STEPS += faults-audit-short

.PHONY: faults-audit faults-audit-short
faults-audit: setup ## Every deviation of the audit's fault table, each reported by exactly its controls
	python tests/audit/run_faults.py

faults-audit-short: setup
	python tests/audit/run_faults.py --count 10
