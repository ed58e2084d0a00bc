//! A RateLimitPolicy's YAML → [`RateLimitPolicy`], with every mistake at its place.

use meshward_engine::config::Text;
use meshward_engine::limits::config::{HeaderMode, OnFailure, RateAnswer, Scope, Stage, Window};
use meshward_engine::rate_limit::Rate;
use meshward_engine::rls;

use super::super::rules::Reader;
use super::super::{key, target};
use super::model::{
    HeadersSpec, LimitSpec, ModeSpec, OnFailureSpec, OverrideSpec, RateSpec, ResponseSpec, ScopeSpec,
    StageSpec,
};
use super::{Limit, RateLimitPolicy, model};
use crate::diagnostic::Diagnostic;
use crate::mesh::document::{Document, Spanned};
use crate::policy::authorization::Rule;

/// `whole`: nothing was set aside while reading.
pub(super) fn policy(
    document: &Document,
    written: model::RateLimitPolicy,
    whole: bool,
    namespace: &str,
    mistakes: &mut Vec<Diagnostic>,
) -> RateLimitPolicy {
    let model::RateLimitSpec { selector, target_refs, limits } = written.spec;
    let head = target::head(document, &written.metadata, selector, target_refs, namespace, mistakes);
    let headers = target::repeated_headers(document, &written.metadata, mistakes);
    target::names(document, limits.iter().map(|limit| &limit.name), mistakes);
    let mut reader = Reader { document, whole, namespace: &head.namespace, headers, mistakes };
    if whole && limits.is_empty() {
        let help = "say at least one limit, or take the policy out";
        reader.error("empty-list", "`limits` is there and has no entries", &limits.span, help);
    }
    let limits = limits.value.into_iter().map(|written| limit(&mut reader, written)).collect();
    RateLimitPolicy { head, limits }
}

fn limit(reader: &mut Reader<'_>, written: Spanned<LimitSpec>) -> Limit {
    let span = written.span;
    let written = written.value;
    let name = written.name;
    let rule = reader.rule(&span, written.from, written.to, written.when);
    let key = key::key(reader, written.key);
    let cost = written.cost.as_ref().and_then(|cost| reader.at_least_one("cost", cost)).unwrap_or(1);
    let concurrency = written.concurrency.as_ref().and_then(|most| reader.at_least_one("concurrency", most));
    if reader.whole && written.rates.is_none() && written.concurrency.is_none() {
        let help = "say `rates: [{requests: 100, per: 1s}]`, or `concurrency: 20`";
        reader.error("no-limit", format!("`{}` limits nothing", name.value), &name.span, help);
    }
    let only_of_rates = [
        ("cost", written.cost.as_ref().map(|one| &one.span)),
        ("overrides", written.overrides.as_ref().map(|one| &one.span)),
        ("scope", written.scope.as_ref().map(|one| &one.span)),
        ("onFailure", written.on_failure.as_ref().map(|one| &one.span)),
        ("response", written.response.as_ref().map(|one| &one.span)),
    ];
    if reader.whole && written.rates.is_none() {
        for (field, span) in only_of_rates {
            if let Some(span) = span {
                let help = "take it out, or say `rates`";
                reader.error("only-of-rates", format!("`{field}` belongs to `rates`"), span, help);
            }
        }
    }
    let said = written.rates.as_ref().map_or(0, |rates| rates.len());
    let stage = match written.stage {
        Some(StageSpec::BeforeAuthorization) => Stage::BeforeAuthorization,
        Some(StageSpec::AfterAuthorization) | None => Stage::AfterAuthorization,
    };
    let scope = scope(reader, written.scope.as_ref(), written.on_failure.as_ref());
    if let (Scope::Global(_), Some(place)) = (scope, &written.scope) {
        let overrides = written.overrides.iter().flat_map(|list| list.iter());
        let overrides = overrides.filter_map(|one| one.value.rates.as_ref());
        global(reader, place, stage, written.rates.iter().chain(overrides));
    }
    let windows = written.rates.map(|rates| windows(reader, &rates, cost)).unwrap_or_default();
    let overrides = written.overrides.map(|list| list.value).unwrap_or_default();
    Limit {
        name,
        rule,
        key,
        stage,
        scope,
        shadow: written.mode == Some(ModeSpec::Shadow),
        cost,
        windows,
        overrides: overrides.into_iter().filter_map(|one| other(reader, one, said, cost)).collect(),
        answer: answer(reader, written.response),
        concurrency,
    }
}

fn scope(
    reader: &mut Reader<'_>,
    written: Option<&Spanned<ScopeSpec>>,
    on_failure: Option<&Spanned<OnFailureSpec>>,
) -> Scope {
    let scope = match written.map(|scope| scope.value) {
        Some(ScopeSpec::Global) => Scope::Global(match on_failure.map(|one| one.value) {
            Some(OnFailureSpec::FailOpen) => OnFailure::Open,
            Some(OnFailureSpec::FailClosed) => OnFailure::Closed,
            Some(OnFailureSpec::Local) | None => OnFailure::Local,
        }),
        Some(ScopeSpec::Service) => Scope::Service,
        Some(ScopeSpec::Sidecar) | None => Scope::Sidecar,
    };
    if let Some(on_failure) = on_failure.filter(|_| reader.whole && !matches!(scope, Scope::Global(_))) {
        let help = "take it out, or say `scope: global`";
        reader.error("only-of-global", "`onFailure` belongs to `scope: global`", &on_failure.span, help);
    }
    scope
}

