# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A module run over a connection of its own: the proof that a node still lets this run in."""

from __future__ import annotations

from ansible.plugins.loader import connection_loader

_ALONE = "-o ControlMaster=no -o ControlPath=none -o ServerAliveInterval=3 -o ServerAliveCountMax=3"
_SECONDS = 5


def run_over_new_connection(action, module, arguments, task_vars):
    """The result of a module over a connection that no multiplexing shares with the one that ``action`` uses.

    Raises the errors of a connection, AnsibleConnectionFailure above all.
    """
    current = action._connection
    connection = connection_loader.get(current.ansible_name, action._play_context, shell=current._shell)
    connection._options = dict(current._options)
    connection._origins = dict(current._origins)
    if current.become is not None:
        connection.set_become_plugin(current.become)
    if current.transport == "ssh":
        connection.set_option("ssh_args", f"{_ALONE} {current.get_option('ssh_args') or ''}")
        connection.set_option("timeout", _SECONDS)
        connection.set_option("reconnection_retries", 0)
    action._connection = connection
    try:
        return action._execute_module(module_name=module, module_args=arguments, task_vars=task_vars)
    finally:
        action._connection = current
        connection.close()
