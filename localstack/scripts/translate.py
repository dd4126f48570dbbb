"""Translates a SAM template as CloudFormation's own transform would, for the tests that read the result.

usage: translate.py TEMPLATE OUT
"""

import json
import sys
from unittest import mock

from samtranslator.public.translator import ManagedPolicyLoader
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

with open(sys.argv[1], encoding="utf-8") as f:
    template = yaml_parse(f)
for resource in template["Resources"].values():
    if resource["Type"] == "AWS::Serverless::Function":
        resource["Properties"]["CodeUri"] = "s3://bucket/key"  # what `sam deploy` puts there
loader = mock.Mock(spec=ManagedPolicyLoader)
loader.load.return_value = {}
with mock.patch("boto3.session.Session.region_name", "us-east-1"):
    translated = transform(template, {}, loader)
with open(sys.argv[2], "w", encoding="utf-8") as f:
    json.dump(translated, f, indent=1, sort_keys=True)
