"""A client of Jaeger's query API, by others: what it makes of our answers, printed as JSON."""

import json
import sys

from jaeger_mcp import JaegerClient

url, trace_id = sys.argv[1:]
client = JaegerClient.from_env(url=url)


def found(**filters):
    return sorted(trace.trace_id for trace in client.search_traces("caller.shop", **filters))


def raw(path, **params):
    return client._http.get(path, params=params or None)["data"]


trace = client.get_trace(trace_id)
begin = trace.start_time_us
told = {
    "services": client.list_services(),
    "operations": raw("/services/caller.shop/operations"),
    "kinds": raw("/operations", service="caller.shop"),
    "spans": [
        {
            "operation": span.operation,
            "service": span.service_name,
            "parent": span.parent_span_id,
            "start": span.start_time_us - begin,
            "duration": span.duration_us,
            "error": span.error,
            "tags": span.tags,
            "logs": span.logs,
        }
        for span in sorted(trace.spans, key=lambda span: span.start_time_us)
    ],
    "trace": [trace.root_service, trace.root_operation, trace.duration_us, trace.service_count, trace.errors_count],
    "dependencies": [[edge.parent, edge.child, edge.call_count] for edge in client.get_dependencies(lookback_hours=1)],
    "all": found(),
    "slow": found(operation="GET /slow"),
    "long": found(min_duration="50ms"),
    "short": found(max_duration="50ms"),
    "tagged": found(tags={"http.request.method": "GET", "of": "7"}),
    "failed": found(tags={"error": "true"}),
    "one": len(found(limit=1)),
}
print(json.dumps(told))
