# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Users in the text of the packet filter: names as the inventory knows them, numbers as the kernel does."""
from __future__ import annotations

import pwd
import re

_USER = re.compile(r'skuid "([^"]+)"')
_USERS = re.compile(r'skuid != \{ ("[^}]+") \}')


def resolve_users(text, lookup):
    """Names in ``skuid "NAME"`` -> numbers, which need no user database at boot.

    A line about one unknown user is left out; from ``skuid != { "NAME", ... }`` only the unknown names are, which refuses more.
    `lookup` maps a name to a number, or None. Returns the text and the unknown names.
    """
    missing, lines = [], []
    for line in text.splitlines():
        found = _USER.search(line)
        if found:
            number = lookup(found.group(1))
            if number is None:
                missing.append(found.group(1))
                continue
            line = line.replace(found.group(0), f"skuid {number}")
        several = _USERS.search(line)
        if several:
            numbers = {name: lookup(name) for name in re.findall(r'"([^"]+)"', several.group(1))}
            missing += [name for name, number in numbers.items() if number is None]
            members = ", ".join(str(number) for number in sorted({number for number in numbers.values() if number is not None}))
            line = line.replace(several.group(0), f"skuid != {{ {members} }}")
        lines.append(line)
    return "\n".join(lines) + "\n", sorted(set(missing))


def named_users(text, names):
    """Numbers of users in the lines of a diff -> their names, so that a check run can show a user who has no number yet."""
    def members(found):
        return "skuid != { " + ", ".join(sorted(names.get(number, number) for number in found.group(1).split(", "))) + " }"

    text = re.sub(r"skuid (\d+)", lambda found: f"skuid {names.get(found.group(1), found.group(1))}", text)
    return re.sub(r"skuid != \{ ([\d, ]+) \}", members, text)


class Users:
    """Looks users up. In check mode a user who does not exist yet gets a number that no user has: whoever makes it comes first."""

    def __init__(self, pretend):
        self.pretend, self.missing, self.names = pretend, [], {}

    def __call__(self, name):
        number = user_number(name)
        if number is None:
            if name not in self.missing:
                self.missing.append(name)
            if not self.pretend:
                return None
            number = 4294900000 + self.missing.index(name)
        self.names[str(number)] = f'"{name}"'
        return number


def user_number(name):
    """The number of a user of this node, or None."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
