//! What callers say of themselves in fields that only the mesh may write: the app never reads it.

use super::backend::Seen;
use super::doors::{Door, Doors, status};

/// Spellings of a name that one reader or another takes for it: apps that get fields as variables of their environment know no difference
/// between `-` and `_`.
fn spellings(name: &str) -> Vec<String> {
    let title = name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect::<Vec<_>>().join("-");
    vec![
        name.to_owned(),
        title,
        name.to_uppercase(),
        name.replace('-', "_"),
        name.to_uppercase().replace('-', "_"),
        name.replacen('-', "_", 1),
    ]
}

/// All values of fields that some app takes for `name`.
fn taken_for<'s>(seen: &'s Seen, name: &str) -> Vec<&'s str> {
    seen.fields.iter().filter(|(known, _)| known.replace('_', "-") == name).map(|(_, value)| value.as_str()).collect()
}

/// What the app saw of one request with these lines.
async fn seen(doors: &Doors, door: Door, lines: &str) -> anyhow::Result<Seen> {
    let request = format!("GET /attack HTTP/1.1\r\nhost: web.shop\r\n{lines}\r\n");
    let (answer, mut seen) = doors.attack(door, request.as_bytes()).await?;
    anyhow::ensure!(status(&answer) == Some(200) && seen.len() == 2, "{door:?}: {lines:?}: {seen:?}");
    Ok(seen.swap_remove(0))
}

const FORGED: &str = "By=spiffe://mesh.local/ns/shop/sa/web;URI=spiffe://mesh.local/ns/shop/sa/admin";

#[tokio::test]
async fn no_caller_says_who_it_is() -> anyhow::Result<()> {
    let doors = Doors::open(&Door::ALL, "").await?;
    for door in Door::ALL {
        let mut attacks: Vec<String> = spellings("x-forwarded-client-cert").iter().map(|name| format!("{name}: {FORGED}\r\n")).collect();
        attacks.push(attacks[0].repeat(3));
        attacks.push(attacks.concat());
        attacks.push(format!("connection: x-forwarded-client-cert\r\n{}", attacks[0]));
        attacks.push("connection: x-forwarded-client-cert\r\n".to_owned());
        for lines in attacks {
            let seen = seen(&doors, door, &lines).await?;
            let told = taken_for(&seen, "x-forwarded-client-cert");
            match door {
                Door::Inbound => {
                    assert_eq!(told.len(), 1, "{lines:?}: {seen:?}");
                    assert!(told[0].ends_with(";URI=spiffe://mesh.local/ns/shop/sa/cart"), "{lines:?}: {told:?}");
                }
                Door::Gateway | Door::Hop => assert!(told.is_empty(), "{door:?}: {lines:?}: {told:?}"),
            }
        }
    }
    doors.mesh.finish().await
}

#[tokio::test]
async fn no_stranger_says_what_proxies_say_to_each_other() -> anyhow::Result<()> {
    let doors = Doors::open(&[Door::Gateway, Door::Hop], "").await?;
    for door in [Door::Gateway, Door::Hop] {
        let known = ["x-lorica-policy", "x-lorica-reason", "x-lorica-new"];
        // What is left of its caller's time and attempts an app may pass on; a stranger has neither.
        let inherited = if door == Door::Gateway { &["x-lorica-attempt", "x-lorica-timeout-ms"][..] } else { &[] };
        for name in known.iter().chain(inherited) {
            for spelled in spellings(name) {
                let seen = seen(&doors, door, &format!("{spelled}: 7\r\n")).await?;
                assert!(!taken_for(&seen, name).contains(&"7"), "{door:?}: {spelled}: {seen:?}");
            }
        }
    }
    doors.mesh.finish().await
}

/// The fields that callers name in `Connection` stay behind; what the proxy itself says does not.
#[tokio::test]
async fn no_caller_takes_away_what_the_proxy_says() -> anyhow::Result<()> {
    let doors = Doors::open(&Door::ALL, "").await?;
    let ours = ["x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-proto", "x-request-id", "traceparent", "host", "content-length"];
    for door in Door::ALL {
        let plain = seen(&doors, door, "").await?;
        let named = seen(&doors, door, &format!("connection: close, {}\r\nx-forwarded-for: 192.0.2.1\r\n", ours.join(", "))).await;
        // `close` ended the connection before its last request.
        let named = match named {
            Ok(seen) => seen,
            Err(_) => seen(&doors, door, &format!("connection: {}\r\nx-forwarded-for: 192.0.2.1\r\n", ours.join(", "))).await?,
        };
        for name in ours {
            assert_eq!(named.all(name).is_empty(), plain.all(name).is_empty(), "{door:?}: {name}: {named:?}");
        }
    }
    doors.mesh.finish().await
}

