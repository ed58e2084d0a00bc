//! Envoy's `/stats` as text, and the labels that [`meshward_engine::stats::name`] has put into the names of ours.

use std::collections::BTreeMap;

/// Numbers by name.
#[derive(Clone, Debug, Default)]
pub struct Stats(BTreeMap<String, u64>);

/// A name of ours, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series<'a> {
    labels: Vec<(&'a str, &'a str)>,
    pub value: u64,
}

impl Series<'_> {
    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    /// Whether a label has that value.
    pub fn is(&self, key: &str, value: &str) -> bool {
        self.label(key) == Some(value)
    }
}

impl Stats {
    /// Reads lines of `name: number`; histograms and texts are passed over.
    pub fn parse(text: &str) -> Self {
        let pair = |line: &str| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        Self(text.lines().filter_map(pair).collect())
    }

    /// One of Envoy's own.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// The sum of those with this end; none when there are none.
    pub fn sum(&self, end: &str) -> Option<u64> {
        self.0
            .iter()
            .filter(|(name, _)| name.ends_with(end))
            .map(|(_, value)| *value)
            .reduce(u64::wrapping_add)
    }

    /// All of one of the filter's names.
    pub fn series(&self, base: &str) -> Vec<Series<'_>> {
        let start = format!("wasmcustom.{base}");
        let of_base = |(name, value): (&'_ String, &u64)| -> Option<(usize, u64)> {
            name.strip_prefix(&start).filter(|rest| rest.is_empty() || rest.starts_with('.'))?;
            Some((start.len(), *value))
        };
        let mut found = Vec::new();
        for (name, value) in &self.0 {
            let Some((length, value)) = of_base((name, value)) else { continue };
            let parts: Vec<&str> =
                name.get(length..).unwrap_or_default().trim_start_matches('.').split('.').collect();
            let labels =
                parts.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))).collect();
            found.push(Series { labels, value });
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_as_they_were_put_together() {
        let labels = [("verdict", "deny"), ("policy", "shop/v1.readers/x")];
        let name = meshward_engine::stats::name("meshward_breakers", &labels);
        let text = format!(
            "wasmcustom.{name}: 7\nwasmcustom.meshward_breakers_x.verdict.deny: 1\nhttp.a.rq_total: 3\nhttp.b.rq_total: 4\n\
             h.latency: P0(nan,1.0)\nversion_text: \"\"\n"
        );
        let stats = Stats::parse(&text);
        let series = stats.series("meshward_breakers");
        assert_eq!(series.len(), 1);
        assert_eq!((series[0].value, series[0].label("policy")), (7, Some("shop/v1_readers/x")));
        assert!(series[0].is("verdict", "deny"));
        assert_eq!(
            (stats.sum(".rq_total"), stats.sum("nothing"), stats.get("http.a.rq_total")),
            (Some(7), None, Some(3))
        );
    }
}
