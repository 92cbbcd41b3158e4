//! The harness itself, as far as it needs programs that cargo builds beside the tests: the probe and the app.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use testbed::{Echo, Mesh, Port, Who, app, can_namespaces, http_get, left_out};

#[test]
fn the_probe_says_what_this_machine_allows() {
    for who in Who::all() {
        if let Err(why) = can_namespaces(*who) {
            assert!(why.contains("cannot "), "{why}");
            left_out(&format!("captured apps as {who:?}: {why}"));
        }
    }
}

#[tokio::test]
async fn the_app_answers_and_is_ended() {
    for who in Who::all() {
        let mesh = Mesh::options().run_as(*who).without_control();
        // Without the binary there is nothing to hold the app; the other tests say so.
        let Ok(mesh) = mesh else { return left_out("an app in a mesh: there is no binary") };
        let port = Port::free().unwrap();
        let server = mesh.start_outside(app().unwrap(), ["http", "--name", "a", "--listen", &port.address().to_string()]).unwrap();
        assert_eq!(server.line("listening").await.unwrap(), format!("listening on {}", port.address()));
        let echo: Echo = http_get(port.address(), "a.shop", "/x").await.unwrap().json().unwrap();
        assert_eq!((echo.server.as_str(), echo.path.as_str()), ("a", "/x"));
        let client = mesh.start_outside(app().unwrap(), ["get", &port.address().to_string(), "/status/404"]).unwrap();
        let output = client.output(testbed::PATIENCE).await.unwrap();
        assert_eq!((output.code(), output.stdout.lines().next()), (22, Some("404")));
        mesh.finish().await.unwrap();
    }
}
