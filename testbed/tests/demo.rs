//! The demo, as a newcomer without privileges runs it: every call is accounted for, and nothing is left behind.

use std::time::Duration;

use testbed::{Mesh, Peer, Who, can_namespaces, left_out, peer};

/// Some seconds of calls; more than the demo needs to start and end on a busy machine.
const WITHIN: Duration = Duration::from_secs(150);

async fn demo(arguments: &[&str]) -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().without_control()?;
    let lorica = mesh.program(testbed::lorica()?)?;
    let mut command = vec!["demo", "--headless", "--minutes", "0.1"];
    command.extend(arguments);
    let ended = mesh.start_outside(&lorica, command)?.output(WITHIN).await?.success()?;
    let summary = ended.stdout.lines().find(|line| line.starts_with("calls ")).unwrap_or_default().to_owned();
    assert!(summary.contains(" failed 0 "), "{}\n{}", ended.stdout, ended.stderr);
    mesh.finish().await
}

#[tokio::test]
async fn it_answers_every_call_captured() -> anyhow::Result<()> {
    if let Err(why) = can_namespaces(Who::Nobody) {
        left_out(&format!("the captured demo: {why}"));
        return Ok(());
    }
    demo(&[]).await
}

#[tokio::test]
async fn it_answers_every_call_without_namespaces() -> anyhow::Result<()> {
    demo(&["--no-capture"]).await
}

/// Looks at every packet on the loopback of a network of its own while the demo runs in it. What goes to a proxy's inbound port
/// must be TLS, both ways.
const LISTENER: &str = r#"
import fcntl, json, os, socket, struct, subprocess, sys, time
lorica, home = sys.argv[1:3]
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(control, 0x8914, struct.pack('16sH14x', b'lo', 0x49))
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
tap.bind(('lo', 0))
tap.setblocking(False)
demo = subprocess.Popen([lorica, 'demo', '--headless', '--minutes', '0.1'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ, TMPDIR=home))
first, ports = {}, set()
def status():
    for name in os.listdir(home):
        sock = os.path.join(home, name, 'run/lorica/control.sock')
        if name.startswith('lorica-demo-') and os.path.exists(sock):
            reply = subprocess.run([lorica, '--server', 'unix://' + sock, 'status', '-o', 'json'], capture_output=True, text=True)
            if reply.returncode == 0:
                for proxy in json.loads(reply.stdout)['proxies']:
                    ports.update(int(port['address'].rsplit(':', 1)[1]) for port in proxy['ports'])
asked = 0
while demo.poll() is None:
    if time.monotonic() - asked > 1:
        asked = time.monotonic()
        status()
    try:
        packet = tap.recv(65535)
    except BlockingIOError:
        time.sleep(0.001)
        continue
    ip = packet[14:]
    if len(ip) < 40 or ip[0] >> 4 != 4 or ip[9] != 6:
        continue
    head = (ip[0] & 15) * 4
    source, target = struct.unpack('!HH', ip[head:head + 4])
    data = ip[head + (ip[head + 12] >> 4) * 4:struct.unpack('!H', ip[2:4])[0]]
    if data:
        first.setdefault((source, target), data[:3])
between = {flow: data for flow, data in first.items() if flow[0] in ports or flow[1] in ports}
plain = {flow: data for flow, data in between.items() if data[0] not in (0x14, 0x15, 0x16, 0x17) or data[1] != 3}
print(demo.stdout.read())
print(json.dumps({'code': demo.returncode, 'ports': len(ports), 'flows': len(between), 'plain': [str(flow) for flow in plain]}))
"#;

#[tokio::test]
async fn only_tls_passes_between_proxies() -> anyhow::Result<()> {
    if let Err(why) = can_namespaces(Who::Nobody) {
        left_out(&format!("the look at the proxies' connections: {why}"));
        return Ok(());
    }
    let Some(unshare) = ["/usr/bin/unshare", "/bin/unshare"].into_iter().find(|path| std::path::Path::new(path).exists()) else {
        left_out("the look at the proxies' connections: there is no `unshare` program");
        return Ok(());
    };
    let mesh = Mesh::as_nobody().without_control()?;
    let python = peer(Peer::Python).map_err(anyhow::Error::msg)?;
    let lorica = mesh.program(testbed::lorica()?)?;
    let script = mesh.write("listen.py", LISTENER)?;
    let home = mesh.home();
    let namespaces = ["--user", "--map-root-user", "--net", "--"].map(std::ffi::OsStr::new);
    let command = [python.as_os_str(), script.as_os_str(), lorica.as_os_str(), home.as_os_str()];
    let looked = mesh.start_outside(unshare, namespaces.into_iter().chain(command))?.output(WITHIN).await?.success()?;
    let seen: serde_json::Value = serde_json::from_str(looked.stdout.lines().last().unwrap_or_default())?;
    assert_eq!(seen["code"], 0, "{}", looked.stdout);
    assert_eq!(seen["plain"], serde_json::json!([]), "{seen}");
    assert!(seen["flows"].as_u64() > Some(20), "{seen}");
    mesh.finish().await
}
