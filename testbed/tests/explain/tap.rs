//! Taps: what they show, what they leave out, and that nothing is harmed by them.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use testbed::{HttpConnection, PATIENCE, Running, eventually, http_get, http_send};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::rig::Shop;

fn tap(shop: &Shop, arguments: &[&str]) -> anyhow::Result<Running> {
    let all = ["tap", "-o", "json"].iter().chain(arguments);
    shop.mesh.start_binary(&format!("lorica tap {}", arguments.join(" ")), all, Vec::new(), None)
}

/// The requests that a tap has shown.
fn shown(said: &str) -> anyhow::Result<Vec<Value>> {
    let lines = said.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    Ok(lines.into_iter().filter(|line| !line["request"].is_null()).map(|mut line| line["request"].take()).collect())
}

/// A tap that has begun at so many proxies; they attend the control plane a moment after they are there.
async fn tapping(shop: &Shop, arguments: &[&str], proxies: usize) -> anyhow::Result<Running> {
    let begin = || async {
        let running = tap(shop, arguments)?;
        begun(&running, proxies).await?;
        Ok(running)
    };
    eventually("a tap begins at all of them", PATIENCE, begin).await
}

/// Waits until the tap has begun, and holds it against the number of proxies.
async fn begun(tap: &Running, proxies: usize) -> anyhow::Result<()> {
    let line = tap.line("begun").await?;
    let line: Value = serde_json::from_str(&line)?;
    ensure!(line["begun"]["proxies"] == proxies, "{line}");
    Ok(())
}

#[tokio::test]
async fn a_tap_shows_requests_and_no_secrets() -> anyhow::Result<()> {
    let mut shop = Shop::start().await?;
    shop.client().await?;
    let tapping =
        tapping(&shop, &["service/back.shop", "--filter", "request.path.startsWith('/shown') && response.code == 200", "--count", "1"], 1)
            .await?;
    for path in ["/hidden", "/shown?a=b"] {
        let request = Request::get(path).header("host", "back.shop").header("authorization", "Bearer secret").header("cookie", "secret=1");
        let request = request.header("x-long", "l".repeat(20_000)).body(Full::<Bytes>::default())?;
        assert_eq!(http_send(shop.to_back.address(), request).await?.status, 200);
    }
    let said = tapping.output(PATIENCE).await?.success()?.stdout;
    let shown = shown(&said)?;
    let [one] = shown.as_slice() else { anyhow::bail!("one request was to be shown: {said}") };
    assert_eq!((&one["path"], &one["status"], &one["side"]), (&"/shown?a=b".into(), &200.into(), &"destination".into()), "{one:#}");
    ensure!(!said.contains("secret"), "{said}");
    ensure!(one["response_fields"].as_array().is_some_and(|fields| fields.contains(&serde_json::json!(["x-app", "back"]))), "{one:#}");
    // What is long is cut, and said to be.
    let long = one["request_fields"].as_array().context("fields")?.iter().find(|field| field[0] == "x-long").context("x-long")?;
    ensure!(long[1].as_str().is_some_and(|value| value.len() < 300 && value.ends_with('…')), "{long}");
    shop.finish().await
}

#[tokio::test]
async fn only_what_failed_where_that_is_asked_for() -> anyhow::Result<()> {
    let mut shop = Shop::start().await?;
    shop.client().await?;
    let tapping = tapping(&shop, &["deploy/back.shop", "--failed", "--count", "1"], 1).await?;
    shop.back.statuses.lock().unwrap().extend([200, 404, 500]);
    for path in ["/well", "/missing", "/broken"] {
        http_get(shop.to_back.address(), "back.shop", path).await?;
    }
    let shown = shown(&tapping.output(PATIENCE).await?.success()?.stdout)?;
    assert_eq!(shown.iter().map(|one| one["path"].as_str()).collect::<Vec<_>>(), [Some("/broken")]);
    shop.finish().await
}

