//! Flags of one service: `--name value` pairs in, checked values out. It never reads the environment.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::program::Failure;

/// The flags given to one service, all of them known to it.
#[derive(Debug)]
pub(crate) struct Flags {
    given: BTreeMap<&'static str, String>,
}

impl Flags {
    /// Takes the pairs apart. `known` are the flags of `service`, without dashes.
    pub(crate) fn parse(service: &str, known: &[&'static str], args: impl IntoIterator<Item = String>) -> Result<Self, Failure> {
        let usage = |what: String| {
            let list: Vec<String> = known.iter().map(|name| format!("--{name}")).collect();
            Failure::Usage(format!("{service}: {what}\nhint: its flags are {}, each with a value", list.join(", ")))
        };
        let mut given = BTreeMap::new();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let name = arg
                .strip_prefix("--")
                .and_then(|name| known.iter().copied().find(|k| *k == name))
                .ok_or_else(|| usage(format!("unknown flag `{arg}`")))?;
            let value = args.next().ok_or_else(|| usage(format!("`{arg}` has no value")))?;
            if given.insert(name, value).is_some() {
                return Err(usage(format!("`{arg}` is given twice")));
            }
        }
        Ok(Self { given })
    }

    /// The value of a flag, if it was given.
    pub(crate) fn get<T>(&self, name: &str) -> Result<Option<T>, Failure>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.given.get(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(Failure::Usage(format!("`--{name} {text}`: {error}"))),
        }
    }

    /// The value of a flag, or that of `default` read the same way.
    pub(crate) fn get_or<T>(&self, name: &str, default: &str) -> Result<T, Failure>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        match self.get(name)? {
            Some(value) => Ok(value),
            None => default.parse().map_err(|error| Failure::Usage(format!("`--{name} {default}`: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, Failure> {
        Flags::parse("recording", &["listen", "bug"], args.iter().map(ToString::to_string))
    }

    #[test]
    fn pairs_are_read_and_defaults_fill_the_gaps() {
        let flags = parse(&["--bug", "7"]).unwrap();
        assert_eq!(flags.get::<u32>("bug").unwrap(), Some(7));
        assert_eq!(flags.get_or::<u16>("listen", "80").unwrap(), 80);
    }

    #[test]
    fn mistakes_name_what_was_written_and_what_is_known() {
        let check = |args: &[&str], expected: &str| {
            let message = parse(args).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(&["--lisen", "x"], "unknown flag `--lisen`\nhint: its flags are --listen, --bug");
        check(&["listen", "x"], "unknown flag `listen`");
        check(&["--bug"], "`--bug` has no value");
        check(&["--bug", "1", "--bug", "2"], "`--bug` is given twice");
        let message = parse(&["--bug", "red"]).unwrap().get::<u32>("bug").unwrap_err().to_string();
        assert!(message.starts_with("`--bug red`: "), "{message}");
    }
}
