//! Which idle connection a request gets, and which stay open to be watched: connections in memory, with the time passed in.

#![allow(clippy::unwrap_used)]

use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::stream::Stream;

const KEY: Key = Key { to: Destination::App { port: 80, caller: None }, protocol: Negotiated::Http1 };

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// A pool whose upstream announced that it leaves connections open for a second.
fn pool() -> Rc<Pool> {
    let pool = Rc::new(Pool::default());
    keeping(&pool).learn(|lifetime| lifetime.announced(Duration::from_secs(1), Instant::now()));
    pool
}

fn keeping(pool: &Pool) -> Keeping {
    pool.keeping(Connections::default(), Some(Upstream::App(80)))
}

/// Lays a new connection aside; gives its other end.
fn idle(pool: &Rc<Pool>, keeping: Keeping) -> DuplexStream {
    let (near, far) = duplex(1024);
    drop(pool.add_http1(KEY, Http1Client::new(Stream::Memory(near)), keeping, Facts::default()));
    far
}

fn kept(pool: &Pool) -> usize {
    pool.idle.borrow().get(&KEY).map_or(0, Vec::len)
}

fn reusable(pool: &Pool) -> Duration {
    keeping(pool).reusable()
}

#[tokio::test]
async fn a_connection_is_used_while_its_upstream_surely_leaves_it_open() {
    let (pool, now) = (pool(), Instant::now());
    for (after, reuse, there) in
        [(700, Reuse::Any, true), (800, Reuse::Any, false), (50, Reuse::Recent, true), (150, Reuse::Recent, false), (0, Reuse::No, false)]
    {
        pool.idle.borrow_mut().clear();
        let _far = idle(&pool, keeping(&pool));
        let lease = pool.ready(&KEY, reuse, now + milliseconds(after));
        assert_eq!(lease.is_some_and(|lease| lease.reused && lease.was_idle()), there, "{after} {reuse:?}");
    }
}

#[tokio::test]
async fn what_was_closed_is_passed_over_and_says_when() {
    let (pool, now) = (pool(), Instant::now());
    let open = idle(&pool, keeping(&pool));
    drop(idle(&pool, keeping(&pool)));
    // One that says something unasked is about to be closed.
    idle(&pool, keeping(&pool)).write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
    assert!(pool.ready(&KEY, Reuse::Any, now + milliseconds(600)).is_none(), "the third is as old as those that were closed");
    assert!(reusable(&pool) <= milliseconds(450), "{:?}", reusable(&pool));
    pool.sweep_idle(now);
    assert_eq!(kept(&pool), 1);
    drop(open);
}

#[tokio::test]
async fn a_request_that_met_a_closed_one_says_so_of_all() {
    let (pool, now) = (pool(), Instant::now());
    let _far = idle(&pool, keeping(&pool));
    let lease = pool.ready(&KEY, Reuse::Any, now + milliseconds(700)).unwrap();
    let _other = idle(&pool, keeping(&pool));
    assert_eq!(reusable(&pool), milliseconds(750));
    lease.was_closed();
    assert!(reusable(&pool) <= milliseconds(525), "{:?}", reusable(&pool));
    assert_eq!(kept(&pool), 0, "the others are as old or older");
}

#[tokio::test]
async fn a_few_that_are_too_old_stay_open_to_be_watched() {
    let (pool, now) = (pool(), Instant::now());
    let far: Vec<_> = (0..10).map(|_| idle(&pool, keeping(&pool))).collect();
    pool.sweep_idle(now + milliseconds(700));
    assert_eq!(kept(&pool), 10);
    pool.sweep_idle(now + milliseconds(900));
    assert_eq!(kept(&pool), WATCHED);
    assert!(pool.ready(&KEY, Reuse::Any, now + milliseconds(900)).is_none());
    pool.sweep_idle(now + milliseconds(4100));
    assert_eq!(kept(&pool), 0);
    drop(far);

    // Of those whose end is told none need be.
    let _far: Vec<_> = (0..10).map(|_| idle(&pool, pool.keeping(Connections::default(), None))).collect();
    pool.sweep_idle(Instant::now() + milliseconds(2900));
    assert_eq!(kept(&pool), 10);
    pool.sweep_idle(Instant::now() + milliseconds(3100));
    assert_eq!(kept(&pool), 0);
}

#[tokio::test]
async fn a_close_is_seen_when_it_happens() {
    let pool = pool();
    let far = idle(&pool, keeping(&pool));
    let _open = idle(&pool, keeping(&pool));
    let watching = tokio::task::LocalSet::new();
    let watcher = pool.clone();
    watching.spawn_local(async move { watcher.watch().await });
    drop(far);
    watching
        .run_until(async {
            while kept(&pool) == 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    assert_eq!(reusable(&pool), ALWAYS, "it was seen at once");
}

#[tokio::test]
async fn a_connection_grows_no_older_than_the_policy_has_it() {
    let (pool, now) = (pool(), Instant::now());
    let connections = Connections { max_age: Some(milliseconds(300)), ..Connections::default() };
    let young = pool.keeping(connections, Some(Upstream::App(80)));
    let _far = idle(&pool, young.clone());
    assert!(pool.ready(&KEY, Reuse::Any, now + milliseconds(200)).is_some());
    assert!(pool.ready(&KEY, Reuse::Any, now + milliseconds(400)).is_none());
    pool.sweep_idle(now + milliseconds(400));
    assert_eq!(kept(&pool), 0);
}

#[test]
fn what_is_remembered_has_a_bound() {
    let pool = Pool::default();
    for port in 0..=u16::MAX {
        let _terms = pool.keeping(Connections::default(), Some(Upstream::App(port)));
        assert!(pool.lifetimes.borrow().len() <= MAX_UPSTREAMS);
    }
    pool.sweep();
    assert!(pool.lifetimes.borrow().is_empty(), "nothing is known of any, and nobody uses it");
}
