"""Lets function URLs set cookies: LocalStack 4.14 drops the "cookies" of an answer, with which Lambda sets them."""

import json

from localstack.services.lambda_ import urlrouter

_stock = urlrouter.lambda_result_to_response


def _with_cookies(result):
    response = _stock(result)
    try:
        answer = json.loads(result.payload)
    except ValueError:
        return response
    if isinstance(answer, dict):
        for cookie in answer.get("cookies") or []:
            response.headers.add("Set-Cookie", cookie)
    return response


urlrouter.lambda_result_to_response = _with_cookies
