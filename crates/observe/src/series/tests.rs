//! The store as a whole: what it finds again, what it refuses, what it lets go of.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a test that fails says where by panicking")]

use std::os::unix::fs::FileExt;

use super::labels::NAME;
use super::*;

fn now() -> i64 {
    milliseconds(SystemTime::now())
}

fn counter(name: &str, of: &str, at: i64, value: f64) -> Incoming {
    let labels = vec![("of".to_owned(), of.to_owned())];
    Incoming { labels, at, start: None, samples: vec![Part { name: name.to_owned(), label: None, value }] }
}

fn look(store: &SeriesStore, name: &str) -> Vec<(String, Vec<(i64, f64)>)> {
    let found = store.select(&[Matcher::equal(NAME, name)], 0, i64::MAX, &mut 1_000_000).unwrap();
    let pairs = |found: &Found| found.samples.iter().map(|sample| (sample.at, sample.value)).collect();
    found.iter().map(|found| (found.labels.get("of").to_owned(), pairs(found))).collect()
}

/// Files of a kind.
fn files(directory: &Path, kind: &str) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let mut found: Vec<_> = all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(kind)).collect();
    found.sort();
    found
}

#[tokio::test]
async fn samples_are_found_again_after_a_start_from_log_and_segments() {
    let folder = tempfile::tempdir().unwrap();
    let begin = now() - 1_000_000;
    let expected: Vec<(i64, f64)> = (0..90).map(|step| (begin + step * 10_000, (step * 3) as f64)).collect();
    for (opening, part) in expected.chunks(30).enumerate() {
        let store = SeriesStore::open(folder.path(), Bounds::default()).unwrap();
        for (at, value) in part {
            let about = About { name: "calls".to_owned(), kind: "counter".to_owned(), help: "Calls".to_owned() };
            let taken = store.write(vec![counter("calls", "a", *at, *value), counter("calls", "b", *at, 1.0)], vec![about]).await.unwrap();
            assert_eq!(taken, Taken { samples: 2, ..Taken::default() });
        }
        // The second opening ends without a segment, the others with one.
        if opening != 1 {
            store.cut().await.unwrap();
        }
        let known = &expected[..(opening + 1) * 30];
        let found = look(&store, "calls");
        assert_eq!(found[0], ("a".to_owned(), known.to_vec()));
        assert_eq!((found.len(), found[1].1.len()), (2, known.len()));
        assert_eq!(store.abouts().len(), 1);
        assert_eq!(store.stats().series, 2);
    }
}

#[tokio::test]
async fn a_log_that_was_cut_off_anywhere_is_read_as_far_as_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let begin = now() - 100_000;
    let store = SeriesStore::open(folder.path(), Bounds::default()).unwrap();
    let mut ends = vec![0];
    for step in 0..5 {
        store.write(vec![counter("calls", "a", begin + step, step as f64)], Vec::new()).await.unwrap();
        ends.push(files(folder.path(), "log-")[0].metadata().unwrap().len());
    }
    drop(store);
    let log = std::fs::read(&files(folder.path(), "log-")[0]).unwrap();
    for length in 0..log.len() {
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("log-0000000001"), &log[..length]).unwrap();
        let store = SeriesStore::open(other.path(), Bounds::default()).unwrap();
        let whole = ends.iter().filter(|end| **end <= length as u64).count() - 1;
        assert_eq!(look(&store, "calls").first().map_or(0, |(_, samples)| samples.len()), whole, "cut off at {length}");
        // It goes on behind what is whole.
        store.write(vec![counter("calls", "a", begin + 50, 1.0)], Vec::new()).await.unwrap();
        drop(store);
        let store = SeriesStore::open(other.path(), Bounds::default()).unwrap();
        assert_eq!(look(&store, "calls")[0].1.len(), whole + 1, "cut off at {length}, and written to");
    }
}

#[tokio::test]
async fn what_was_left_of_a_segment_that_was_not_finished_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let store = SeriesStore::open(folder.path(), Bounds::default()).unwrap();
    store.write(vec![counter("calls", "a", now(), 1.0)], Vec::new()).await.unwrap();
    let log = std::fs::read(&files(folder.path(), "log-")[0]).unwrap();
    store.cut().await.unwrap();
    drop(store);
    // As if it had ended between the segment and the deletion of its log, and in the middle of the next.
    std::fs::write(folder.path().join("log-0000000001"), log).unwrap();
    std::fs::write(folder.path().join("segment-0000000002.new"), b"half").unwrap();
    let store = SeriesStore::open(folder.path(), Bounds::default()).unwrap();
    assert_eq!(look(&store, "calls")[0].1.len(), 1);
    assert_eq!((files(folder.path(), "log-").len(), files(folder.path(), "segment-").len()), (1, 1));
}

