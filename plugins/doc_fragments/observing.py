# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What all modules that only observe a host have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes and author of modules that change nothing."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Can run in check mode and return what it would otherwise.
    details: Nothing is ever changed.
    support: full
  diff_mode:
    description: Returns details on what has changed, or would be, in diff mode.
    support: none
  platform:
    description: Systems that it works on.
    support: full
    platforms: linux
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
"""
