"""Prints, as JSON, the parameters that `sam deploy` would give a stack: parameters.py samconfig.toml ENV. SAM's own code reads them."""
import json
import sys

import tomlkit
from samcli.cli.types import CfnParameterOverridesType

with open(sys.argv[1], encoding="utf-8") as f:
    config = tomlkit.parse(f.read()).unwrap()
env = config.get(sys.argv[2])
if env is None:
    sys.exit(f"{sys.argv[1]} has no [{sys.argv[2]}]; copy one of {', '.join(k for k, v in config.items() if isinstance(v, dict))}")
given = env.get("global", {}).get("parameters", {}) | env.get("deploy", {}).get("parameters", {})
overrides = given.get("parameter_overrides", [])
if isinstance(overrides, str):
    overrides = [overrides]
json.dump(CfnParameterOverridesType().convert(tuple(overrides), None, None) if overrides else {}, sys.stdout)
