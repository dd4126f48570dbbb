"""Starts MiniStack with two things put right. Its policy evaluation gets the two condition keys of conditional writes that it does not know,
s3:if-match and s3:if-none-match, as the bucket policies of infra/template.yaml ask for them. A table's DeletionProtectionEnabled from a
parameter is a string in a template, and would be told to clients as one, which no SDK reads."""

import runpy

from ministack.core import iam_actions
from ministack.services.cloudformation import provisioners

_stock = iam_actions._s3_object_context


def _with_conditions(iam_action, query_params, path, headers):
    context = _stock(iam_action, query_params, path, headers)
    if iam_action == "s3:PutObject":
        for name in ("if-match", "if-none-match"):
            if headers.get(name):
                context["s3:" + name] = headers[name]
    return context


iam_actions._s3_object_context = _with_conditions

_table = provisioners._RESOURCE_HANDLERS["AWS::DynamoDB::Table"]
_stock_create = _table["create"]


def _create_table(logical_id, props, stack_name):
    if isinstance(props.get("DeletionProtectionEnabled"), str):
        props = {**props, "DeletionProtectionEnabled": props["DeletionProtectionEnabled"] == "true"}
    return _stock_create(logical_id, props, stack_name)


_table["create"] = _create_table
runpy.run_module("ministack", run_name="__main__")
