# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The filters ``serving_accounts``, ``serving_units``, ``serving_leftovers`` and ``planned_addresses``: slices of the plan -> what `node_state` takes."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import serving


def guarded(function):
    """The function with its complaints as messages of Ansible; a missing key of the input is named."""
    def call(value, *arguments, **options):
        try:
            return function(value, *arguments, **options)
        except ValueError as error:
            raise AnsibleFilterError(f"{function.__name__}: {error}") from None
        except KeyError as error:
            raise AnsibleFilterError(f"{function.__name__}: the input has no {error}; give what the README of the role lists") from None
    return call


class FilterModule:
    """What Ansible loads."""

    def filters(self):
        functions = (serving.serving_accounts, serving.serving_leftovers, serving.serving_units, serving.planned_addresses)
        return {function.__name__: guarded(function) for function in functions}
