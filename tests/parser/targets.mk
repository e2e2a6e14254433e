# The plan against the real parsers of the engines.
TEST_BESIDE += parsers

.PHONY: parsers
parsers: setup ## Every command line of the plan before the parser of every paired version of vLLM
	PYTHONPATH=$(COLLECTIONS):tests/parser python tests/parser/parsers.py
