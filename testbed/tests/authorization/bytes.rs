//! Connections whose bytes are not looked at: judged by caller and port, and ended when their permission is.

use testbed::{Connection, Mesh, PATIENCE, eventually};

use super::{caller, policy, web};

/// The first line of a server that speaks first; nothing where the connection was ended.
async fn greeted(at: std::net::SocketAddr) -> anyhow::Result<bool> {
    let mut connection = Connection::open(at).await?;
    connection.write(b"hello\n").await?;
    Ok(connection.read_until(b"\n").await.is_ok_and(|line| !line.is_empty()))
}

#[tokio::test]
async fn connections_are_judged_when_they_come_and_when_policies_change() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (_web, _listens) = web(&mesh, "tcp").await?;
    let (_ann, ann, _ann_port) = caller(&mesh, "shop", "ann")?;
    let (_ben, ben, _ben_port) = caller(&mesh, "till", "ben")?;
    for at in [ann, ben] {
        eventually("without a policy everything is allowed", PATIENCE, || async {
            anyhow::ensure!(greeted(at).await?);
            Ok(())
        })
        .await?;
    }
    let mut open = Vec::new();
    for at in [ann, ben] {
        let mut connection = Connection::open(at).await?;
        connection.write(b"one\n").await?;
        assert_eq!(connection.read_until(b"\n").await?, b"one\n");
        open.push(connection);
    }
    mesh.apply(&policy("shop-only", "{rules: [{from: [{namespaces: [shop]}], to: [{ports: [80]}]}]}")).await?;
    // One goes on, the other ends.
    open[0].write(b"two\n").await?;
    assert_eq!(open[0].read_until(b"\n").await?, b"two\n");
    assert_eq!(open[1].cut_off().await?, b"");
    assert!(greeted(ann).await?);
    assert!(!greeted(ben).await.unwrap_or(false));
    mesh.finish().await
}
