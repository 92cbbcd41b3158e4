//! What capture promises, one test each.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::fd::{FromRawFd, OwnedFd},
    process::Command,
};

use lorica_capture::rules_as_text;

use crate::{
    roles::{CALLER_V4, CALLER_V6, VIRTUAL_V4, VIRTUAL_V6},
    run::{Place, Plan, Who, address, kill},
};

type Case = fn(Who);

pub(crate) const ALL: [(&str, Case); 30] = [
    ("tcp_reaches_the_proxy_with_its_destination", tcp),
    ("ipv6_reaches_the_proxy_with_its_destination", tcp_v6),
    ("dns_to_any_address_reaches_the_proxy", dns),
    ("other_udp_fails_at_once", udp),
    ("own_and_loopback_addresses_are_the_apps", own_addresses),
    ("any_address_can_be_bound", any_address),
    ("the_app_is_reached_on_port_80_by_the_callers_address", inbound),
    ("the_app_is_reached_on_loopback_and_ipv6", inbound_elsewhere),
    ("host_port_is_found_at_the_same_address", host_port),
    ("published_and_inbound_listeners_are_on_the_host", host_listeners),
    ("exit_code_is_the_apps", exit_code),
    ("a_signal_that_kills_the_app_is_128_more", killed_app),
    ("a_program_that_is_not_there_is_named", no_program),
    ("a_proxy_that_refuses_is_quoted", refusing_proxy),
    ("a_proxy_that_crashes_at_start_is_reported", crashing_proxy),
    ("a_signal_during_the_start_ends_it", early_signal),
    ("sigterm_drains_then_reaches_the_app", drain),
    ("a_second_signal_reaches_the_app_at_once", second_signal),
    ("what_the_app_leaves_running_is_ended", leftovers),
    ("killing_the_supervisor_leaves_nothing", killed_supervisor),
    ("killing_the_helper_leaves_nothing", killed_helper),
    ("a_killed_proxy_is_replaced_and_listeners_live_on", killed_proxy),
    ("masked_directories_are_empty_inside_only", masks),
    ("the_app_has_no_capabilities_and_keeps_its_uid", capabilities),
    ("no_descriptor_and_no_variable_of_ours_reaches_the_app", clean_start),
    ("ended_connections_are_soon_forgotten", settings),
    ("names_are_resolved_by_the_proxy", names),
    ("explicit_listeners_need_no_namespace", explicit),
    ("ctrl_c_is_the_apps", terminal),
    ("ctrl_z_stops_the_job_and_the_shell_continues_it", stop_and_continue),
];

fn tcp(who: Who) {
    let output = Plan::new(who).app("role-connect", &["240.1.2.3:80"]).output();
    assert_eq!(output, "outbound to 240.1.2.3:80");
    let output = Plan::new(who).with("outbound-sockets", "4").app("role-connect", &["192.0.2.1:9"]).output();
    assert_eq!(output, "outbound to 192.0.2.1:9");
    nft_agrees(who);
}

fn tcp_v6(who: Who) {
    let output = Plan::new(who).app("role-connect", &["[fd00::123]:80"]).output();
    assert_eq!(output, "outbound to [fd00::123]:80");
}

