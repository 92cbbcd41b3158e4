//! recording over HTTP, in both versions.

use contact_centre::recording::{self, Config, Version};

use crate::harness::{Http, Running, json};

async fn start(config: Config) -> Running {
    Running::start(|listener, stop| recording::serve(listener, config, stop)).await
}

async fn store(http: &Http, call: &str, customer: &str) -> String {
    let body = format!(r#"{{"call_id":"{call}","customer":"{customer}","agent":"billing-01.a1","seconds":60}}"#);
    let answer = http.post("/recordings", &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    json(&answer)["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn recordings_are_stored_found_and_played() {
    let service = start(Config::default()).await;
    let http = service.http();
    let id = store(&http, "1", "c0001").await;
    store(&http, "2", "c0002").await;
    let found = json(&http.get(&format!("/recordings/{id}")).await);
    assert_eq!((&found["call_id"], &found["customer"]), (&"1".into(), &"c0001".into()));
    let list = json(&http.get("/recordings?customer=c0002").await);
    assert_eq!(list["recordings"].as_array().unwrap().len(), 1);
    assert_eq!(json(&http.get("/recordings").await)["recordings"].as_array().unwrap().len(), 2);

    let audio = http.get(&format!("/recordings/{id}/audio")).await;
    assert_eq!(audio.headers["content-type"], "audio/basic");
    assert_eq!(audio.headers["transfer-encoding"], "chunked");
    assert_eq!(audio.body.len(), 64 * 1024);
    assert_eq!(http.get(&format!("/recordings/{id}/audio")).await.body, audio.body);
    assert_eq!(http.get("/recordings/none").await.status, 404);
    assert_eq!(http.get("/recordings/none/audio").await.status, 404);
}

#[tokio::test]
async fn the_oldest_recordings_make_room_and_are_counted() {
    let service = start(Config { most_kept: 3, ..Config::default() }).await;
    let http = service.http();
    for call in ["1", "2", "3", "4", "5"] {
        store(&http, call, "c0001").await;
    }
    let list = json(&http.get("/recordings").await);
    assert_eq!(list["dropped"], 2);
    assert_eq!(list["recordings"][0]["call_id"], "3");
    assert_eq!(list["recordings"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn only_version_2_has_the_switch_and_every_answer_names_the_version() {
    for (version, name, switch) in [(Version::V1, "v1", 404), (Version::V2, "v2", 200)] {
        let service = start(Config { version, ..Config::default() }).await;
        let http = service.http();
        let answers = [
            (http.put("/bug", r#"{"on":false}"#).await, switch),
            (http.get("/recordings").await, 200),
            (http.get("/nothing").await, 404),
            (http.get("/healthz").await, 200),
            (http.post("/recordings", "{}").await, 422),
        ];
        for (answer, status) in answers {
            assert_eq!(answer.status, status);
            assert_eq!(answer.headers["x-recording-version"], name, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn the_bug_can_be_on_from_the_start_and_leaves_reading_alone() {
    let service = start(Config { version: Version::V2, bug: true, ..Config::default() }).await;
    let http = service.http();
    let body = r#"{"call_id":"1","customer":"c0001","agent":null,"seconds":1}"#;
    assert_eq!(http.post("/recordings", body).await.status, 500);
    assert_eq!(http.get("/recordings").await.status, 200);
    assert_eq!(json(&http.get("/bug").await)["on"], true);
}
