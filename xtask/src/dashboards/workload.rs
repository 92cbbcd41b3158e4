//! One workload and its proxy.

use super::{Dashboard, Query, Variable, durations, lines, number};

pub(super) const WORKLOAD: Dashboard = Dashboard {
    name: "workload",
    title: "Lorica / Workload",
    description: "One workload and its proxy: what comes in, what goes out, what it takes.",
    variables: &[
        Variable {
            name: "namespace",
            label: "Namespace",
            query: r#"label_values(istio_requests_total{reporter="destination"}, destination_workload_namespace)"#,
        },
        Variable {
            name: "workload",
            label: "Workload",
            query: r#"label_values(istio_requests_total{reporter="destination",destination_workload_namespace="$namespace"}, destination_workload)"#,
        },
    ],
    rows: &[
        &[
            number(
                "Incoming",
                "",
                "reqps",
                &[Query(
                    r#"sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="$namespace",destination_workload="$workload"}[$__rate_interval]))"#,
                    "",
                )],
            ),
            number(
                "Incoming success",
                "",
                "percentunit",
                &[Query(
                    r#"(sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="$namespace",destination_workload="$workload",response_code!~"0|5..",grpc_response_status!~"2|4|12|13|14|15"}[$__rate_interval])) or sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="$namespace",destination_workload="$workload"}[$__rate_interval])) * 0) / sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="$namespace",destination_workload="$workload"}[$__rate_interval]))"#,
                    "",
                )],
            ),
            number(
                "Outgoing",
                "",
                "reqps",
                &[Query(
                    r#"sum(rate(istio_requests_total{reporter="source",source_workload_namespace="$namespace",source_workload="$workload"}[$__rate_interval]))"#,
                    "",
                )],
            ),
            number(
                "Outgoing success",
                "",
                "percentunit",
                &[Query(
                    r#"(sum(rate(istio_requests_total{reporter="source",source_workload_namespace="$namespace",source_workload="$workload",response_code!~"0|5..",grpc_response_status!~"2|4|12|13|14|15"}[$__rate_interval])) or sum(rate(istio_requests_total{reporter="source",source_workload_namespace="$namespace",source_workload="$workload"}[$__rate_interval])) * 0) / sum(rate(istio_requests_total{reporter="source",source_workload_namespace="$namespace",source_workload="$workload"}[$__rate_interval]))"#,
                    "",
                )],
            ),
            number(
                "Certificate",
                "How long the SVID is still good.",
                "s",
                &[Query(r#"min(lorica_svid_expiry_seconds{namespace="$namespace",workload="$workload"})"#, "")],
            ),
            number(
                "Control plane",
                "1: connected.",
                "none",
                &[Query(r#"min(lorica_control_plane_connected{namespace="$namespace",workload="$workload"})"#, "")],
            ),
        ],
        &[
            lines(
                "Incoming by caller and status",
                "",
                "reqps",
                &[Query(
                    r#"sum by (source_workload, response_code) (rate(istio_requests_total{reporter="destination",destination_workload_namespace="$namespace",destination_workload="$workload"}[$__rate_interval]))"#,
                    "{{source_workload}} {{response_code}}",
                )],
            ),
            durations(
                "Incoming durations",
                "",
                "ms",
                &[
                    Query(
                        r#"histogram_quantile(0.5, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_workload_namespace="$namespace",destination_workload="$workload"}[$__rate_interval])))"#,
                        "p50",
                    ),
                    Query(
                        r#"histogram_quantile(0.9, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_workload_namespace="$namespace",destination_workload="$workload"}[$__rate_interval])))"#,
                        "p90",
                    ),
                    Query(
                        r#"histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_workload_namespace="$namespace",destination_workload="$workload"}[$__rate_interval])))"#,
                        "p99",
                    ),
                ],
            ),
        ],
        &[
            lines(
                "Outgoing by service and status",
                "",
                "reqps",
                &[Query(
                    r#"sum by (destination_service, response_code, response_flags) (rate(istio_requests_total{reporter="source",source_workload_namespace="$namespace",source_workload="$workload"}[$__rate_interval]))"#,
                    "{{destination_service}} {{response_code}} {{response_flags}}",
                )],
            ),
            durations(
                "Outgoing p99 by service",
                "",
                "ms",
                &[Query(
                    r#"histogram_quantile(0.99, sum by (le, destination_service) (rate(istio_request_duration_milliseconds_bucket{reporter="source",source_workload_namespace="$namespace",source_workload="$workload"}[$__rate_interval])))"#,
                    "{{destination_service}} p99",
                )],
            ),
        ],
        &[
            lines(
                "Connections open",
                "Of the proxy, by side.",
                "none",
                &[Query(r#"sum by (side) (lorica_connections_open{namespace="$namespace",workload="$workload"})"#, "{{side}}")],
            ),
            lines(
                "Upstream connections",
                "Made anew, and used again.",
                "cps",
                &[
                    Query(
                        r#"sum(rate(lorica_pool_connects_total{namespace="$namespace",workload="$workload"}[$__rate_interval]))"#,
                        "made",
                    ),
                    Query(
                        r#"sum(rate(lorica_pool_reuses_total{namespace="$namespace",workload="$workload"}[$__rate_interval]))"#,
                        "used again",
                    ),
                ],
            ),
        ],
        &[
            lines(
                "CPU of the proxy",
                "",
                "percentunit",
                &[Query(r#"sum(rate(process_cpu_seconds_total{namespace="$namespace",workload="$workload"}[$__rate_interval]))"#, "cores")],
            ),
            lines(
                "Memory of the proxy",
                "",
                "bytes",
                &[Query(r#"sum(process_resident_memory_bytes{namespace="$namespace",workload="$workload"})"#, "resident")],
            ),
            lines(
                "Descriptors of the proxy",
                "",
                "none",
                &[Query(r#"sum(process_open_fds{namespace="$namespace",workload="$workload"})"#, "open")],
            ),
        ],
        &[
            lines(
                "Endpoints left out",
                "Endpoints that take no calls from this proxy now, by reason.",
                "none",
                &[Query(r#"sum by (reason) (lorica_endpoints_left_out{namespace="$namespace",workload="$workload"})"#, "{{reason}}")],
            ),
            lines(
                "Dropped telemetry",
                "What could not be told in time.",
                "cps",
                &[
                    Query(
                        r#"sum(rate(lorica_access_log_dropped_total{namespace="$namespace",workload="$workload"}[$__rate_interval]))"#,
                        "log lines",
                    ),
                    Query(
                        r#"sum(rate(lorica_spans_dropped_total{namespace="$namespace",workload="$workload"}[$__rate_interval]))"#,
                        "spans",
                    ),
                ],
            ),
        ],
    ],
};
