"""An app that Zipkin's library for Python traces: it makes one call. Arguments: whom it calls, the Zipkin."""

import sys
import urllib.request

from py_zipkin import Encoding
from py_zipkin.request_helpers import create_http_headers
from py_zipkin.zipkin import zipkin_client_span, zipkin_server_span

stock, zipkin = sys.argv[1:]


def post(spans):
    request = urllib.request.Request(zipkin + "/api/v2/spans", data=spans.encode(), headers={"content-type": "application/json"})
    urllib.request.urlopen(request).close()


with zipkin_server_span(
    service_name="order", span_name="order", transport_handler=post, sample_rate=100.0, encoding=Encoding.V2_JSON
):
    with zipkin_client_span(service_name="order", span_name="call stock"):
        headers = {name: value for name, value in create_http_headers().items() if value is not None}
        with urllib.request.urlopen(urllib.request.Request(stock, headers=headers)) as answer:
            print(answer.read().decode())
