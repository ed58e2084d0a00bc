//! The status for people: a paragraph for each sidecar, a line for each thing in it.

use std::fmt::Write as _;

use super::{Breaker, Certificate, Filter, Limit, State, Workload};

/// All of them.
pub fn render(workloads: &[Workload]) -> String {
    workloads.iter().map(render_one).collect::<Vec<_>>().join("\n")
}

fn render_one(of: &Workload) -> String {
    let mut text = String::new();
    let mut line = |label: &str, what: String| {
        let _ = writeln!(text, "  {label:<12} {what}");
    };
    if let Some(problem) = &of.problem {
        line("problem", problem.clone());
    }
    of.filters.iter().for_each(|one| line("filter", filter(one)));
    for (what, number) in [
        ("configurations were not taken, what was in force stayed", of.updates_refused),
        ("times the filter trapped and was started again", of.vm_reloads),
        ("requests were refused because the filter had not seen them", of.guard_refused),
    ] {
        if number > 0 {
            line("", format!("{number} {what}"));
        }
    }
    of.certificates
        .iter()
        .for_each(|one| line(if one.authority { "trust" } else { "certificate" }, certificate(one)));
    if !of.filters.is_empty() {
        line(
            "plaintext",
            of.plaintext
                .map_or("refused (STRICT)".to_owned(), |number| format!("{number} let in without TLS")),
        );
    }
    for one in &of.breakers {
        breaker(one).into_iter().for_each(|what| line("breaker", what));
    }
    of.limits.iter().for_each(|one| line("limit", limit(one)));
    let mut head = format!("{}  {}  {}", of.workload, of.at, of.state);
    if let Some(seconds) = of.uptime_seconds {
        head.push_str(&format!(" for {}", span(seconds)));
    }
    if let Some(version) = &of.envoy {
        head.push_str(&format!(", Envoy {version}"));
    }
    format!("{head}\n{text}")
}

fn filter(filter: &Filter) -> String {
    let mut text = match (&filter.role, &filter.revision) {
        (Some(role), Some(revision)) => format!("{role} {revision}, {}", filter.module),
        _ => format!("{}, with a configuration of another version", filter.module),
    };
    if let Some(since) = &filter.since {
        text.push_str(&format!(", since {}", to_seconds(since)));
    }
    text
}

fn certificate(certificate: &Certificate) -> String {
    let left = certificate.seconds_left;
    let when = match u64::try_from(left) {
        Ok(left) if left > 0 => format!("{} left", span(left)),
        _ => format!("EXPIRED {} ago", span(left.unsigned_abs())),
    };
    let name =
        certificate.names.iter().find(|name| name.starts_with("spiffe://")).or(certificate.names.first());
    format!(
        "{}, until {} ({when})",
        name.map_or("without a name", String::as_str),
        to_seconds(&certificate.expires)
    )
}

/// A line for each destination; what has no destination is said once.
fn breaker(breaker: &Breaker) -> Vec<String> {
    let mut lines: Vec<String> = breaker.states.iter().map(|one| state(&breaker.breaker, one)).collect();
    let counts: Vec<String> = [
        (breaker.refused, "refused"),
        (breaker.shadow_refused, "would have been refused"),
        (breaker.untracked, "failures not kept"),
    ]
    .into_iter()
    .filter(|(number, what)| *number > 0 || *what == "refused")
    .map(|(number, what)| format!("{number} {what}"))
    .collect();
    if let Some(first) = lines.first_mut() {
        first.push_str(&format!("; {}", counts.join(", ")));
    }
    lines
}

fn state(name: &str, state: &State) -> String {
    let mut text = name.to_owned();
    if let Some(destination) = &state.destination {
        text.push_str(&format!(" to {destination}"));
    }
    text.push_str(match state.state {
        "open" => ": OPEN",
        "half_open" => ": HALF OPEN",
        _ => ": closed",
    });
    if state.open + state.half_open > 1 {
        text.push_str(&format!(" ({} keys open, {} half open)", state.open, state.half_open));
    }
    if let Some(since) = &state.since {
        text.push_str(&format!(" since {since}"));
    }
    if let Some(reason) = &state.reason {
        text.push_str(&format!(", {reason}"));
    }
    text
}

fn limit(limit: &Limit) -> String {
    let mut text = format!("{} ({})", limit.limit, limit.kind);
    if let Some(percent) = limit.saturation_percent {
        text.push_str(&format!(": {percent} % of the burst used"));
    }
    text.push_str(&format!("; {} allowed, {} refused", limit.allowed, limit.refused));
    if limit.shadow_refused > 0 {
        text.push_str(&format!(", {} would have been refused", limit.shadow_refused));
    }
    text
}

/// `2026-11-25T14:23:58.078Z` without what is below a second.
fn to_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, rest)) if rest.ends_with('Z') => format!("{seconds}Z"),
        _ => time.to_owned(),
    }
}

/// The two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_long_as_they_need_to_be() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (61, "1 min"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(to_seconds("2026-11-25T14:23:58.078Z"), "2026-11-25T14:23:58Z");
        assert_eq!(to_seconds("2026-11-25T14:23:58Z"), "2026-11-25T14:23:58Z");
    }
}
