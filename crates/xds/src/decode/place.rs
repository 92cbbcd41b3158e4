//! Where in a message a decoder is, for the one who has to find the field.

use std::fmt;

/// A place in a message: a chain of fields up to the root.
pub(super) struct At<'a> {
    parent: Option<&'a At<'a>>,
    field: &'static str,
    index: Option<usize>,
}

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) path: String,
    pub(super) message: String,
}

impl<'a> At<'a> {
    pub(super) const fn root() -> Self {
        Self { parent: None, field: "", index: None }
    }

    pub(super) const fn field(&'a self, field: &'static str) -> Self {
        Self { parent: Some(self), field, index: None }
    }

    pub(super) const fn index(&'a self, field: &'static str, index: usize) -> Self {
        Self { parent: Some(self), field, index: Some(index) }
    }

    pub(super) fn fault(&self, message: String) -> Fault {
        Fault { path: self.to_string(), message }
    }

    /// What no unit says may not be set.
    pub(super) fn unset<T: Default + PartialEq>(&self, field: &'static str, value: &T) -> Result<(), Fault> {
        // Field names that are words of Rust carry a mark.
        let field = field.strip_prefix("r#").unwrap_or(field);
        if *value == T::default() { Ok(()) } else { Err(self.field(field).fault("is not understood by this proxy".to_owned())) }
    }

    /// A field that may have one value only.
    pub(super) fn equal<T: PartialEq + fmt::Debug>(&self, field: &'static str, value: &T, expected: &T) -> Result<(), Fault> {
        if value == expected { Ok(()) } else { Err(self.field(field).fault(format!("is {value:?}, expected {expected:?}"))) }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else { return Ok(()) };
        parent.fmt(f)?;
        if parent.parent.is_some() {
            f.write_str(".")?;
        }
        f.write_str(self.field)?;
        self.index.map_or(Ok(()), |index| write!(f, "[{index}]"))
    }
}

/// Takes a message apart by a full pattern: binds the fields that are read, refuses the others where they are set.
macro_rules! apart {
    ($at:expr, $value:expr => $type:ident { $($used:ident $(: $as:ident)?),* $(,)? } unset { $($unset:ident),* $(,)? }) => {
        let $type { $($used $(: $as)?,)* $($unset,)* } = $value;
        $($at.unset(stringify!($unset), &$unset)?;)*
    };
}
pub(super) use apart;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_like_a_path() {
        let root = At::root();
        let chain = root.index("filter_chains", 0);
        let filter = chain.index("filters", 1);
        assert_eq!(filter.field("typed_config").to_string(), "filter_chains[0].filters[1].typed_config");
        assert_eq!(root.field("name").to_string(), "name");
    }
}