#[tokio::test]
async fn a_header_of_ten_megabytes_harms_nothing() -> anyhow::Result<()> {
    let mut shop = Shop::start().await?;
    shop.client().await?;
    let tapping = tapping(&shop, &["--count", "3"], 3).await?;
    let mut stream = TcpStream::connect(shop.to_back.address()).await?;
    let (mut reading, mut writing) = stream.split();
    let send = async {
        writing.write_all(b"GET / HTTP/1.1\r\nhost: back.shop\r\nx-long: ").await?;
        let piece = vec![b'a'; 1024 * 1024];
        for _ in 0..10 {
            writing.write_all(&piece).await?;
        }
        writing.write_all(b"\r\n\r\n").await
    };
    let read = async {
        let mut answer = Vec::new();
        // It may be reset, as nobody reads the rest.
        drop(reading.read_to_end(&mut answer).await);
        answer
    };
    let (_, answer) = tokio::join!(send, read);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    // One after it goes its way as ever: by the client's proxy, and by those of both services.
    http_get(shop.to_front.address(), "front.shop", "/after").await?;
    let said = tapping.output(PATIENCE).await?.success()?.stdout;
    ensure!(shown(&said)?.iter().all(|one| one["path"] == "/after"), "{said}");
    ensure!(said.len() < 100_000, "{}", said.len());
    shop.finish().await
}

#[tokio::test]
async fn who_reads_a_tap_slowly_holds_nobody_up_and_is_told_what_was_lost() -> anyhow::Result<()> {
    const REQUESTS: usize = 3000;
    let mut shop = Shop::start().await?;
    shop.client().await?;
    let mut reader = UnixStream::connect(shop.mesh.socket()).await?;
    let asked = "GET /v1/tap?target=service%2Fback.shop&rate=10000&seconds=600 HTTP/1.1\r\nhost: control.lorica\r\n\r\n";
    reader.write_all(asked.as_bytes()).await?;
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("begun") {
        ensure!(reader.read_buf(&mut said).await? > 0, "the tap did not begin: {}", String::from_utf8_lossy(&said));
    }
    // Nobody reads while these pass: more than what fits on the way.
    let mut connection = HttpConnection::open(shop.to_back.address()).await?;
    for number in 0..REQUESTS {
        let request = Request::get(format!("/{number}")).header("host", "back.shop").header("x-long", "l".repeat(4000));
        assert_eq!(connection.send(request.body(Full::<Bytes>::default())?).await?.status, 200);
    }
    let counted = async {
        let mut lost = 0;
        loop {
            let text = String::from_utf8_lossy(&said).into_owned();
            let lines: Vec<Value> =
                text.lines().filter(|line| line.ends_with('}')).filter_map(|line| serde_json::from_str(line).ok()).collect();
            lost = lines.iter().filter_map(|line| line["dropped"]["requests"].as_u64()).sum::<u64>().max(lost);
            let shown = lines.iter().filter(|line| !line["request"].is_null()).count();
            if u64::try_from(shown)? + lost >= u64::try_from(REQUESTS)? {
                return anyhow::Ok((shown, lost));
            }
            ensure!(reader.read_buf(&mut said).await? > 0, "the tap broke off: {shown} shown, {lost} lost");
        }
    };
    let (shown, lost) = tokio::time::timeout(PATIENCE, counted).await??;
    assert_eq!(shown + usize::try_from(lost)?, REQUESTS);
    ensure!(lost > 0, "all of {shown} fitted on the way");
    // Its end is heard of by all who show.
    drop(reader);
    eventually("others may tap", PATIENCE, || async {
        let tapping = tap(&shop, &["service/back.shop", "--for", "1s"])?;
        tapping.output(PATIENCE).await?.success()?;
        Ok(())
    })
    .await?;
    shop.finish().await
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_its_reason() -> anyhow::Result<()> {
    let shop = Shop::start().await?;
    for (arguments, why) in [
        (["--filter", "request.path =="].as_slice(), "the condition `request.path ==` is none"),
        (&["statefulset/back.shop"], "is no target"),
        (&["--rate", "0"], "a rate is from 1"),
        (&["--for", "2h"], "a tap lives from 1 to 600 seconds"),
    ] {
        let refused = shop.mesh.lorica(["tap"].iter().chain(arguments)).await?;
        ensure!(refused.code() == 1 && refused.stderr.contains(why), "{refused:?}");
    }
    shop.finish().await
}