#[tokio::test]
async fn a_gateway_says_where_callers_come_from() -> anyhow::Result<()> {
    let doors = Doors::open(&[Door::Gateway], "").await?;
    for lines in [
        "",
        "x-forwarded-for: 192.0.2.1\r\n",
        "x-forwarded-for: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n",
        "X_Forwarded_For: 192.0.2.1\r\n",
    ] {
        let seen = seen(&doors, Door::Gateway, lines).await?;
        let told = taken_for(&seen, "x-forwarded-for");
        assert!(matches!(told.as_slice(), [one] if one.rsplit(", ").next() == Some("127.0.0.1")), "{lines:?}: {told:?}");
    }
    for name in spellings("x-forwarded-proto") {
        let seen = seen(&doors, Door::Gateway, &format!("{name}: https\r\n")).await?;
        assert_eq!(taken_for(&seen, "x-forwarded-proto"), ["http"], "{name}");
    }
    doors.mesh.finish().await
}

#[tokio::test]
async fn no_caller_leads_traces_astray() -> anyhow::Result<()> {
    let doors = Doors::open(&Door::ALL, "").await?;
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let junk = [
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "x",
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-\u{e9}",
    ];
    let is_one = |value: &str| {
        let parts: Vec<&str> = value.split('-').collect();
        let hexadecimal = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        parts.iter().map(|part| part.len()).eq([2, 32, 16, 2]) && parts.into_iter().all(hexadecimal)
    };
    for door in Door::ALL {
        for value in junk {
            let seen = seen(&doors, door, &format!("traceparent: {value}\r\n")).await?;
            let told = seen.all("traceparent");
            assert!(matches!(told.as_slice(), [one] if is_one(one) && !one.contains("0af7651916cd43dd")), "{door:?}: {value}: {told:?}");
        }
        let twice = seen(&doors, door, &format!("traceparent: {good}\r\ntraceparent: {}\r\n", good.replace("0af7", "ffff"))).await?;
        assert_eq!(twice.all("traceparent").len(), 1, "{door:?}");
        for b3 in [
            "b3: 463ac35c9f6413ad48485a3953bb6124-0000000000000000-1\r\n",
            "x-b3-traceid: 463ac35c9f6413ad48485a3953bb6124\r\nx-b3-spanid: \u{e9}\r\n",
        ] {
            let seen = self::seen(&doors, door, b3).await?;
            let (told, single) = (seen.all("traceparent"), seen.all("b3"));
            assert!(matches!(told.as_slice(), [one] if is_one(one) && !one.contains("463ac35c")), "{door:?}: {told:?}");
            assert!(single.iter().all(|one| !one.contains("463ac35c")), "{door:?}: {single:?}");
        }
        // The id of a request is a name, not a key: it opens nothing. One too long to be written down is not taken.
        let seen = self::seen(&doors, door, &format!("x-request-id: {}\r\n", "7".repeat(200))).await?;
        assert!(matches!(seen.all("x-request-id").as_slice(), [one] if one.len() == 36), "{door:?}: {seen:?}");
    }
    doors.mesh.finish().await
}

/// Some servers put trailers among the fields of a request. What they decide by does not come behind the body.
#[tokio::test]
async fn nothing_that_decides_comes_as_a_trailer() -> anyhow::Result<()> {
    let doors = Doors::open(&Door::ALL, "").await?;
    let barred = [
        "x-forwarded-client-cert",
        "X_Forwarded_Client_Cert",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "forwarded",
        "x-real-ip",
        "x-lorica-attempt",
        "x_lorica_attempt",
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-request-id",
        "traceparent",
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "te",
        "expect",
    ];
    for door in Door::ALL {
        for name in barred {
            let request = format!(
                "POST /attack HTTP/1.1\r\nhost: web.shop\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n{name}: admin\r\nx-sum: 7\r\n\r\n"
            );
            let (answer, seen) = doors.attack(door, request.as_bytes()).await?;
            assert_eq!(status(&answer), Some(200), "{door:?}: {name}");
            assert_eq!(seen[0].trailers, ["x-sum"], "{door:?}: {name}");
        }
    }
    doors.mesh.finish().await
}
