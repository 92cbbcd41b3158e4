//! Prometheus' HTTP API as its clients call it: by GET and as a form, with its errors.

use std::time::SystemTime;

use serde_json::{Value, json};
use testbed::{Mesh, Port, http_get};

use crate::otlp::{Point, tell};
use crate::{get, send};

#[tokio::test]
async fn the_api_answers_as_prometheus_does() -> anyhow::Result<()> {
    let port = Port::free()?;
    let mesh = Mesh::options().control_option("--telemetry").control_option(port.address().to_string()).start().await?;
    let at = i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?;
    let labels = || vec![("of", "a\"b\\c\nd\u{e9}".to_owned())];
    tell(&mesh.socket(), &[Point { name: "asked", labels: labels(), at, value: 2.5 }]).await?;

    let (status, answer) = get(&mesh.socket(), "/api/v1/query?query=asked").await?;
    assert_eq!((status, &answer["status"], &answer["data"]["resultType"]), (200, &json!("success"), &json!("vector")));
    let result = &answer["data"]["result"][0];
    assert_eq!(result["metric"], json!({"__name__": "asked", "of": "a\"b\\c\nd\u{e9}"}));
    assert_eq!(result["value"][1], "2.5");

    // As a form, whose values may be raw, as curl sends them.
    let seconds = at / 1000 + 1;
    for body in [
        format!("query=asked%7Bof%21%3D%22x%22%7D&start={seconds}&end={seconds}&step=15"),
        format!("query=asked{{of!=\"x\"}}&start={seconds}&end={seconds}&step=1m"),
    ] {
        let request = format!(
            "POST /api/v1/query_range HTTP/1.1\r\nhost: control\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, answer) = send(&mesh.socket(), &request).await?;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["data"]["result"][0]["values"], json!([[seconds, "2.5"]]));
    }

    for (path, status, kind, message) in [
        ("query?query=sum(", 400, "bad_data", "invalid parameter \"query\": 1:5: parse error"),
        ("query?query=asked&time=never", 400, "bad_data", "invalid parameter \"time\""),
        ("query_range?query=asked&start=0&end=1&step=0", 400, "bad_data", "zero or negative query resolution"),
        ("query_range?query=asked&start=5&end=1&step=1", 400, "bad_data", "end timestamp must not be before start time"),
        ("query_range?query=asked&start=0&end=99999&step=1", 400, "bad_data", "exceeded maximum resolution"),
        ("query_range?query=asked&end=1&step=1", 400, "bad_data", "invalid parameter \"start\""),
        ("query?query=asked%2Bon()group_left()asked%2Bholt_winters(asked)", 400, "bad_data", "\"holt_winters\" is not answered here"),
        ("series", 400, "bad_data", "no match[] parameter provided"),
        ("series?match[]=rate(asked[5m])", 400, "bad_data", "invalid parameter \"match[]\""),
        ("label/0bad/values", 400, "bad_data", "invalid label name"),
    ] {
        let (found, answer) = get(&mesh.socket(), &format!("/api/v1/{path}")).await?;
        assert_eq!((found, &answer["status"], &answer["errorType"]), (status, &json!("error"), &json!(kind)), "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(message), "{path}: {answer}");
    }

    let data = async |path: &str| anyhow::Ok(get(&mesh.socket(), &format!("/api/v1/{path}")).await?.1["data"].clone());
    assert_eq!(data("metadata?metric=asked").await?, json!({"asked": [{"type": "gauge", "help": "", "unit": ""}]}));
    assert!(data("status/config").await?["yaml"].as_str().unwrap().contains("scrape_interval"));
    assert!(data("status/runtimeinfo").await?["storageRetention"].is_string());
    assert_eq!(data("status/buildinfo").await?["version"], "2.42.0");

    // On the port of telemetry all of it is the same.
    let reply = http_get(port.address(), "telemetry", "/api/v1/label/of/values?match[]=asked").await?;
    assert_eq!(reply.json::<Value>()?["data"], json!(["a\"b\\c\nd\u{e9}"]));
    mesh.finish().await
}
