//! The program itself: its services by name, its mistakes, its signals.

use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness::LIMIT;

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contact-centre"));
    command.args(args).stdin(Stdio::null());
    command
}

#[test]
fn mistakes_end_with_2_and_say_what_is_known() {
    let check = |args: &[&str], code: i32, expected: &str| {
        let output = program(args).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{said}");
    };
    check(&[], 2, "hint: one of call-routing, agent-assignment");
    check(&["telephone"], 2, "no service `telephone`");
    check(&["recording", "--port", "80"], 2, "hint: its flags are --listen, --version, --bug");
    check(&["recording", "--version", "v3"], 2, "`--version v3`: expected v1 or v2");
    check(&["recording", "--bug", "on"], 2, "hint: add --version v2");
    check(&["call-routing", "--analytics", "analytics"], 2, "`--analytics analytics`: expected HOST:PORT");
    check(&["caller", "--rate", "0"], 2, "expected 0.01 to 10000");
    check(&["caller", "--seconds", "1", "--report", "/nowhere/r.json"], 1, "cannot write `/nowhere/r.json`");
}

#[test]
fn a_caller_without_a_centre_fails_and_still_reports() {
    let args = ["caller", "--target", "http://127.0.0.1:1", "--seconds", "1", "--rate", "50"];
    let output = program(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: contact_centre::report::Report = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report.failed > 0 && report.failed == report.calls, "{report:?}");
}

#[tokio::test]
async fn each_service_says_where_it_listens_and_ends_on_sigterm() {
    for name in ["call-routing", "agent-assignment", "recording", "analytics", "customer-history"] {
        let mut service = tokio::process::Command::from(program(&[name, "--listen", "127.0.0.1:0"]))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(service.stderr.take().unwrap()).lines();
        let line = tokio::time::timeout(LIMIT, said.next_line()).await.unwrap().unwrap().unwrap();
        assert!(line.starts_with(name) && line.contains("listens on 127.0.0.1:"), "{line}");
        let pid = service.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = tokio::time::timeout(LIMIT, service.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0), "{name}");
    }
}
