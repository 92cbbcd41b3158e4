//! `lorica demo`: a control plane, a contact centre on it, and customers who call; all of it ends with this process.

mod cast;
mod screen;
mod sight;
mod troupe;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use contact_centre::report::Report;
use lorica_api::{ApiClient, ApplyRequest, NamedText, Server, Status};
use lorica_cli::args::DemoArgs;
use lorica_cli::printer::Printer;
use tokio::signal::unix::{SignalKind, signal};

use self::cast::Reach;
use self::sight::Sight;
use self::troupe::{Doors, Running, Stage};

/// How long control plane and services may take to be ready. They take one or two seconds; slow machines get more.
const READY: Duration = Duration::from_secs(60);

/// Runs the demo to its end.
pub(crate) fn demo(arguments: DemoArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    // Before any thread is there: it re-executes this binary to find out.
    let captured = !arguments.no_capture && can_capture(printer);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(play(&arguments, captured, printer))
}

fn can_capture(printer: &mut Printer) -> bool {
    match lorica_capture::probe(&[lorica_capture::HELPER.into()]) {
        Ok(()) => true,
        Err(missing) => {
            printer.warning(&format!("{missing}"));
            printer
                .note("The demo goes on with explicit listeners: every program gets local addresses that stand for the services it calls.");
            false
        }
    }
}

async fn play(arguments: &DemoArgs, captured: bool, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut stopped = std::pin::pin!(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    });
    let stage = Stage::new()?;
    let mut company = Company::default();
    let played = tokio::select! {
        played = perform(arguments, captured, &stage, &mut company, begun, printer) => played,
        () = &mut stopped => Ok(()),
    };
    // A second Ctrl-C must not cut the clean-up short; it takes seconds.
    let ended = company.end(&stage, printer).await;
    played?;
    let report = ended?;
    summary(&report, printer)
}

/// Everything that runs, in the order in which it is ended.
#[derive(Default)]
struct Company {
    caller: Option<Running>,
    services: Vec<Running>,
    control: Option<Running>,
}

impl Company {
    /// The first that ended unasked, and how.
    fn fallen(&mut self) -> Option<(String, String)> {
        let everyone = self.caller.iter_mut().chain(&mut self.services).chain(&mut self.control);
        everyone.into_iter().find_map(|running| running.ended().map(|how| (running.name.clone(), how)))
    }

    /// Ends the callers first, so that no call is cut off, then the services, then the control plane.
    async fn end(self, stage: &Stage, printer: &mut Printer) -> anyhow::Result<Option<Report>> {
        let Self { caller, services, control } = self;
        let mut failures = Vec::new();
        let mut report = None;
        if let Some(caller) = caller {
            printer.note("ending the calls under way …");
            caller.ask();
            failures.extend(caller.end().await.err());
            report = read_report(stage);
        }
        if !services.is_empty() {
            printer.note("ending the services …");
        }
        services.iter().for_each(Running::ask);
        for service in services {
            failures.extend(service.end().await.err());
        }
        if let Some(control) = control {
            control.ask();
            failures.extend(control.end().await.err());
        }
        match failures.into_iter().next() {
            None => Ok(report),
            Some(failure) => Err(failure),
        }
    }
}

async fn perform(
    arguments: &DemoArgs,
    captured: bool,
    stage: &Stage,
    company: &mut Company,
    begun: Instant,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    let mut free = free_ports();
    printer.note("starting the control plane …");
    let doors = Doors { otlp: free()?, otlp_http: free()? };
    let control = company.control.insert(stage.control(&doors)?);
    if let Err(error) = troupe::answers(&stage.socket(), control, READY).await {
        bail!("{error}\n  {}", stage.last_words("control"));
    }
    let api = ApiClient::new(Server::Unix(stage.socket()));
    let request = ApplyRequest {
        files: vec![NamedText { name: "demo.yaml".to_owned(), text: cast::RESOURCES.to_owned() }],
        allow_missing: true,
        ..ApplyRequest::default()
    };
    api.apply(&request, Duration::ZERO).await.context("the contact centre's resources were refused")?;
    let mut reach = if captured { Reach::Captured } else { Reach::Explicit(&mut free) };
    let parts = cast::services(&mut reach)?;
    printer.note(&format!("starting {} workloads of the contact centre …", parts.len()));
    for part in &parts {
        company.services.push(stage.workload(part)?);
    }
    ready(&api, parts.len(), stage, company).await?;
    let caller = cast::caller(&mut reach, arguments.rate, &stage.report())?;
    company.caller = Some(stage.workload(&caller)?);
    let telemetry = api.status().await?.telemetry;
    introduce(captured, telemetry, stage, &doors, begun, printer);
    watch(arguments, stage, company, &api, printer).await
}

