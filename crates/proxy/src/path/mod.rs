//! A request's way through the proxy, top to bottom. The steps have one vocabulary: module, span, log word.
//!
//! | step | what it settles |
//! | --- | --- |
//! | `accept` | which listener the connection came to, and what that makes of it |
//! | `mtls` | inbound: who calls |
//! | `detect` | what the connection speaks |
//! | `http` / `relay` | one exchange after another, or bytes |
//! | `explain` | whether all of it is recorded, by a signed token |
//! | `clean` | what an app or a stranger may not tell the mesh |
//! | `deadline` | how much time is left, by caller and policy |
//! | `gateway` | at a gateway: by port, server name and host, which rules are asked |
//! | `quic` | the same for what comes by QUIC: HTTP/3 |
//! | `route` / `way` | which service port the request goes to, or what the rule answers |
//! | `authenticate` | whose token it carries, and what that says |
//! | `authorize` | whether the caller may do this |
//! | `external` | what services say of it that are asked for leave |
//! | `limit` | whether it is one too many, by what is counted here, by the control plane or by a service (`limit_service`) |
//! | `fault` | what FaultPolicies do before anything is tried |
//! | `filter` | what the rule changes in request and answer |
//! | `grpc_web` | at a gateway: calls of browsers become calls of gRPC |
//! | `mirror` | copies, of which nobody waits for the answer |
//! | `egress` | what leaves the mesh, and by which way |
//! | `pick` | which endpoint takes it |
//! | `connect` | a connection to it: pooled, or new, with its identity checked |
//! | `send` / `respond` | request and answer, both ways at once |
//! | `retry` | whether another attempt follows |
//! | `hedge` | a second attempt beside a slow one |
//! | `trial` | what policies that are tried would have done |
//! | `record` | what became of it: one record an exchange |

pub mod accept;
pub mod ask;
pub mod authenticate;
pub mod authorize;
pub mod caller;
pub mod clean;
pub mod connect;
pub mod deadline;
pub mod detect;
pub mod egress;
pub mod exchange;
pub mod explain;
pub mod external;
pub mod failure;
pub mod fault;
pub mod filter;
pub mod gateway;
pub mod grpc_web;
pub mod hedge;
pub mod http;
pub mod limit;
pub mod limit_service;
pub mod mirror;
pub mod mtls;
pub mod pick;
#[cfg(feature = "http3")]
pub mod quic;
pub mod record;
pub mod relay;
pub mod replay;
pub mod respond;
pub mod retry;
pub mod route;
pub mod send;
pub mod tcp;
pub mod time;
pub mod trial;
pub mod udp;
pub mod unserved;
pub mod way;
