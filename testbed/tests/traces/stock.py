"""An app that OpenTelemetry's SDK traces: it serves, and calls another for each request. Arguments: its port, whom it calls, the collector."""

import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

port, price, collector = sys.argv[1:]
provider = TracerProvider(resource=Resource.create({"service.name": "stock"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=collector + "/v1/traces")))
tracer = provider.get_tracer("stock")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with tracer.start_as_current_span("stock", context=extract(self.headers), kind=trace.SpanKind.SERVER):
            with tracer.start_as_current_span("call price", kind=trace.SpanKind.CLIENT):
                headers = {}
                inject(headers)
                with urllib.request.urlopen(urllib.request.Request(price, headers=headers)) as answer:
                    body = answer.read()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
