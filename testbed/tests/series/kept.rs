//! What is kept, and what becomes of it when the control plane is killed.

use std::time::SystemTime;

use testbed::Mesh;

use crate::ask;
use crate::otlp::{Point, tell};

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn point(of: &str, at: i64, value: f64) -> Point {
    Point { name: "kept", labels: vec![("of", of.to_owned())], at, value }
}

#[tokio::test]
async fn what_was_answered_for_is_there_after_a_kill() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let begin = now() - 60_000;
    for round in 0..4_i32 {
        let points: Vec<Point> =
            (0..50).map(|of| point(&of.to_string(), begin + i64::from(round) * 10_000, f64::from(round) + f64::from(of))).collect();
        assert_eq!(tell(&mesh.socket(), &points).await?, None);
        mesh.kill_control().await?;
        mesh.start_control().await?;
        let found = ask(&mesh.socket(), "count_over_time(kept[5m])").await?;
        assert_eq!(found.len(), 50, "after {round}");
        assert!(found.iter().all(|(_, count)| (*count - f64::from(round + 1)).abs() < f64::EPSILON), "{found:?}");
    }
    let found = ask(&mesh.socket(), "sum(kept)").await?;
    assert_eq!(found, [(serde_json::json!({}), f64::from(50 * 3 + 49 * 25))]);
    mesh.finish().await
}

#[tokio::test]
async fn what_cannot_be_kept_is_told_to_whoever_sent_it() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let at = now();
    assert_eq!(tell(&mesh.socket(), &[point("a", at, 1.0)]).await?, None);
    let refused =
        tell(&mesh.socket(), &[point("a", at - 5, 1.0), point("b", at - 48 * 3_600_000, 1.0), point("c", at, 2.0)]).await?.unwrap();
    assert_eq!(refused.rejected_data_points, 2);
    assert!(refused.error_message.contains("newer"), "{}", refused.error_message);
    assert_eq!(ask(&mesh.socket(), "count(kept)").await?.first().map(|(_, count)| *count), Some(2.0));
    mesh.finish().await
}
