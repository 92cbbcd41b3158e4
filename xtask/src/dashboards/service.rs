//! One service.

use super::{Dashboard, Query, Variable, durations, lines, number};

pub(super) const SERVICE: Dashboard = Dashboard {
    name: "service",
    title: "Lorica / Service",
    description: "One service: what is asked of it, by whom, and how it answers.",
    variables: &[Variable {
        name: "service",
        label: "Service",
        query: r#"label_values(istio_requests_total{reporter="destination"}, destination_service)"#,
    }],
    rows: &[
        &[
            number(
                "Requests",
                "Requests a second, as the service's own proxies count them.",
                "reqps",
                &[Query(r#"sum(rate(istio_requests_total{reporter="destination",destination_service="$service"}[$__rate_interval]))"#, "")],
            ),
            number(
                "Success",
                "",
                "percentunit",
                &[Query(
                    r#"(sum(rate(istio_requests_total{reporter="destination",destination_service="$service",response_code!~"0|5..",grpc_response_status!~"2|4|12|13|14|15"}[$__rate_interval])) or sum(rate(istio_requests_total{reporter="destination",destination_service="$service"}[$__rate_interval])) * 0) / sum(rate(istio_requests_total{reporter="destination",destination_service="$service"}[$__rate_interval]))"#,
                    "",
                )],
            ),
            number(
                "p50",
                "",
                "ms",
                &[Query(
                    r#"histogram_quantile(0.5, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_service="$service"}[$__rate_interval])))"#,
                    "p50",
                )],
            ),
            number(
                "p99",
                "",
                "ms",
                &[Query(
                    r#"histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_service="$service"}[$__rate_interval])))"#,
                    "p99",
                )],
            ),
            number(
                "Workloads",
                "Workloads of the service that have answered.",
                "none",
                &[Query(
                    r#"count(count by (destination_workload) (istio_requests_total{reporter="destination",destination_service="$service"}))"#,
                    "",
                )],
            ),
        ],
        &[
            lines(
                "Requests by status",
                "",
                "reqps",
                &[Query(
                    r#"sum by (response_code, grpc_response_status) (rate(istio_requests_total{reporter="destination",destination_service="$service"}[$__rate_interval]))"#,
                    "{{response_code}} {{grpc_response_status}}",
                )],
            ),
            lines(
                "Requests by caller",
                "",
                "reqps",
                &[Query(
                    r#"sum by (source_workload_namespace, source_workload) (rate(istio_requests_total{reporter="destination",destination_service="$service"}[$__rate_interval]))"#,
                    "{{source_workload}}.{{source_workload_namespace}}",
                )],
            ),
        ],
        &[
            durations(
                "Durations",
                "As the service's own proxies see them.",
                "ms",
                &[
                    Query(
                        r#"histogram_quantile(0.5, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_service="$service"}[$__rate_interval])))"#,
                        "p50",
                    ),
                    Query(
                        r#"histogram_quantile(0.9, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_service="$service"}[$__rate_interval])))"#,
                        "p90",
                    ),
                    Query(
                        r#"histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_service="$service"}[$__rate_interval])))"#,
                        "p99",
                    ),
                ],
            ),
            durations(
                "p99 by workload",
                "",
                "ms",
                &[Query(
                    r#"histogram_quantile(0.99, sum by (le, destination_workload) (rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_service="$service"}[$__rate_interval])))"#,
                    "{{destination_workload}} p99",
                )],
            ),
        ],
        &[
            durations(
                "Durations as callers see them",
                "With the way there and back, and what the callers' proxies did.",
                "ms",
                &[
                    Query(
                        r#"histogram_quantile(0.5, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="source",destination_service="$service"}[$__rate_interval])))"#,
                        "p50",
                    ),
                    Query(
                        r#"histogram_quantile(0.9, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="source",destination_service="$service"}[$__rate_interval])))"#,
                        "p90",
                    ),
                    Query(
                        r#"histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="source",destination_service="$service"}[$__rate_interval])))"#,
                        "p99",
                    ),
                ],
            ),
            lines(
                "Requests by route",
                "By the route that decided at the caller.",
                "reqps",
                &[Query(
                    r#"sum by (route_kind, route_namespace, route_name) (rate(istio_requests_total{reporter="source",destination_service="$service"}[$__rate_interval]))"#,
                    "{{route_kind}} {{route_name}}.{{route_namespace}}",
                )],
            ),
        ],
        &[
            lines(
                "Success by version",
                "",
                "percentunit",
                &[Query(
                    r#"(sum by (destination_version) (rate(istio_requests_total{reporter="destination",destination_service="$service",response_code!~"0|5..",grpc_response_status!~"2|4|12|13|14|15"}[$__rate_interval])) or sum by (destination_version) (rate(istio_requests_total{reporter="destination",destination_service="$service"}[$__rate_interval])) * 0) / sum by (destination_version) (rate(istio_requests_total{reporter="destination",destination_service="$service"}[$__rate_interval]))"#,
                    "{{destination_version}}",
                )],
            ),
            lines(
                "Size of bodies",
                "The 99th percentile.",
                "bytes",
                &[
                    Query(
                        r#"histogram_quantile(0.99, sum by (le) (rate(istio_request_bytes_bucket{reporter="destination",destination_service="$service"}[$__rate_interval])))"#,
                        "requests",
                    ),
                    Query(
                        r#"histogram_quantile(0.99, sum by (le) (rate(istio_response_bytes_bucket{reporter="destination",destination_service="$service"}[$__rate_interval])))"#,
                        "answers",
                    ),
                ],
            ),
        ],
    ],
};
