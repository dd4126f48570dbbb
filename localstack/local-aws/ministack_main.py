"""Starts MiniStack, and gives its policy evaluation the two condition keys of conditional writes that it does not know: s3:if-match and
s3:if-none-match, as the bucket policies of infra/template.yaml ask for them."""

import runpy

from ministack.core import iam_actions

_stock = iam_actions._s3_object_context


def _with_conditions(iam_action, query_params, path, headers):
    context = _stock(iam_action, query_params, path, headers)
    if iam_action == "s3:PutObject":
        for name in ("if-match", "if-none-match"):
            if headers.get(name):
                context["s3:" + name] = headers[name]
    return context


iam_actions._s3_object_context = _with_conditions
runpy.run_module("ministack", run_name="__main__")