#[tokio::test]
async fn a_segment_that_the_disk_changed_is_told_and_never_believed() {
    let folder = tempfile::tempdir().unwrap();
    let store = SeriesStore::open(folder.path(), Bounds::default()).unwrap();
    let at = now();
    store.write((0..20).map(|index| counter("calls", &index.to_string(), at, 1.0)).collect(), Vec::new()).await.unwrap();
    store.cut().await.unwrap();
    let path = files(folder.path(), "segment-").remove(0);
    let length = path.metadata().unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0xff; 4], length - 30).unwrap();
    let error = store.select(&[Matcher::equal(NAME, "calls")], 0, i64::MAX, &mut 1000).unwrap_err();
    assert!(error.to_string().contains("broken"), "{error}");
    drop(store);
    let store = SeriesStore::open(folder.path(), Bounds::default()).unwrap();
    assert_eq!(look(&store, "calls").len(), 19);
}

#[tokio::test]
async fn late_untimely_and_further_ones_are_refused_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = SeriesStore::open(folder.path(), Bounds { series: 3, ..Bounds::default() }).unwrap();
    let at = now();
    let one = |at, of: &str| vec![counter("calls", of, at, 1.0)];
    let write = async |incoming| store.write(incoming, Vec::new()).await.unwrap();
    assert_eq!(write(one(at, "a")).await, Taken { samples: 1, ..Taken::default() });
    assert_eq!(write(one(at, "a")).await, Taken { late: 1, ..Taken::default() });
    assert_eq!(write(one(at - 1, "a")).await, Taken { late: 1, ..Taken::default() });
    assert_eq!(write(one(at + 3_600_000, "a")).await, Taken { untimely: 1, ..Taken::default() });
    assert_eq!(write(one(at - 25 * 3_600_000, "b")).await, Taken { untimely: 1, ..Taken::default() });
    assert_eq!(write(one(-5, "b")).await, Taken { untimely: 1, ..Taken::default() });
    let many = (0..10).map(|index| counter("calls", &index.to_string(), at, 1.0)).collect();
    assert_eq!(write(many).await, Taken { samples: 2, no_room: 8, ..Taken::default() });
    let Stats { series, samples, refused, dropped, .. } = store.stats();
    assert_eq!((series, samples, refused, dropped), (3, 3, 13, 0));
}

#[tokio::test]
async fn the_oldest_segments_go_when_there_are_too_many_bytes_and_series_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = SeriesStore::open(folder.path(), Bounds { bytes: 20_000, ..Bounds::default() }).unwrap();
    let begin = now() - 100_000;
    for round in 0..60 {
        let batch = (0..10).map(|index| counter("calls", &format!("{round}-{index}"), begin + round, 0.1)).collect();
        store.write(batch, Vec::new()).await.unwrap();
        store.cut().await.unwrap();
        // Bounds are looked at behind each job: this one comes after that.
        store.write(Vec::new(), Vec::new()).await.unwrap();
        let on_disk: u64 =
            ["segment-", "log-"].iter().flat_map(|kind| files(folder.path(), kind)).map(|path| path.metadata().unwrap().len()).sum();
        assert!(on_disk <= 22_000, "{on_disk}");
    }
    let found = look(&store, "calls");
    assert!(found.len() < 600 && found.iter().any(|(of, _)| of == "59-9") && !found.iter().any(|(of, _)| of == "0-0"));
    assert_eq!(store.stats().series as usize, found.len());
}

#[tokio::test]
async fn what_is_too_old_goes() {
    let folder = tempfile::tempdir().unwrap();
    let at = now() - 3_600_000;
    let store = SeriesStore::open(folder.path(), Bounds::default()).unwrap();
    store.write(vec![counter("calls", "old", at, 1.0)], Vec::new()).await.unwrap();
    store.cut().await.unwrap();
    store.write(vec![counter("calls", "new", now(), 1.0)], Vec::new()).await.unwrap();
    drop(store);
    let store = SeriesStore::open(folder.path(), Bounds { age: Duration::from_secs(1800), ..Bounds::default() }).unwrap();
    assert_eq!(look(&store, "calls").iter().map(|(of, _)| of.as_str()).collect::<Vec<_>>(), ["new"]);
}

