//! The control plane.

use super::{Dashboard, Query, lines, number};

pub(super) const CONTROL_PLANE: Dashboard = Dashboard {
    name: "control-plane",
    title: "Lorica / Control plane",
    description: "Sessions, publications, what compiling takes, the store, the CA and the door for hosts.",
    variables: &[],
    rows: &[
        &[
            number("Sessions", "Open streams of xDS.", "none", &[Query("sum(lorica_control_sessions)", "")]),
            number("Publication", "The number of the newest one.", "none", &[Query("max(lorica_control_publication)", "")]),
            number(
                "Refused by proxies",
                "Resources that sessions refused (NACK) within the range.",
                "none",
                &[Query("sum(increase(lorica_control_rejections_total[$__range]))", "")],
            ),
            number("Store", "", "bytes", &[Query("sum(lorica_control_store_bytes)", "")]),
            number(
                "Intermediate",
                "How long it still signs.",
                "s",
                &[Query(r#"min(lorica_intermediate_expiry_seconds{workload="control-plane"})"#, "")],
            ),
            number("Root", "", "s", &[Query(r#"min(lorica_root_expiry_seconds{workload="control-plane"})"#, "")]),
        ],
        &[
            lines("Sessions by dialect", "", "none", &[Query("sum by (dialect) (lorica_control_sessions)", "{{dialect}}")]),
            lines(
                "Workloads by state",
                "",
                "none",
                &[Query("sum by (state) (lorica_control_workloads)", "{{state}}"), Query("sum(lorica_control_endpoints)", "endpoints")],
            ),
        ],
        &[
            lines(
                "Publications",
                "",
                "cps",
                &[
                    Query("sum(rate(lorica_control_publication_seconds_count[$__rate_interval]))", "publications"),
                    Query("sum(rate(lorica_control_acknowledgements_total[$__rate_interval]))", "acknowledgements"),
                ],
            ),
            lines("Pushes by kind", "", "cps", &[Query("sum by (kind) (rate(lorica_control_pushes_total[$__rate_interval]))", "{{kind}}")]),
            lines(
                "Refusals by kind",
                "NACKs.",
                "cps",
                &[Query("sum by (kind) (rate(lorica_control_rejections_total[$__rate_interval]))", "{{kind}}")],
            ),
        ],
        &[
            lines(
                "Time to publish",
                "To every session, over the range.",
                "s",
                &[
                    Query("histogram_quantile(0.5, sum by (le) (increase(lorica_control_publication_seconds_bucket[$__range])))", "p50"),
                    Query("histogram_quantile(0.99, sum by (le) (increase(lorica_control_publication_seconds_bucket[$__range])))", "p99"),
                ],
            ),
            lines(
                "Time until in force",
                "Until everybody concerned had acknowledged, over the range.",
                "s",
                &[
                    Query("histogram_quantile(0.5, sum by (le) (increase(lorica_control_convergence_seconds_bucket[$__range])))", "p50"),
                    Query("histogram_quantile(0.99, sum by (le) (increase(lorica_control_convergence_seconds_bucket[$__range])))", "p99"),
                ],
            ),
            lines(
                "Time to compile",
                "The 99th percentile of units that a session asked for, by kind, over the range.",
                "s",
                &[Query(
                    "histogram_quantile(0.99, sum by (le, kind) (increase(lorica_control_compile_seconds_bucket[$__range])))",
                    "{{kind}}",
                )],
            ),
        ],
        &[
            lines(
                "Certificates",
                "Requests of workloads, by what became of them.",
                "cps",
                &[Query("sum by (result) (rate(lorica_control_certificate_requests_total[$__rate_interval]))", "{{result}}")],
            ),
            lines(
                "Sessions begun",
                "",
                "cps",
                &[Query("sum by (result) (rate(lorica_control_sessions_begun_total[$__rate_interval]))", "{{result}}")],
            ),
            lines(
                "Refused at the door",
                "Connections of other hosts that were refused, by why.",
                "cps",
                &[Query("sum by (reason) (rate(lorica_control_door_refusals_total[$__rate_interval]))", "{{reason}}")],
            ),
        ],
        &[
            lines("Resources by kind", "", "none", &[Query("sum by (kind) (lorica_control_resources)", "{{kind}}")]),
            lines("Records by table", "", "none", &[Query("sum by (table) (lorica_control_store_records)", "{{table}}")]),
        ],
        &[
            lines(
                "CPU",
                "",
                "percentunit",
                &[Query(r#"sum(rate(process_cpu_seconds_total{workload="control-plane"}[$__rate_interval]))"#, "cores")],
            ),
            lines("Memory", "", "bytes", &[Query(r#"sum(process_resident_memory_bytes{workload="control-plane"})"#, "resident")]),
            lines("Descriptors", "", "none", &[Query(r#"sum(process_open_fds{workload="control-plane"})"#, "open")]),
        ],
    ],
};