/// Only root can look into the namespace from outside.
fn nft_agrees(who: Who) {
    if rustix::process::geteuid().as_raw() != 0 || Command::new("nft").arg("-v").output().is_err() {
        println!("left out: comparing the rules with nft's reading of them");
        return;
    }
    let mut run = Plan::new(who).app("role-wait", &[]);
    let pid = run.line("waiting pid=");
    let listed = Place::new(Who::Me).command("role-nft", &[&pid]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let expected = rules_as_text(VIRTUAL_V4, Some(VIRTUAL_V6));
    // Newer versions of nft have a name for this priority too.
    let plain = |text: &str| text.replace("priority dstnat", "priority -100");
    assert_eq!(plain(&listed), plain(&expected));
    run.signal(libc::SIGTERM);
    assert_eq!(run.end().0, 128 + libc::SIGTERM);
}

fn dns(who: Who) {
    for server in ["8.8.8.8:53", "127.0.0.53:53", "[2001:db8::1]:53", "[::1]:53"] {
        let output = Plan::new(who).app("role-udp", &[server]).output();
        assert_eq!(output, "dns over udp: question", "{server}");
        let output = Plan::new(who).app("role-connect", &[server]).output();
        assert_eq!(output, "DnsTcp", "{server}");
    }
}

fn udp(who: Who) {
    for destination in ["192.0.2.1:443", "240.1.2.3:443", "[2001:db8::1]:443"] {
        let output = Plan::new(who).app("role-udp", &[destination]).output();
        let quick = ["error: PermissionDenied", "error: ConnectionRefused"];
        assert!(quick.contains(&output.as_str()), "{destination}: {output}");
    }
}

fn own_addresses(who: Who) {
    for own in ["127.0.0.1:81", "240.0.0.9:81", "[::1]:81", "[fd00::9]:81"] {
        let output = Plan::new(who).app("role-connect", &[own]).output();
        assert!(output.contains("Connection refused"), "{own}: {output}");
    }
}

fn any_address(who: Who) {
    // One that this machine has not: the app was configured for the machine it runs on elsewhere.
    let mut run = Plan::new(who).with("proxy", "dial").app("role-serve", &["192.0.2.77:80"]);
    assert_eq!(run.line("dialled 192.0.2.77:80"), format!("ping from {CALLER_V4}"));
    assert_eq!(run.end().0, 0);
}

fn inbound(who: Who) {
    let mut run = Plan::new(who).with("proxy", "dial").with("app-port", "80").app("role-serve", &["0.0.0.0:80"]);
    assert_eq!(run.line("dialled 240.0.0.9:80"), format!("ping from {CALLER_V4}"));
    run.line("app-ended");
    assert_eq!(run.end().0, 0);
}

fn inbound_elsewhere(who: Who) {
    let mut run = Plan::new(who).with("proxy", "dial").app("role-serve", &["127.0.0.1:8080", "[fd00::9]:8081", "[::1]:8082"]);
    assert_eq!(run.line("dialled 127.0.0.1:8080"), format!("ping from {CALLER_V4}"));
    assert_eq!(run.line("dialled [fd00::9]:8081"), format!("ping from {CALLER_V6}"));
    assert_eq!(run.line("dialled [::1]:8082"), format!("ping from {CALLER_V6}"));
    assert_eq!(run.end().0, 0);
}

fn host_port(who: Who) {
    let database = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = database.local_addr().unwrap().to_string();
    let port = database.local_addr().unwrap().port().to_string();
    let server = std::thread::spawn(move || {
        database.accept().unwrap().0.write_all(b"the host's database").unwrap();
    });
    let output = Plan::new(who).with("host-port", &port).app("role-connect", &[&at]).output();
    assert_eq!(output, "the host's database");
    server.join().unwrap();
}

fn host_listeners(who: Who) {
    let mut run = Plan::new(who).with("app-port", "80").with("publish", "80").app("role-wait", &[]);
    for label in ["Inbound { app_port: 80 }", "Publish { app_port: 80 }"] {
        let at = run.line(&format!("listener {label} at"));
        let mut reply = String::new();
        let mut stream = std::net::TcpStream::connect(address(&at)).unwrap();
        stream.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, label);
    }
    run.line("waiting");
    run.signal(libc::SIGINT);
    assert_eq!(run.end().0, 128 + libc::SIGINT);
}

fn exit_code(who: Who) {
    for code in [0, 7, 255] {
        let mut run = Plan::new(who).shell(&format!("exit {code}"));
        run.line("app-ended");
        assert_eq!(run.end().0, code);
    }
}

fn killed_app(who: Who) {
    for signal in [libc::SIGKILL, libc::SIGUSR2] {
        assert_eq!(Plan::new(who).shell(&format!("kill -{signal} $$")).end().0, 128 + signal);
    }
}

fn no_program(who: Who) {
    let mut run = Plan::new(who).start(&["no-such-program"]);
    run.line("error: cannot start `no-such-program`:");
    run.line("  hint: no program of that name that you may run is in PATH");
    assert_eq!(run.end().0, 1);
}

fn refusing_proxy(who: Who) {
    let mut run = Plan::new(who).with("proxy", "refuse").shell("echo started");
    run.line("error: no control plane at x");
    run.line("  hint: start one");
    let (code, output, _) = run.end();
    assert_eq!((code, output.as_str()), (1, ""));
}

