"""From the name of a role to its class: ours, an installed package's, or any class that can be imported.

`inference` is ours; a package offers its own under the entry point group `rolemesh.roles`; `package.module:Class` names
any class on the import path. Importing a role's module also registers the messages and topics it brings along.
"""

import importlib
from importlib.metadata import entry_points

from roles.config import ConfigError
from roles.role import Role

ENTRY_POINTS = "rolemesh.roles"
BUILT_IN = {
    "validator": "roles.validator:Validator",
    "inference": "roles.inference:Inference",
    "verifier": "roles.verifier:Verifier",
    "oracle": "roles.oracle:Oracle",
    "storage": "roles.storage:Storage",
    "client": "roles.client_role:ClientRole",
}


def load_role(name: str) -> type[Role]:
    """The class of a role. Raises ConfigError that lists what there is, or says why an import failed."""
    target = name if ":" in name else BUILT_IN.get(name)
    if target is None:
        found = entry_points(group=ENTRY_POINTS, name=name)
        if not found:
            known = sorted({*BUILT_IN, *entry_points(group=ENTRY_POINTS).names})
            raise ConfigError(
                f"there is no role {name!r}", f"choose from {', '.join(known)}, or name package.module:Class"
            )
        target = next(iter(found)).value
    role = _import(name, target)
    if not isinstance(role, type) or not issubclass(role, Role) or not role.name:
        raise ConfigError(f"{target} is no role", "a role is a class made from roles.role.Role, with a name")
    return role


def _import(name: str, target: str) -> object:
    module_name, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "is its package installed, or its directory on PYTHONPATH?"
        raise ConfigError(f"role {name!r} cannot be loaded: {error}", hint) from error
