//! What the test binary is when it re-executes itself: supervisor, helper, a proxy that says what
//! reaches it, and small apps.

use std::{
    io::{BufRead, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::ExitCode,
    time::Duration,
};

use lorica_capture::{
    AppListener, Family, FromProxy, ListenerLabel, Mode, ProxyChannel, Publish, RunSpec, SocketSource, ToProxy, Upstream, helper_main,
    original_destination, probe, supervise,
};
use rustix::{
    event::{PollFd, PollFlags},
    process::{Pid, Signal, WaitOptions},
};

pub(crate) const VIRTUAL_V4: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 9);
pub(crate) const VIRTUAL_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
pub(crate) const CALLER_V4: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 77);
pub(crate) const CALLER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x77);

/// A line to standard error in one write: the processes of a test share it.
macro_rules! say {
    ($($text:tt)*) => {
        std::io::stderr().write_all(format!("{}\n", format_args!($($text)*)).as_bytes()).unwrap()
    };
}

pub(crate) fn play(role: &str, arguments: &[String]) -> ExitCode {
    let first = arguments.first().map(String::as_str).unwrap_or_default();
    match role {
        "supervise" => return supervisor(arguments),
        "helper" => return helper_main(),
        "shell" => return shell(arguments),
        "probe" => {
            if let Err(missing) = probe(&["role-helper".into()]) {
                println!("{missing}");
                return ExitCode::from(3);
            }
        }
        "proxy" => Proxy::run(first),
        "connect" => println!("{}", talk(first)),
        "connect-each" => {
            for line in std::io::stdin().lock().lines() {
                println!("{}", talk(&line.unwrap()));
            }
        }
        "udp" => println!("{}", datagram(first)),
        "serve" => serve(arguments),
        "tree" => tree(),
        "wait" => {
            say!("waiting pid={}", std::process::id());
            loop {
                std::thread::park();
            }
        }
        "nft" => return nft(first),
        other => panic!("no role {other}"),
    }
    ExitCode::SUCCESS
}

