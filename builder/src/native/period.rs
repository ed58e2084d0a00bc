//! A length of time as people write it: a number with its unit, `250ms`, `1.5s`, `2m`, `1h`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// At least a millisecond, at most a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

impl Period {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let length =
            text.parse::<jiff::SignedDuration>().ok().and_then(|length| Duration::try_from(length).ok());
        let length = length.ok_or_else(|| {
            format!(
                "`{text}` is no length of time: write a number with its unit, like `250ms`, `10s`, `5m`, `1h`"
            )
        })?;
        if length < Duration::from_millis(1) || length > LONGEST {
            return Err(format!("`{text}` is out of range: at least `1ms`, at most a year"));
        }
        Ok(Self(length))
    }

    /// As protobuf's JSON has it: `0.25s`, at most nine digits.
    pub fn to_envoy(self) -> String {
        match self.0.subsec_nanos() {
            0 => format!("{}s", self.0.as_secs()),
            nanos => format!("{}.{}s", self.0.as_secs(), format!("{nanos:09}").trim_end_matches('0')),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_envoy())
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

impl schemars::JsonSchema for Period {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Period".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read_as_people_write_them_and_written_as_envoy_does() {
        for (text, envoy) in [
            ("250ms", "0.25s"),
            ("10s", "10s"),
            ("1.5s", "1.5s"),
            ("2m", "120s"),
            ("1h", "3600s"),
            ("1ms", "0.001s"),
            ("1.833333333s", "1.833333333s"),
        ] {
            assert_eq!(Period::parse(text).unwrap().to_envoy(), envoy, "{text}");
        }
        for wrong in ["", "10", "s", "-1s", "0s", "0.1ms", "99999h", "1..5s"] {
            assert!(Period::parse(wrong).is_err(), "{wrong}");
        }
    }
}
