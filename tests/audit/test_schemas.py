# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Reports of every status, and of a run without findings, against the schemas that the formats' owners publish (schemas.py)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import regex
import xmlschema
from jsonschema import Draft7Validator, FormatChecker, ValidationError
from jsonschema.validators import extend, validator_for

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import report_formats
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.judge import judge
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report import build_document
from ansible_collections.vllm_mindspore.hardening.tests.unit.plugins.plugin_utils.audit_example import PLAN, composed, every_status, observations, probes

SCHEMAS = Path(os.environ["SCHEMAS"])


def clean():
    targets = composed()
    return build_document(PLAN, judge(PLAN, targets, observations(), {}, probes(targets)), "2026-06-01T03:04:05+00:00")


def unobserved():
    targets = composed()
    return build_document(PLAN, judge(PLAN, targets, {}, {}, {}), "2026-06-01T03:04:05+00:00")


@pytest.fixture(name="document", params=[every_status, clean, unobserved])
def some_documents(request):
    return request.param()


def with_unicode_properties(_validator, pattern, instance, _schema):
    """`pattern` as ECMA 262 has it: NIST's patterns use Unicode properties, which Python's `re` does not know."""
    if isinstance(instance, str) and not regex.search(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def problems(schema_file, document):
    """What the schema has against a document, as text."""
    schema = json.loads((SCHEMAS / schema_file).read_text(encoding="utf-8"))
    validator = extend(validator_for(schema, Draft7Validator), {"pattern": with_unicode_properties})
    return [f"{error.json_path}: {error.message[:300]}" for error in validator(schema, format_checker=FormatChecker()).iter_errors(document)]


def test_sarif(document):
    assert problems("sarif.json", json.loads("".join(report_formats.render_sarif(document)))) == []


def test_oscal(document):
    assert problems("oscal.json", json.loads("".join(report_formats.render_oscal(document)))) == []


def test_oscal_says_the_version_of_its_schema():
    schema = json.loads((SCHEMAS / "oscal.json").read_text(encoding="utf-8"))
    assert f"/oscal/{report_formats.OSCAL_VERSION}/" in schema["$id"]


def test_junit(document):
    errors = xmlschema.XMLSchema(str(SCHEMAS / "junit.xsd")).iter_errors("".join(report_formats.render_junit(document)))
    assert [str(error) for error in errors] == []


@pytest.mark.parametrize("schema, render, break_it", [
    ("sarif.json", report_formats.render_sarif, lambda made: made["runs"][0]["results"][0].update(kind="passed")),
    ("oscal.json", report_formats.render_oscal, lambda made: made["assessment-results"]["results"][0]["findings"][0].update(uuid="1")),
])
def test_the_schemas_refuse_what_is_wrong(schema, render, break_it):
    made = json.loads("".join(render(every_status())))
    break_it(made)
    assert problems(schema, made)


def test_the_schema_of_junit_refuses_what_is_wrong():
    text = "".join(report_formats.render_junit(every_status())).replace("<testcase classname", "<testcase clazzname", 1)
    assert list(xmlschema.XMLSchema(str(SCHEMAS / "junit.xsd")).iter_errors(text))
