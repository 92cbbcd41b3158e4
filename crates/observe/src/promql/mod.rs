//! Questions of series: the part of PromQL that dashboards ask in, with the answers that Prometheus 2 gives.
//!
//! | module | noun |
//! | --- | --- |
//! | [`ast`] | what a question is |
//! | `lex`, [`parse`] | a text as a question, or why it is none |
//! | [`evaluate`] | the answer, of all steps at once |
//! | `aggregate`, `binary`, `functions`, `windows` | what operators and functions do |
//!
//! In: a text, a time or several, series. Out: values. What is not known here is refused by its name; nothing is answered
//! in part. Bounded in depth, samples and work. Knows nothing of files or HTTP.
//!
//! The parser is our own: the crate for it brings twenty others, among them one that nobody maintains, and knows more of
//! the language than is answered here.

mod aggregate;
pub mod ast;
mod binary;
pub mod evaluate;
mod functions;
mod lex;
pub mod parse;
#[cfg(test)]
mod tests;
mod windows;

pub use ast::Expression;
pub use evaluate::{Answer, Query, QueryError, Source, evaluate};
pub use parse::{ParseError, duration, parse, selector};
