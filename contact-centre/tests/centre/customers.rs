//! customer-history over HTTP.

use contact_centre::customer_history;

use crate::harness::{Running, json};

#[tokio::test]
async fn customers_are_known_and_their_calls_added() {
    let service = Running::start(|listener, stop| customer_history::serve(listener, Default::default(), stop)).await;
    let http = service.http();
    let customer = json(&http.get("/customers/c0042").await);
    for field in ["name", "language", "tier"] {
        assert!(customer[field].is_string(), "{customer}");
    }
    assert_eq!(customer["last_calls"].as_array().unwrap().len(), 0);
    for call in 0..25 {
        let body = format!(r#"{{"call_id":"call-{call}","skill":"sales","seconds":60}}"#);
        assert_eq!(http.post("/customers/c0042/calls", &body).await.status, 201);
    }
    let calls = json(&http.get("/customers/c0042").await)["last_calls"].as_array().unwrap().clone();
    assert_eq!(calls.len(), 20, "the oldest made room");
    assert_eq!(calls[0]["call_id"], "call-5");

    assert_eq!(http.get("/customers/nobody").await.status, 404);
    let body = r#"{"call_id":"1","skill":"sales","seconds":60}"#;
    assert_eq!(json(&http.post("/customers/nobody/calls", body).await)["error"], "no customer `nobody`");
    assert_eq!(http.post("/customers/c0042/calls", r#"{"call_id":"a b","skill":"s","seconds":1}"#).await.status, 400);
}
