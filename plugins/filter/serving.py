# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Slices of the plan -> what `node_state` takes: accounts, secrets, units and leftovers of instances, and planned addresses."""

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
        functions = (serving.kept_tokens, serving.planned_addresses, serving.planned_models, serving.serving_accounts, serving.serving_leftovers,
                     serving.serving_secrets, serving.serving_units)
        return {function.__name__: guarded(function) for function in functions}
