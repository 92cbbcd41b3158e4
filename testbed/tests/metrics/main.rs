//! Metrics of real proxies and of the control plane: what they say adds up, a real Prometheus finds and reads all of it, and neither hostile
//! values nor many of them nor slow scrapers do harm.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails says where by panicking")]

mod centre;
mod dashboards;
mod exactness;
mod pages;
mod prometheus;
mod scrape;