/// What a service of Envoy's protocol cannot count: it knows one rate of a limit, in windows of four lengths.
fn global<'a>(
    reader: &mut Reader<'_>,
    scope: &Spanned<ScopeSpec>,
    stage: Stage,
    rates: impl Iterator<Item = &'a Spanned<Vec<Spanned<RateSpec>>>>,
) {
    const LOCAL: &str = "or take `scope: service`, where each sidecar has its share";
    if stage == Stage::BeforeAuthorization {
        let message = "a limit before authorization is against floods, which would go on to the service";
        let help = format!("take `stage` out, {LOCAL}");
        reader.error("global-limit", message, &scope.span, &help);
    }
    for rates in rates {
        if let Some(second) = rates.get(1) {
            let help = format!("make several limits of it, {LOCAL}");
            reader.error("global-limit", "the service counts one rate of a limit", &second.span, &help);
        }
        for rate in rates.iter() {
            let period = rate.per.parse::<jiff::SignedDuration>().ok();
            let period = period.and_then(|period| u64::try_from(period.as_nanos()).ok());
            if period.is_some_and(|period| rls::unit(period).is_none()) {
                let message = format!("the service has no windows of `{}`", rate.per.value);
                let help = format!("write `1s`, `1m`, `1h` or `24h`, {LOCAL}");
                reader.error("global-limit", message, &rate.per.span, &help);
            }
            if let Some(burst) = &rate.burst {
                let message = "the service has no bursts: all of a window may come at once";
                let help = format!("take `burst` out, {LOCAL}");
                reader.error("global-limit", message, &burst.span, &help);
            }
        }
    }
}

fn windows(reader: &mut Reader<'_>, rates: &Spanned<Vec<Spanned<RateSpec>>>, cost: u32) -> Vec<Window> {
    if reader.whole && rates.is_empty() {
        let help = "say `rates: [{requests: 100, per: 1s}]`, or take it out";
        reader.error("empty-list", "`rates` is there and has no entries", &rates.span, help);
    }
    rates.iter().filter_map(|rate| window(reader, rate, cost)).collect()
}

fn window(reader: &mut Reader<'_>, written: &Spanned<RateSpec>, cost: u32) -> Option<Window> {
    let requests = reader.at_least_one("requests", &written.requests);
    let period = reader.duration("per", &written.per);
    let burst = written.burst.as_ref().map_or(requests, |burst| reader.at_least_one("burst", burst));
    let (requests, period, burst) = (requests?, period?, burst?);
    if let Err(error) = Rate::new(requests, period, burst) {
        let help = "take a longer `per` with more `requests`, or a smaller `burst`";
        reader.error("invalid-rate", format!("this rate cannot be kept: {error}"), &written.span, help);
        return None;
    }
    if cost > burst {
        let message = format!("a request costs {cost}, more than the burst of {burst}: it would never pass");
        let place = written.burst.as_ref().map_or(&written.requests.span, |burst| &burst.span);
        reader.error("cost-over-burst", message, place, "make `burst` at least as large as `cost`");
        return None;
    }
    Some(Window { name: Text::from(written.per.value.as_str()), requests, period, burst })
}

fn other(
    reader: &mut Reader<'_>,
    written: Spanned<OverrideSpec>,
    windows_of_limit: usize,
    cost: u32,
) -> Option<(Rule, Vec<Window>)> {
    let OverrideSpec { from, to, when, rates, unlimited } = written.value;
    let rule = reader.rule(&written.span, from, to, when);
    if rule.is_none() && reader.whole {
        let help = "say `from`, or change the limit's own `rates`";
        reader.error("override-for-all", "an override without `from` is for everybody", &written.span, help);
    }
    let is_unlimited = unlimited.as_ref().is_some_and(|flag| flag.value);
    if reader.whole && is_unlimited == rates.is_some() {
        let message = "an override has either `rates` or `unlimited: true`";
        reader.error("override", message, &written.span, "say which of them is meant");
    }
    let found = match &rates {
        Some(rates) => windows(reader, rates, cost),
        None => Vec::new(),
    };
    if let Some(rates) = &rates
        && rates.len() != windows_of_limit
    {
        let message =
            format!("an override has as many rates as its limit, {windows_of_limit}, in the same order");
        reader.error("override-rates", message, &rates.span, "repeat the rates that do not change");
    }
    Some((rule?, found))
}

fn answer(reader: &mut Reader<'_>, written: Option<Spanned<ResponseSpec>>) -> RateAnswer {
    let written = written.map(|response| response.value).unwrap_or_default();
    let status = written.status.as_ref().map_or(429, |status| status.value);
    if let Some(written) = written.status.filter(|status| !(400..600).contains(&status.value)) {
        let message = format!("{} is no status of a refusal", written.value);
        let help = "write a number from 400 to 599; 429 is what clients expect";
        reader.error("invalid-status", message, &written.span, help);
    }
    RateAnswer {
        status,
        headers: match written.headers {
            Some(HeadersSpec::Never) => HeaderMode::Never,
            Some(HeadersSpec::Refused) | None => HeaderMode::Refused,
            Some(HeadersSpec::Always) => HeaderMode::Always,
        },
        problem: written.problem.unwrap_or(false),
    }
}
