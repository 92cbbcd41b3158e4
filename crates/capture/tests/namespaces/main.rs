//! Capture for real: namespaces, rules, sockets and processes, each test run as whoever runs the
//! tests and, if that is root, as an unprivileged user too. The binary re-executes itself in every
//! role, so a harness of its own decides by the first argument. What a machine forbids is left out
//! and said so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cases;
mod roles;
mod run;

use std::process::ExitCode;

use run::Who;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if let Some(role) = arguments.next().and_then(|first| first.strip_prefix("role-").map(str::to_owned)) {
        return roles::play(&role, &arguments.collect::<Vec<_>>());
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();

    let mut tests = Vec::new();
    for who in Who::all() {
        for (name, case) in cases::ALL {
            tests.push((format!("{}::{name}", who.name()), who, case));
        }
    }
    if is("--list") {
        if !is("--ignored") {
            tests.iter().for_each(|(name, _, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| {
        filters.is_empty() || filters.iter().any(|filter| if is("--exact") { name == *filter } else { name.contains(*filter) })
    };
    let mut failed = 0;
    for (name, who, case) in tests.iter().filter(|(name, _, _)| wanted(name)) {
        if let Err(missing) = run::allowed(*who) {
            println!("left out: {name}: {missing}");
            continue;
        }
        let passed = std::panic::catch_unwind(|| case(*who)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += i32::from(!passed);
    }
    ExitCode::from(u8::from(failed > 0))
}
