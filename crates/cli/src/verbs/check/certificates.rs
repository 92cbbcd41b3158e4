//! What certificates will do, while there is time.

use jiff::{SignedDuration, Timestamp};

use super::super::status::between;
use super::{Check, Found, Seen, some};

/// How long before the end of a root or an intermediate it is to be replaced.
const AHEAD: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The checks of certificates.
pub(super) const CHECKS: [Check; 4] = [
    Check { number: 1, name: "root certificate", look: root },
    Check { number: 2, name: "intermediate certificate", look: intermediate },
    Check { number: 3, name: "certificates of workloads", look: workloads },
    Check { number: 4, name: "rotation of the root", look: rotation },
];

/// Whether a time is less than [`AHEAD`] away. What cannot be read is.
fn ends_soon(at: &str, now: Timestamp) -> bool {
    at.parse::<Timestamp>().map_or(true, |at| now.duration_until(at) < AHEAD)
}

fn ends(at: &str, now: Timestamp) -> String {
    if at.parse::<Timestamp>().is_ok_and(|at| at <= now) {
        format!("ended {} ago", between(at, now))
    } else {
        format!("ends in {}", between(at, now))
    }
}

fn root(seen: &Seen) -> Found {
    let Some(root) = seen.ca.roots.iter().find(|root| root.issuing) else {
        return Found::bad("there is none".to_owned(), "`lorica ca status` shows what there is");
    };
    let message = format!("{} {}", root.name, ends(&root.not_after, seen.now));
    if ends_soon(&root.not_after, seen.now) {
        return Found::bad(message, "`lorica ca rotate` replaces it without a failed call; it takes two lives of a workload's certificate");
    }
    Found::good(message)
}

fn intermediate(seen: &Seen) -> Found {
    let message = format!("it {}", ends(&seen.ca.intermediate_not_after, seen.now));
    if !ends_soon(&seen.ca.intermediate_not_after, seen.now) {
        return Found::good(message);
    }
    let here = seen.ca.roots.iter().any(|root| root.issuing && root.key_here);
    Found::bad(
        message,
        if here {
            "`lorica ca replace-intermediate` makes another"
        } else {
            "`lorica ca request-intermediate` makes a request, to be signed where the root's key is"
        },
    )
}

/// Workloads that are there and did not renew: two thirds of a life are over, and they ought to have before half of it.
fn workloads(seen: &Seen) -> Found {
    let connected = |name: &str| seen.status.proxies.iter().any(|proxy| proxy.connected && proxy.id.to_string() == name);
    let late: Vec<String> = seen
        .svids
        .svids
        .iter()
        .filter(|svid| connected(&svid.workload) && is_late(&svid.not_before, &svid.not_after, seen.now))
        .map(|svid| svid.workload.clone())
        .collect();
    if late.is_empty() {
        return Found::good(format!("{} hold, none is past two thirds of its life", seen.svids.svids.len()));
    }
    Found::bad(
        format!("{} past two thirds of their lives: {}", late.len(), some(&late)),
        "the proxy's log says why it could not renew; an Envoy needs `lorica envoy bootstrap --watch`",
    )
}

fn is_late(not_before: &str, not_after: &str, now: Timestamp) -> bool {
    let (Ok(begin), Ok(end)) = (not_before.parse::<Timestamp>(), not_after.parse::<Timestamp>()) else { return true };
    begin.duration_until(now) * 3 >= begin.duration_until(end) * 2
}

/// A rotation that somebody holds up goes on for ever unless it is seen.
fn rotation(seen: &Seen) -> Found {
    let phase = match seen.ca.phase.as_deref() {
        None | Some("done") => return Found::good("none is under way".to_owned()),
        Some(phase) => phase,
    };
    let lost = seen.ca.held_up_by.iter().filter(|held| !held.connected).count();
    if lost == 0 {
        return Found::good(format!("{phase}: {} of {}", seen.ca.acknowledged, seen.ca.concerned));
    }
    Found::bad(
        format!("{phase}, and held up by {lost} workloads that are lost"),
        "`lorica ca status` names them; `--waive` does not wait for one",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Level;
    use super::super::sample::seen;
    use super::*;

    fn good(now: &str) -> [bool; 4] {
        let seen = seen(now);
        CHECKS.each_ref().map(|check| (check.look)(&seen).level == Level::Good)
    }

    #[test]
    fn what_ends_within_thirty_days_fails() {
        assert_eq!(good("2028-01-01T01:00:00Z"), [true; 4]);
        assert_eq!(good("2028-12-31T23:59:59Z")[..2], [true, true]);
        assert_eq!(good("2029-01-01T00:00:01Z")[..2], [true, false]);
        assert_eq!(good("2030-01-01T00:00:01Z")[..2], [false, false]);
        let found = intermediate(&seen("2029-02-02T00:00:00Z"));
        assert_eq!((found.message.as_str(), found.hint.unwrap().contains("request-intermediate")), ("it ended 2 days ago", true));
    }

    #[test]
    fn a_workload_that_does_not_renew_fails_if_it_is_there() {
        assert!(good("2028-01-01T15:59:59Z")[2]);
        assert!(!good("2028-01-01T16:00:00Z")[2]);
        let late = workloads(&seen("2028-01-01T16:00:00Z")).message;
        assert_eq!(late, "1 past two thirds of their lives: web-1.shop");
    }
}
