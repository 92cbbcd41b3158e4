//! What a proxy tells of exchanges besides counting them: which it keeps whole, and what it writes into its log, where, and when.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Share;
use crate::cel::Expression;
use crate::log_format::{LogFields, LogFormat, LogValue, Wanted};

/// What policies say of telemetry. What they leave open is as the process was told at its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// Which exchanges are kept whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// What is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
}

impl Telemetry {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Which exchanges are kept whole; what is none is as the process was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// The share of the traces that begin here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Share>,
    /// Whether what fails is kept beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_failed: Option<bool>,
    /// Whether what is slow is, and from when on it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_slower_than: Option<Slow>,
}

/// From when on an exchange is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slow {
    /// None is.
    Never,
    /// Once its answer has not begun after this time.
    After(Duration),
}

/// What is logged of exchanges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// How a line looks.
    pub format: AccessLogFormat,
    /// Of which exchanges there is one; none: of all. One that has no result is none of them.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "of_exchange")]
    pub when: Option<Expression>,
    /// Where it goes; nowhere where nothing is named.
    pub to: Vec<LogTarget>,
}

impl AccessLog {
    /// What of an answer it looks at.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let format = match &self.format {
            AccessLogFormat::Json => Wanted::default(),
            AccessLogFormat::Text(format) => format.wanted(),
            AccessLogFormat::Fields(fields) => fields.values().map(LogValue::wanted).fold(Wanted::default(), Wanted::and),
        };
        format.and(self.when.as_ref().map(Expression::wanted).unwrap_or_default())
    }
}

/// How a line of the log looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessLogFormat {
    /// An object with the keys that Lorica's proxies write where nobody says otherwise.
    Json,
    /// A text.
    Text(LogFormat),
    /// An object.
    Fields(LogFields),
}

/// Where a log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogTarget {
    /// To where the process writes its log, which is its stdout where it was told of none.
    Stdout,
    /// To the control plane.
    Mesh,
    /// To the collectors that the process was told of.
    Otlp,
}

/// A condition is read as one of exchanges.
mod of_exchange {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::cel::Expression;

    pub(super) fn serialize<S: Serializer>(when: &Option<Expression>, serializer: S) -> Result<S::Ok, S::Error> {
        match when {
            Some(when) => serializer.serialize_some(when.as_str()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Expression>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let read = |text: String| {
            Expression::parse_of_exchange(&text).map_err(|wrong| {
                let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
                serde::de::Error::custom(format!("`{text}`: {}", wrong.join("; ")))
            })
        };
        text.map(read).transpose()
    }
}