fn crashing_proxy(who: Who) {
    let mut run = Plan::new(who).with("proxy", "crash").shell("echo started");
    run.line("error: the proxy ended before it was ready: exit code 9");
    let (code, output, _) = run.end();
    assert_eq!((code, output.as_str()), (1, ""));
}

fn early_signal(who: Who) {
    let mut run = Plan::new(who).with("proxy", "silent").shell("echo started");
    run.line("silent");
    run.signal(libc::SIGTERM);
    let (code, output, _) = run.end();
    assert_eq!((code, output.as_str()), (128 + libc::SIGTERM, ""));
}

fn drain(who: Who) {
    for (behaviour, milliseconds) in [("", "3600000"), ("never-drained", "10")] {
        let mut run = Plan::new(who)
            .with("proxy", behaviour)
            .with("drain-ms", milliseconds)
            .shell("trap 'echo got it; exit 4' TERM; echo ready; sleep 1000 & wait");
        assert_eq!(run.answer(), "ready");
        run.signal(libc::SIGTERM);
        run.line("drain");
        let (code, output, _) = run.end();
        assert_eq!((code, output.as_str()), (4, "got it\n"), "{behaviour}");
    }
}

fn second_signal(who: Who) {
    let mut run = Plan::new(who).with("proxy", "never-drained").with("drain-ms", "3600000").app("role-wait", &[]);
    run.line("waiting");
    run.signal(libc::SIGTERM);
    run.line("drain");
    run.signal(libc::SIGINT);
    assert_eq!(run.end().0, 128 + libc::SIGINT);
}

fn leftovers(who: Who) {
    // The pipe's end, which `end` waits for, comes only when the grandchild is gone too.
    let run = Plan::new(who).shell("(setsid \"$ME\" role-wait &); exit 3");
    assert_eq!(run.end().0, 3);
}

fn killed_supervisor(who: Who) {
    let mut run = Plan::new(who).app("role-tree", &[]);
    run.line("waiting");
    run.line("waiting");
    run.signal(libc::SIGKILL);
    run.all_gone();
}

fn killed_helper(who: Who) {
    let mut run = Plan::new(who).app("role-tree", &[]);
    run.line("waiting");
    run.line("waiting");
    let proxy: i32 = run.line("proxy pid=").parse().unwrap();
    let helper = children_of(run.pid()).into_iter().find(|pid| *pid != proxy).unwrap();
    kill(helper, libc::SIGKILL);
    run.line("error: the helper ended unexpectedly (signal 9)");
    assert_eq!(run.end().0, 1);
}

fn children_of(parent: i32) -> Vec<i32> {
    let file = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(file).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn killed_proxy(who: Who) {
    let mut run = Plan::new(who).with("app-port", "80").app("role-connect-each", &[]);
    let before = run.line("listener Inbound { app_port: 80 } at");
    run.tell("240.1.2.3:80");
    assert_eq!(run.answer(), "outbound to 240.1.2.3:80");
    for _ in 0..3 {
        let pid: i32 = run.line("proxy pid=").parse().unwrap();
        kill(pid, libc::SIGKILL);
        // At once: the connection waits in the listener's queue for the next proxy.
        run.tell("240.1.2.4:80");
        assert_eq!(run.answer(), "outbound to 240.1.2.4:80");
        run.line("notice: the proxy ended (signal 9)");
        assert_eq!(run.line("listener Inbound { app_port: 80 } at"), before);
    }
    assert_eq!(run.end().0, 0);
}

fn masks(who: Who) {
    let plan = Plan::new(who);
    let state = plan.directory().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("key.pem"), "secret").unwrap();
    if who == Who::Nobody {
        std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
    }
    let directory = state.to_str().unwrap().to_owned();
    let run = plan
        .with("mask", &directory)
        .with("mask", "/does/not/exist")
        .shell(&format!("ls -A {directory}; touch {directory}/x 2>/dev/null || echo no"));
    let (code, output, seen) = {
        let mut run = run;
        run.line("app-ended");
        assert_eq!(fs::read_to_string(state.join("key.pem")).unwrap(), "secret");
        run.end()
    };
    assert_eq!((code, output.as_str()), (0, "no\n"), "{seen:#?}");
}

