//! What comes in at the REST API, as fuzzers call what reads it: bytes of anybody's in, nothing out.
//!
//! Compiled for tests, which run it on bytes by chance, and for `fuzz/` (`cargo xtask fuzz`), which runs it for longer.

use crate::{ApplyRequest, DeleteRequest, ForgetRootKey, Pem, RotateRequest, WaiveRequest};

/// A name, what is run on bytes, and bytes to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate.
pub const TARGETS: [Target; 1] = [("rest", rest, samples)];

/// The body of any request.
pub fn rest(bytes: &[u8]) {
    drop(serde_json::from_slice::<ApplyRequest>(bytes));
    drop(serde_json::from_slice::<DeleteRequest>(bytes));
    drop(serde_json::from_slice::<RotateRequest>(bytes));
    drop(serde_json::from_slice::<WaiveRequest>(bytes));
    drop(serde_json::from_slice::<ForgetRootKey>(bytes));
    drop(serde_json::from_slice::<Pem>(bytes));
}

fn samples() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"files":[{"name":"a.yaml","text":"kind: Service"}],"dry_run":true}"#,
        r#"{"targets":[{"kind":"Service","namespace":"shop","name":"web"}]}"#,
        r#"{"pem":"-----BEGIN CERTIFICATE-----"}"#,
    ];
    texts.map(Into::into).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_and_no_part_of_them_breaks_anything() {
        for sample in samples() {
            (0..sample.len()).for_each(|end| rest(&sample[..end]));
        }
        assert!(serde_json::from_slice::<ApplyRequest>(&samples()[0]).is_ok());
        assert!(serde_json::from_slice::<DeleteRequest>(&samples()[1]).is_ok());
        assert!(serde_json::from_slice::<Pem>(&samples()[2]).is_ok());
    }
}
