//! Whether one part of a policy matches all that another one matches. "No" may mean "not seen": findings stay right.

use meshward_engine::config::{Attribute, Clause, Match, Pattern, Rule};

/// Whether `wide` matches every request that `narrow` matches.
pub fn rule(wide: &Rule, narrow: &Rule) -> bool {
    any_of(&wide.from, &narrow.from)
        && any_of(&wide.to, &narrow.to)
        // What `narrow` says anywhere may imply what `wide` says in `when`.
        && wide.when.matches().iter().all(|one| {
            let alone = |clauses: &[Clause]| {
                !clauses.is_empty()
                    && clauses.iter().all(|clause| clause.matches().iter().any(|other| implied(one, other)))
            };
            narrow.when.matches().iter().any(|other| implied(one, other)) || alone(&narrow.from) || alone(&narrow.to)
        })
}

/// Lists of which one that holds is enough; an empty one holds always.
fn any_of(wide: &[Clause], narrow: &[Clause]) -> bool {
    wide.is_empty()
        || !narrow.is_empty() && narrow.iter().all(|narrow| wide.iter().any(|wide| clause(wide, narrow)))
}

fn clause(wide: &Clause, narrow: &Clause) -> bool {
    wide.matches().iter().all(|one| narrow.matches().iter().any(|other| implied(one, other)))
}

/// Whether `one` holds wherever `other` does.
fn implied(one: &Match, other: &Match) -> bool {
    if one.attribute != other.attribute || one.negated != other.negated {
        return false;
    }
    let (wide, narrow) = if one.negated { (other, one) } else { (one, other) };
    narrow
        .patterns
        .iter()
        .all(|narrow| wide.patterns.iter().any(|wide| pattern(&one.attribute, wide, narrow)))
}

/// Whether `wide` matches every value that `narrow` matches.
pub fn pattern(attribute: &Attribute, wide: &Pattern, narrow: &Pattern) -> bool {
    if *attribute == Attribute::Host {
        return plain(&wide.to_lowercase(), &narrow.to_lowercase());
    }
    plain(wide, narrow)
}

fn plain(wide: &Pattern, narrow: &Pattern) -> bool {
    match (wide, narrow) {
        _ if wide == narrow => true,
        (Pattern::Any, other) => {
            !matches!(other, Pattern::Cidr { .. } | Pattern::Port(_) | Pattern::ServiceAccount { .. })
        }
        (Pattern::Prefix(wide), Pattern::Prefix(narrow)) => narrow.starts_with(&**wide),
        (Pattern::Prefix(wide), Pattern::Template(narrow)) => {
            let fixed = narrow.split('{').next().unwrap_or(narrow);
            fixed.starts_with(&**wide)
        }
        (Pattern::Suffix(wide), Pattern::Suffix(narrow)) => narrow.ends_with(&**wide),
        (wide @ Pattern::Cidr { prefix, .. }, Pattern::Cidr { address, prefix: narrow }) => {
            prefix <= narrow && wide.matches_address(*address)
        }
        (wide, Pattern::Exact(text)) => wide.matches(text.as_bytes()),
        _ => false,
    }
}