/// Waits until every workload is registered and its app listens.
async fn ready(api: &ApiClient, workloads: usize, stage: &Stage, company: &mut Company) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY;
    loop {
        let status: Status = api.status().await?;
        let listening = status
            .proxies
            .iter()
            .filter(|proxy| !proxy.ports.is_empty() && proxy.ports.iter().all(|port| proxy.listening.contains(&port.app_port)));
        if listening.count() >= workloads {
            return Ok(());
        }
        standing(stage, company)?;
        if Instant::now() > deadline {
            bail!("the contact centre was not ready within {} s\nhint: its logs are in {}", READY.as_secs(), stage.logs().display());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Fails where something ended unasked.
fn standing(stage: &Stage, company: &mut Company) -> anyhow::Result<()> {
    match company.fallen() {
        None => Ok(()),
        Some((name, how)) => bail!("{name} ended with {how}\n  {}", stage.last_words(&name)),
    }
}

fn introduce(captured: bool, telemetry: Option<SocketAddr>, stage: &Stage, doors: &Doors, begun: Instant, printer: &mut Printer) {
    let lorica = std::env::current_exe().map_or_else(|_| "lorica".to_owned(), |path| shortened(&path));
    let server = format!("unix://{}", stage.socket().display());
    let way = if captured { "captured: the programs know nothing of the mesh" } else { "through explicit listeners" };
    printer.note(&format!("\nThe contact centre runs on the mesh after {:.1} s, {way}.", begun.elapsed().as_secs_f64()));
    printer.note(&format!(
        "  API        {server}\n  state      {}\n  logs       {}\n  OTLP       127.0.0.1:{} (HTTP 127.0.0.1:{})\n{}\nFive things to try, in another terminal, after\n  export LORICA_SERVER={server}",
        stage.state().display(),
        stage.logs().display(),
        doors.otlp,
        doors.otlp_http,
        telemetry.map(|address| format!("  telemetry  http://{address}: /metrics, /sd/proxies and Jaeger's /api\n")).unwrap_or_default()
    ));
    for (number, (what, command)) in cast::things_to_try(&lorica, captured).into_iter().enumerate() {
        printer.note(&format!("  {}. {what}\n     {command}", number + 1));
    }
    printer.note("\nCtrl-C ends everything and leaves nothing behind.\n");
}

/// A path as short as it can be typed from here.
fn shortened(path: &std::path::Path) -> String {
    let here = std::env::current_dir().ok();
    let inside = here.and_then(|here| path.strip_prefix(here).ok().map(|inside| format!("./{}", inside.display())));
    inside.unwrap_or_else(|| path.display().to_string())
}

async fn watch(arguments: &DemoArgs, stage: &Stage, company: &mut Company, api: &ApiClient, printer: &mut Printer) -> anyhow::Result<()> {
    let end = arguments.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64((minutes * 60.0).clamp(0.0, 1e9)));
    let mut view = screen::View::open(arguments.headless)?;
    let mut sight = Sight::default();
    let mut tick = tokio::time::interval(view.interval());
    loop {
        tick.tick().await;
        standing(stage, company)?;
        let status = api.status().await?;
        sight.look(&status).await;
        if view.show(&sight, read_report(stage).as_ref(), printer)? == screen::Wish::End || end.is_some_and(|end| Instant::now() >= end) {
            return Ok(());
        }
    }
}

fn read_report(stage: &Stage) -> Option<Report> {
    serde_json::from_slice(&std::fs::read(stage.report()).ok()?).ok()
}

/// The last word: what became of every call. Exit code 0 only if each was answered as expected.
fn summary(report: &Option<Report>, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let Some(report) = report else {
        printer.note("ended before the first call");
        return Ok(ExitCode::FAILURE);
    };
    printer.data(&format!(
        "calls {}  answered {}  failed {}  recorded {}  not recorded {}  p50 {:.1} ms  p99 {:.1} ms",
        report.calls, report.answered, report.failed, report.recorded, report.not_recorded, report.p50_ms, report.p99_ms
    ));
    for failure in &report.first_failures {
        printer.data(&format!("  {failure:?}"));
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ports that were free a moment ago, each once. None of those from which the kernel takes the near end of connections (from 32768 on), as one
/// of these may be in use again before its service listens. Demos begin far from one another.
fn free_ports() -> impl FnMut() -> std::io::Result<u16> {
    const PORTS: std::ops::Range<u16> = 10_000..20_000;
    let count = u32::from(PORTS.end - PORTS.start);
    let first = std::process::id().wrapping_mul(37) % count;
    let mut left = (0..count).filter_map(move |step| u16::try_from((first + step) % count).ok()).map(|offset| PORTS.start + offset);
    move || {
        let free = left.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
        free.ok_or_else(|| std::io::Error::other("no port of 127.0.0.1 from 10000 to 19999 is free"))
    }
}
