//! Files of expectations: who may do what, and who may not.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, bail};
use lorica_api::NamedText;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::world::{Question, Written, token};
use crate::args::AskerArg;

/// One expectation, as written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Expected {
    caller: Option<String>,
    only: Option<Vec<String>>,
    may: Option<String>,
    may_not: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    claims: Option<Map<String, Value>>,
    host: Option<String>,
    address: Option<IpAddr>,
}

/// The expectations of a file, each with its place.
pub(super) fn read(file: &NamedText) -> anyhow::Result<Vec<(String, Expected)>> {
    let found: Vec<serde_saphyr::Spanned<Expected>> = serde_saphyr::from_str(&file.text)
        .with_context(|| format!("{} is no list of expectations\nhint: - {{caller: web.shop, may: GET orders.shop/list}}", file.name))?;
    let placed = |expected: serde_saphyr::Spanned<Expected>| {
        let place = format!("{}:{}", file.name, expected.referenced.line());
        (place, expected.value)
    };
    Ok(found.into_iter().map(placed).collect())
}

impl Expected {
    /// The questions that it asks, and whether each is expected to be allowed.
    pub(super) fn questions(self, written: &Written) -> anyhow::Result<Vec<(Question, bool)>> {
        let (call, may) = match (&self.may, &self.may_not) {
            (Some(call), None) => (call, true),
            (None, Some(call)) => (call, false),
            _ => bail!("an expectation has either `may` or `mayNot`: `may: GET orders.shop/list`"),
        };
        let (method, place) = call.split_once(' ').with_context(|| format!("`{call}` is no call\nhint: write `GET orders.shop/list`"))?;
        let question = |caller: AskerArg| -> anyhow::Result<Question> {
            Ok(Question {
                caller,
                method: method.to_owned(),
                call: place.trim().parse().map_err(|error| anyhow::anyhow!("`{call}`: {error}"))?,
                headers: self.headers.clone().into_iter().collect(),
                claims: self.claims.as_ref().map(token).transpose()?,
                host: self.host.clone(),
                address: self.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            })
        };
        let asker = |text: &String| text.parse::<AskerArg>().map_err(|error| anyhow::anyhow!("`{text}` is no caller: {error}"));
        match (&self.caller, &self.only) {
            (Some(caller), None) => Ok(vec![(question(asker(caller)?)?, may)]),
            (None, Some(only)) if may => {
                let only: Vec<AskerArg> = only.iter().map(asker).collect::<Result<_, _>>()?;
                let others = written.accounts().chain([AskerArg::Nobody]).filter(|caller| !only.contains(caller));
                let all = only.iter().cloned().map(|caller| (caller, true)).chain(others.map(|caller| (caller, false)));
                all.map(|(caller, may)| Ok((question(caller)?, may))).collect()
            }
            (None, Some(_)) => bail!("`only` says who may, so it goes with `may`"),
            _ => bail!("an expectation has either `caller` or `only`"),
        }
    }
}