fn capabilities(who: Who) {
    let status = Plan::new(who).shell("cat /proc/self/status").output();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    let set = |name: &str| u64::from_str_radix(&field(name), 16).unwrap();
    for name in ["CapBnd:", "CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        if who.is_root() {
            let (net_admin, sys_admin) = (1 << 12, 1 << 21);
            assert_eq!(set(name) & (net_admin | sys_admin), 0, "{name}");
        } else {
            assert_eq!(set(name), 0, "{name}");
        }
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("SigBlk:"), "0000000000000000");
    let uid = who.uid().to_string();
    assert_eq!(field("Uid:").split_whitespace().collect::<Vec<_>>(), [uid.as_str(); 4]);
}

fn clean_start(who: Who) {
    let script = "ls /proc/self/fd | tr '\\n' ' '; env | grep -c LORICA_CHANNEL; pwd";
    let output = Plan::new(who).shell(script).output();
    // 3 is the directory that ls reads.
    assert_eq!(output, "0 1 2 3 0\n/");
}

fn settings(who: Who) {
    let script = "cd /proc/sys/net; cat ipv4/tcp_tw_reuse ipv4/ip_local_reserved_ports \
                  netfilter/nf_conntrack_tcp_timeout_time_wait netfilter/nf_conntrack_udp_timeout";
    assert_eq!(Plan::new(who).shell(script).output(), "1\n15001,15053\n2\n15");
}

fn names(who: Who) {
    let mut run = Plan::new(who)
        .variable("http_proxy", "http://proxy.example:3128")
        .variable("no_proxy", "localhost")
        .shell("grep nameserver /etc/resolv.conf; grep hosts: /etc/nsswitch.conf; echo $NO_PROXY");
    let notice = run.line("notice: http_proxy is set:");
    assert!(notice.contains("NO_PROXY gets .mesh"), "{notice}");
    let expected = "nameserver 127.0.0.1\nhosts: files dns\nlocalhost,.mesh,240.0.0.0/12,recording";
    assert_eq!(run.output(), expected);
    assert!(!fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default().is_empty());
}

fn explicit(who: Who) {
    let namespace = fs::read_link("/proc/self/ns/net").unwrap();
    let plan = Plan::new(who).with("explicit", "recording").with("app-port", "8123");
    let mut run = plan.shell("read address; \"$ME\" role-connect $address; readlink /proc/self/ns/net");
    let at = run.line("listener Upstream { host: \"recording\", port: 80 } at");
    run.tell(&at);
    assert_eq!(run.answer(), "Upstream { host: \"recording\", port: 80 }");
    assert_eq!(run.answer(), namespace.to_str().unwrap());
    assert_eq!(run.end().0, 0);
}

/// The keyboard of a new terminal, and the terminal.
fn new_terminal() -> (fs::File, OwnedFd) {
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: openpty writes two new descriptors; the other pointers may be null.
    unsafe {
        let none = std::ptr::null_mut();
        let done = libc::openpty(&mut ours, &mut theirs, none, std::ptr::null(), std::ptr::null());
        assert_eq!(done, 0);
        (fs::File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    }
}

fn terminal(who: Who) {
    let (mut keyboard, terminal) = new_terminal();
    let mut run = Plan::new(who).on_terminal(terminal).shell("trap 'echo interrupted; exit 5' INT; echo ready; sleep 1000 & wait");
    assert_eq!(run.answer(), "ready");
    // Ctrl-Z, in a session where no shell would continue the job, changes nothing.
    keyboard.write_all(b"\x1a\x03").unwrap();
    assert_eq!(run.answer(), "interrupted");
    let (code, _, seen) = run.end();
    assert_eq!(code, 5);
    assert!(!seen.iter().any(|line| line == "drain"), "{seen:#?}");
}

fn stop_and_continue(who: Who) {
    let (mut keyboard, terminal) = new_terminal();
    let mut run = Plan::new(who).on_terminal(terminal).under_shell().shell("echo ready; while read word; do echo got $word; done; exit 6");
    assert_eq!(run.answer(), "ready");
    for word in ["one", "two"] {
        keyboard.write_all(b"\x1a").unwrap();
        assert_eq!(run.line("job stopped, in the foreground:"), "true");
        writeln!(keyboard, "{word}").unwrap();
        assert_eq!(run.answer(), format!("got {word}"));
    }
    keyboard.write_all(b"\x04").unwrap();
    assert_eq!(run.line("job ended, in the foreground:"), "true");
    assert_eq!(run.end().0, 6);
}