#[tokio::test]
async fn a_counter_was_0_when_it_began_and_when_it_began_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = SeriesStore::open(folder.path(), Bounds::default()).unwrap();
    let begin = now() - 100_000;
    for (at, start, value) in [(10, 0, 5.0), (20, 0, 7.0), (40, 30, 9.0), (50, 30, 10.0)] {
        let sample = Incoming { start: Some(begin + start), ..counter("calls", "a", begin + at, value) };
        store.write(vec![sample], Vec::new()).await.unwrap();
    }
    let found: Vec<(i64, f64)> = look(&store, "calls")[0].1.iter().map(|(at, value)| (at - begin, *value)).collect();
    assert_eq!(found, [(0, 0.0), (10, 5.0), (20, 7.0), (30, 0.0), (40, 9.0), (50, 10.0)]);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_drops_with_a_count_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("series");
    let store = SeriesStore::open(&directory, Bounds { bytes: 1, ..Bounds::default() }).unwrap();
    let begin = now() - 100_000;
    // No segment can be written where there is no directory; the log, which is open, is bounded.
    std::fs::remove_dir_all(&directory).unwrap();
    let mut refused = 0;
    for step in 0..2000 {
        match store.write(vec![counter("calls", "a", begin + step, 0.1)], Vec::new()).await {
            Ok(_) => {}
            Err(WriteError::Disk(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0);
    assert_eq!(store.stats().dropped, refused);
    std::fs::create_dir_all(&directory).unwrap();
    store.cut().await.unwrap();
    store.write(vec![counter("calls", "a", begin + 5000, 0.1)], Vec::new()).await.unwrap();
}

#[tokio::test]
async fn a_store_that_cannot_be_had_drops_with_a_count() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("series"), b"no directory").unwrap();
    assert!(SeriesStore::open(&folder.path().join("series"), Bounds::default()).is_err());
    let store = SeriesStore::closed();
    let outcome = store.write(vec![counter("calls", "a", now(), 1.0)], Vec::new()).await;
    assert!(matches!(outcome, Err(WriteError::Ended)));
    assert_eq!((store.stats().dropped, look(&store, "calls").len()), (1, 0));
}

#[tokio::test]
async fn conditions_choose_series() {
    let folder = tempfile::tempdir().unwrap();
    let store = SeriesStore::open(folder.path(), Bounds::default()).unwrap();
    let at = now();
    store.write(["ab", "b", "c"].map(|of| counter("calls", of, at, 1.0)).to_vec(), Vec::new()).await.unwrap();
    store.write(vec![counter("other", "b", at, 1.0)], Vec::new()).await.unwrap();
    let matcher = |name: &str, wanted| Matcher { name: name.to_owned(), wanted };
    let regex = |text: &str| Matcher::regex(text).unwrap();
    let calls = || Matcher::equal(NAME, "calls");
    for (matchers, expected) in [
        (vec![calls()], "ab b c"),
        (vec![calls(), matcher("of", Wanted::NotEqual("b".to_owned()))], "ab c"),
        (vec![calls(), matcher("of", Wanted::Matches(regex("a|b")))], "b"),
        (vec![calls(), matcher("of", Wanted::Matches(regex("a.*|c")))], "ab c"),
        (vec![calls(), matcher("of", Wanted::MatchesNot(regex(".*b")))], "c"),
        (vec![calls(), Matcher::equal("none", "")], "ab b c"),
        (vec![calls(), matcher("none", Wanted::NotEqual(String::new()))], ""),
        (vec![matcher(NAME, Wanted::Matches(regex("calls|other"))), Matcher::equal("of", "b")], "b b"),
        (vec![Matcher::equal("of", "b")], "b b"),
        (vec![Matcher::equal(NAME, "unknown")], ""),
    ] {
        let labels = store.labels(&matchers, 0, i64::MAX);
        let of: Vec<&str> = labels.iter().map(|labels| labels.get("of")).collect();
        assert_eq!(of.join(" "), expected, "{matchers:?}");
        assert_eq!(store.select(&matchers, 0, i64::MAX, &mut 1000).unwrap().len(), labels.len());
    }
    assert!(store.labels(&[calls()], 0, at - 1).is_empty());
    assert!(matches!(store.select(&[calls()], 0, i64::MAX, &mut 2), Err(SelectError::TooMuch)));
}
