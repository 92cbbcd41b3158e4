//! The licences of all that is built in. In flow the packages' own words; out flow breaches: packages that may not be used under any
//! licence of the list in deny.toml. It reads expressions (`(MIT OR Apache-2.0) AND Unicode-3.0`), not licence texts.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::check::Breach;
use crate::metadata::Metadata;

pub(crate) fn breaches(metadata: &Metadata) -> anyhow::Result<Vec<Breach>> {
    let file = metadata.root.join("deny.toml");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let allowed = allowed(&text).context("deny.toml: no list `allow` below `[licenses]`")?;
    let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
    let breach = |package: &crate::metadata::Package| {
        let name = format!("{} {}", package.name, package.version);
        let place = if package.ours { metadata.relative(&package.manifest).to_owned() } else { "Cargo.lock".into() };
        let hint = "use another crate; or, if the licence allows what Apache-2.0 allows, add it to the list in deny.toml";
        let what = match &package.license {
            None => format!("`{name}` names no licence"),
            Some(licence) => match permitted(licence, &allowed) {
                Ok(true) => return None,
                Ok(false) => format!("`{name}` is under `{licence}`, which the list in deny.toml does not allow"),
                Err(why) => format!("`{name}` is under `{licence}`, which cannot be read: {why}"),
            },
        };
        Some(Breach::new(Path::new(&place), what, hint))
    };
    Ok(metadata.packages.iter().filter_map(breach).collect())
}

/// The strings of `allow = […]` in the section `[licenses]`.
fn allowed(deny: &str) -> Option<Vec<String>> {
    let section = deny.split("\n[").find(|section| section.starts_with("licenses]"))?;
    let list = section.lines().skip_while(|line| !line.starts_with("allow")).collect::<Vec<_>>().join("\n");
    let list = list.split_once('[')?.1.split_once(']')?.0;
    Some(list.split('"').skip(1).step_by(2).map(str::to_owned).collect())
}

/// Whether an expression can be fulfilled with the allowed licences alone.
fn permitted(expression: &str, allowed: &[&str]) -> Result<bool, String> {
    // `/` is how OR was written before expressions had a standard.
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = Words { words: spaced.split_whitespace().collect(), next: 0 };
    let result = words.any(allowed)?;
    match words.peek() {
        None => Ok(result),
        Some(word) => Err(format!("`{word}` is not expected")),
    }
}

struct Words<'a> {
    words: Vec<&'a str>,
    next: usize,
}

impl<'a> Words<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).copied()
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        self.next += usize::from(found);
        found
    }

    fn any(&mut self, allowed: &[&str]) -> Result<bool, String> {
        let mut result = self.every(allowed)?;
        while self.take("OR") {
            result |= self.every(allowed)?;
        }
        Ok(result)
    }

    fn every(&mut self, allowed: &[&str]) -> Result<bool, String> {
        let mut result = self.one(allowed)?;
        while self.take("AND") {
            result &= self.one(allowed)?;
        }
        Ok(result)
    }

    fn one(&mut self, allowed: &[&str]) -> Result<bool, String> {
        if self.take("(") {
            let result = self.any(allowed)?;
            return if self.take(")") { Ok(result) } else { Err("a parenthesis is not closed".to_owned()) };
        }
        let mut licence = self.name()?.to_owned();
        if self.take("WITH") {
            licence = format!("{licence} WITH {}", self.name()?);
        }
        Ok(allowed.contains(&licence.as_str()))
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let word = self.peek().filter(|word| !["AND", "OR", "WITH", ")"].contains(word)).ok_or("a licence's name is missing")?;
        self.next += 1;
        Ok(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: [&str; 4] = ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];

    #[test]
    fn expressions_are_judged() {
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("MIT OR GPL-3.0-only", true),
            ("MIT/GPL-2.0", true),
            ("Apache-2.0 / MIT", true),
            ("MIT AND GPL-3.0-only", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("GPL-3.0-only OR MIT AND GPL-2.0-only", false),
            ("(GPL-3.0-only OR MIT) AND (Apache-2.0)", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("MIT WITH LLVM-exception", false),
            ("LGPL-2.1-or-later", false),
        ] {
            assert_eq!(permitted(expression, &ALLOWED), Ok(expected), "{expression}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for expression in ["", "OR", "MIT OR", "(MIT", "MIT)", "MIT Apache-2.0", "MIT WITH", "AND MIT"] {
            permitted(expression, &ALLOWED).unwrap_err();
        }
    }

    #[test]
    fn the_list_is_read_from_deny_toml() {
        let text = "[graph]\nall = true\n\n[licenses]\n# why\nallow = [\n  \"MIT\", # plain\n  \"Apache-2.0 WITH LLVM-exception\",\n]\nx = 1\n[bans]\nallow = [\"no\"]\n";
        assert_eq!(allowed(text), Some(vec!["MIT".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()]));
        assert_eq!(allowed("[licenses]\nx = 1\n"), None);
        let ours = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deny.toml")).unwrap();
        assert!(allowed(&ours).unwrap().contains(&"MPL-2.0".to_owned()));
    }
}
