"""Starts LocalStack's runtime, and binds its gateway to the addresses in GATEWAY_LISTEN alone: the stock server binds every address."""

import os
import runpy

from twisted.internet import endpoints

_stock = endpoints.TCP4ServerEndpoint
_hosts = iter(a.rsplit(":", 1)[0] for a in os.environ["GATEWAY_LISTEN"].split(","))


def _bound(reactor, port, backlog=50, interface=""):
    return _stock(reactor, port, backlog, interface or next(_hosts, "127.0.0.1"))


endpoints.TCP4ServerEndpoint = _bound
runpy.run_module("localstack.runtime.main", run_name="__main__")
