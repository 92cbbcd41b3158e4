//! What flows between all services.

use super::{Dashboard, Query, durations, lines, number};

pub(super) const MESH: Dashboard = Dashboard {
    name: "mesh",
    title: "Lorica / Mesh",
    description: "What flows between all services, as callers see it.",
    variables: &[],
    rows: &[
        &[
            number(
                "Requests",
                "Requests a second, as callers' proxies count them.",
                "reqps",
                &[Query(r#"sum(rate(istio_requests_total{reporter="source"}[$__rate_interval]))"#, "")],
            ),
            number(
                "Success",
                "The share of requests that neither HTTP nor gRPC calls a failure of the callee.",
                "percentunit",
                &[Query(
                    r#"(sum(rate(istio_requests_total{reporter="source",response_code!~"0|5..",grpc_response_status!~"2|4|12|13|14|15"}[$__rate_interval])) or sum(rate(istio_requests_total{reporter="source"}[$__rate_interval])) * 0) / sum(rate(istio_requests_total{reporter="source"}[$__rate_interval]))"#,
                    "",
                )],
            ),
            number(
                "p99",
                "The 99th percentile of durations.",
                "ms",
                &[Query(
                    r#"histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="source"}[$__rate_interval])))"#,
                    "p99",
                )],
            ),
            number(
                "Mutual TLS",
                "The share of requests that came to their callee by mutual TLS.",
                "percentunit",
                &[Query(
                    r#"sum(rate(istio_requests_total{reporter="destination",connection_security_policy="mutual_tls"}[$__rate_interval])) / sum(rate(istio_requests_total{reporter="destination"}[$__rate_interval]))"#,
                    "",
                )],
            ),
            number("Proxies", "Proxies that are scraped.", "none", &[Query(r#"count(istio_build{component="proxy"})"#, "")]),
            number("Services", "Services that are registered.", "none", &[Query("max(lorica_control_services)", "")]),
        ],
        &[
            lines(
                "Requests by service",
                "",
                "reqps",
                &[Query(
                    r#"sum by (destination_service) (rate(istio_requests_total{reporter="source"}[$__rate_interval]))"#,
                    "{{destination_service}}",
                )],
            ),
            lines(
                "Failures by service",
                "Requests without an answer, or with a status of 500 and above. Flags are Envoy's: `-` is an answer of the service itself.",
                "reqps",
                &[Query(
                    r#"sum by (destination_service, response_flags) (rate(istio_requests_total{reporter="source",response_code=~"0|5.."}[$__rate_interval]))"#,
                    "{{destination_service}} {{response_flags}}",
                )],
            ),
        ],
        &[
            lines(
                "Success by service",
                "",
                "percentunit",
                &[Query(
                    r#"(sum by (destination_service) (rate(istio_requests_total{reporter="source",response_code!~"0|5..",grpc_response_status!~"2|4|12|13|14|15"}[$__rate_interval])) or sum by (destination_service) (rate(istio_requests_total{reporter="source"}[$__rate_interval])) * 0) / sum by (destination_service) (rate(istio_requests_total{reporter="source"}[$__rate_interval]))"#,
                    "{{destination_service}}",
                )],
            ),
            durations(
                "p99 by service",
                "",
                "ms",
                &[Query(
                    r#"histogram_quantile(0.99, sum by (le, destination_service) (rate(istio_request_duration_milliseconds_bucket{reporter="source"}[$__rate_interval])))"#,
                    "{{destination_service}} p99",
                )],
            ),
        ],
        &[
            lines(
                "What the mesh itself ended",
                "Exchanges that a proxy answered or closed, by the reason that callers are told.",
                "reqps",
                &[Query("sum by (reason) (rate(lorica_exchanges_failed_total[$__rate_interval]))", "{{reason}}")],
            ),
            lines(
                "gRPC messages by service",
                "",
                "mps",
                &[
                    Query(
                        r#"sum by (destination_service) (rate(istio_request_messages_total{reporter="source"}[$__rate_interval]))"#,
                        "{{destination_service}} to",
                    ),
                    Query(
                        r#"sum by (destination_service) (rate(istio_response_messages_total{reporter="source"}[$__rate_interval]))"#,
                        "{{destination_service}} from",
                    ),
                ],
            ),
        ],
        &[
            lines(
                "TCP connections by service",
                "",
                "cps",
                &[Query(
                    r#"sum by (destination_service) (rate(istio_tcp_connections_opened_total{reporter="source"}[$__rate_interval]))"#,
                    "{{destination_service}}",
                )],
            ),
            lines(
                "TCP bytes by service",
                "Counted when a connection ends. Sent is what goes to the caller.",
                "Bps",
                &[
                    Query(
                        r#"sum by (destination_service) (rate(istio_tcp_sent_bytes_total{reporter="source"}[$__rate_interval]))"#,
                        "{{destination_service}} sent",
                    ),
                    Query(
                        r#"sum by (destination_service) (rate(istio_tcp_received_bytes_total{reporter="source"}[$__rate_interval]))"#,
                        "{{destination_service}} received",
                    ),
                ],
            ),
        ],
        &[
            lines("Software", "What runs, by version.", "none", &[Query("sum by (component, tag) (istio_build)", "{{component}} {{tag}}")]),
            lines(
                "Bounds on series",
                "Series past the bound, which count under `other`, and series that ended as nothing was counted in them.",
                "none",
                &[
                    Query("sum by (family) (increase(lorica_metrics_dropped_series_total[$__rate_interval]))", "{{family}} past the bound"),
                    Query("sum by (family) (increase(lorica_metrics_expired_series_total[$__rate_interval]))", "{{family}} ended"),
                ],
            ),
        ],
    ],
};