fn supervisor(arguments: &[String]) -> ExitCode {
    let split = arguments.iter().position(|argument| argument == "--").unwrap();
    let app = arguments[split + 1..].iter().map(Into::into).collect();
    let mut behaviour = String::new();
    let mut spec = RunSpec::new(app, Vec::new(), vec!["role-helper".into()]);
    for option in arguments[..split].chunks(2) {
        let value = option[1].as_str();
        match option[0].as_str() {
            "proxy" => behaviour = value.to_owned(),
            "app-port" => spec.app_ports.push(value.parse().unwrap()),
            "host-port" => spec.host_ports.push(value.parse().unwrap()),
            "mask" => spec.masked_directories.push(value.into()),
            "drain-ms" => spec.drain_deadline = Duration::from_millis(value.parse().unwrap()),
            "outbound-sockets" => spec.outbound_sockets = value.parse().unwrap(),
            "publish" => spec.publish.push(Publish { host: (Ipv4Addr::LOCALHOST, 0).into(), app_port: value.parse().unwrap() }),
            "explicit" => {
                let upstream = Upstream { name: value.to_owned(), port: 80, local_addr: (Ipv4Addr::LOCALHOST, 0).into() };
                spec.mode = Mode::Explicit { upstreams: vec![upstream] };
            }
            other => panic!("no option {other}"),
        }
    }
    spec.proxy_arguments = vec!["role-proxy".into(), behaviour.into()];
    match supervise(spec, &mut |line| say!("notice: {line}")) {
        Ok(code) => code.into(),
        Err(error) => {
            say!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A proxy that answers everything by itself and writes what it sees.
struct Proxy {
    behaviour: String,
    channel: ProxyChannel,
    listeners: Vec<(ListenerLabel, OwnedFd)>,
    source: Option<SocketSource>,
    to_dial: Vec<AppListener>,
}

impl Proxy {
    fn run(behaviour: &str) {
        if behaviour == "crash" {
            std::process::exit(9);
        }
        let mut proxy = Self {
            behaviour: behaviour.to_owned(),
            channel: ProxyChannel::from_env().unwrap(),
            listeners: Vec::new(),
            source: None,
            to_dial: Vec::new(),
        };
        say!("proxy pid={}", std::process::id());
        loop {
            let ready = {
                let mut polled = vec![PollFd::new(&proxy.channel, PollFlags::IN)];
                polled.extend(proxy.source.iter().map(|source| PollFd::new(source, PollFlags::IN)));
                let sources = polled.len();
                polled.extend(proxy.listeners.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)));
                rustix::event::poll(&mut polled, None).unwrap();
                let ready = polled[sources..].iter().enumerate();
                ready.filter(|(_, fd)| !fd.revents().is_empty()).map(|(n, _)| n).collect::<Vec<_>>()
            };
            for number in ready {
                let (label, fd) = &proxy.listeners[number];
                answer(label, fd.as_fd());
            }
            if proxy.source.is_some() {
                proxy.dial();
            }
            loop {
                match proxy.channel.try_receive() {
                    Ok(Some(message)) => proxy.take(message),
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
    }

    fn take(&mut self, message: ToProxy) {
        match message {
            ToProxy::Listener { label, socket } => {
                let address = socket2::SockRef::from(&socket).local_addr().unwrap();
                say!("listener {label:?} at {}", address.as_socket().unwrap());
                self.listeners.push((label, socket));
            }
            ToProxy::HostListenersSent => match self.behaviour.as_str() {
                "refuse" => {
                    let message = "no control plane at x\n  hint: start one".to_owned();
                    self.channel.send(&FromProxy::Failed { message }).unwrap();
                    std::process::exit(1);
                }
                "silent" => say!("silent"),
                _ => self
                    .channel
                    .send(&FromProxy::Prepared {
                        virtual_v4: VIRTUAL_V4,
                        virtual_v6: Some(VIRTUAL_V6),
                        known_names: vec!["recording".to_owned()],
                    })
                    .unwrap(),
            },
            ToProxy::SocketChannel(fd) => self.source = Some(SocketSource::new(fd).unwrap()),
            ToProxy::AllListenersSent => self.channel.send(&FromProxy::Serving).unwrap(),
            ToProxy::Listening { listeners } => {
                say!("listening {listeners:?}");
                if self.behaviour == "dial" {
                    let source = self.source.as_ref().unwrap();
                    for listener in listeners {
                        source.request(Family::from(listener.address), 32).unwrap();
                        self.to_dial.push(listener);
                    }
                }
            }
            ToProxy::Drain { .. } => {
                say!("drain");
                if self.behaviour != "never-drained" {
                    self.channel.send(&FromProxy::Drained).unwrap();
                }
            }
            ToProxy::AppEnded => {
                say!("app-ended");
                std::process::exit(0);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Calls the app from a caller's virtual address, with a socket of its namespace.
    fn dial(&mut self) {
        while let Ok(Some(batch)) = self.source.as_ref().unwrap().try_receive_batch() {
            assert_eq!((batch.sockets.len(), batch.refused), (32, None));
            let fits = |to: &AppListener| Family::from(to.address) == batch.family;
            let Some(found) = self.to_dial.iter().position(fits) else { continue };
            let listener = self.to_dial.remove(found);
            let caller: IpAddr = match batch.family {
                Family::V4 => CALLER_V4.into(),
                Family::V6 => CALLER_V6.into(),
            };
            let socket = socket2::Socket::from(batch.sockets.into_iter().next().unwrap());
            socket.set_nonblocking(false).unwrap();
            socket.bind(&SocketAddr::new(caller, 0).into()).unwrap();
            socket.connect(&listener.socket_address().into()).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.write_all(b"ping").unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            say!("dialled {} {reply}", listener.socket_address());
        }
    }
}

fn answer(label: &ListenerLabel, fd: BorrowedFd<'_>) {
    if *label == ListenerLabel::DnsUdp {
        let socket = UdpSocket::from(fd.try_clone_to_owned().unwrap());
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let reply = [b"dns over udp: ", &bytes[..length]].concat();
            socket.send_to(&reply, from).unwrap();
        }
        return;
    }
    let listener = TcpListener::from(fd.try_clone_to_owned().unwrap());
    while let Ok((mut stream, _)) = listener.accept() {
        stream.set_nonblocking(false).unwrap();
        let reply = match label {
            ListenerLabel::Outbound => {
                format!("outbound to {}", original_destination(stream.as_fd()).unwrap())
            }
            ListenerLabel::HostPort { port } => talk(&format!("127.0.0.1:{port}")),
            other => format!("{other:?}"),
        };
        stream.write_all(reply.as_bytes()).unwrap();
    }
}

fn talk(address: &str) -> String {
    let mut reply = String::new();
    match TcpStream::connect(address).and_then(|mut stream| stream.read_to_string(&mut reply)) {
        Ok(_) => reply,
        Err(error) => format!("error: {error}"),
    }
}

/// The answer to a datagram, or the error it met with: a hang shows as `WouldBlock`.
fn datagram(address: &str) -> String {
    let local: IpAddr = match address.parse().unwrap() {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((local, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut bytes = [0; 512];
    let exchanged = socket.connect(address).and_then(|()| socket.send(b"question")).and_then(|_| socket.recv(&mut bytes));
    match exchanged {
        Ok(length) => String::from_utf8_lossy(&bytes[..length]).into_owned(),
        Err(error) => format!("error: {:?}", error.kind()),
    }
}

/// Accepts one connection at each address and tells the caller who it is.
fn serve(addresses: &[String]) {
    let listeners: Vec<_> = addresses.iter().map(|address| TcpListener::bind(address).unwrap()).collect();
    for listener in listeners {
        let (mut stream, peer) = listener.accept().unwrap();
        let mut question = [0; 4];
        stream.read_exact(&mut question).unwrap();
        write!(stream, "{} from {}", String::from_utf8_lossy(&question), peer.ip()).unwrap();
    }
}

/// Leaves a grandchild in a session of its own, which no group signal reaches.
fn tree() {
    let me = std::env::current_exe().unwrap();
    let script = "setsid \"$0\" role-wait & exec \"$0\" role-wait";
    let mut child = std::process::Command::new("sh").args(["-c", script]).arg(me).spawn().unwrap();
    child.wait().unwrap();
}

/// The rules in another process's network namespace, as nft shows them.
fn nft(pid: &str) -> ExitCode {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network)).unwrap();
    let status = std::process::Command::new("nft").args(["list", "ruleset"]).status();
    ExitCode::from(u8::from(!status.is_ok_and(|status| status.success())))
}

/// What an interactive shell does for one job: gives it the terminal, and continues it in the
/// foreground when it was stopped.
fn shell(arguments: &[String]) -> ExitCode {
    let me = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(me);
    command.arg("role-supervise").args(arguments).process_group(0);
    // SAFETY: system calls only. The signal mask is the child's own by then.
    unsafe {
        command.pre_exec(|| {
            block_background_output();
            let own = rustix::process::getpid();
            Ok(rustix::termios::tcsetpgrp(rustix::stdio::stdin(), own)?)
        });
    }
    let job = Pid::from_child(&command.spawn().unwrap());
    block_background_output();
    loop {
        let waited = rustix::process::waitpid(Some(job), WaitOptions::UNTRACED).unwrap();
        let (_, status) = waited.unwrap();
        if let Some(code) = status.exit_status() {
            let foreground = rustix::termios::tcgetpgrp(rustix::stdio::stdin()).unwrap();
            say!("job ended, in the foreground: {}", foreground == job);
            return ExitCode::from(u8::try_from(code).unwrap());
        }
        if status.stopped() {
            let foreground = rustix::termios::tcgetpgrp(rustix::stdio::stdin()).unwrap();
            say!("job stopped, in the foreground: {}", foreground == job);
            rustix::termios::tcsetpgrp(rustix::stdio::stdin(), job).unwrap();
            rustix::process::kill_process_group(job, Signal::CONT).unwrap();
        }
    }
}

fn block_background_output() {
    // SAFETY: the set is initialized by sigemptyset before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTTOU);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}
