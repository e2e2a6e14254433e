# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Hosts that boot systemd, on one machine, in seconds."""
