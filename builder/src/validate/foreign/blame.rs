//! Envoy's words about a configuration → the place in it that they are about.
//!
//! Envoy names a path (`static_resources.listeners[0]…`), a chain of messages (`caused by ClusterValidationError.…`), a
//! position (yaml-cpp), or the thing itself in quotes. What it says of none of those is about the whole.

use super::located::{Content, Located, Place, snake};

/// What is wrong, in Envoy's words without their wrapping; and where.
pub struct Blame {
    pub message: String,
    pub place: Option<Place>,
}

/// What Envoy printed when it refused `config`.
pub fn blame(said: &str, config: &Located) -> Blame {
    let message = message(said);
    let place = by_path(&message, config)
        .or_else(|| by_messages(&message, config))
        .or_else(|| by_quotes(&message, config));
    Blame { message: short(&message), place }
}

/// The line and column that yaml-cpp complains of, from 1.
pub fn position(said: &str) -> Option<(usize, usize)> {
    let (_, rest) = said.split_once("yaml-cpp: error at line ")?;
    let (line, rest) = rest.split_once(", column ")?;
    let column: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((line.parse().ok()?, column.parse().ok()?))
}

/// The sentence behind `error initializing configuration`, its white space evened out, without the configuration that
/// Envoy prints with it.
fn message(said: &str) -> String {
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let after = match words.split_once("error initializing configuration '") {
        Some((_, rest)) => rest.split_once("': ").map_or(rest, |(_, message)| message),
        None => words.as_str(),
    };
    if let Some((_, broken)) = after.split_once(": Proto constraint validation failed ") {
        return format!("Proto constraint validation failed {broken}");
    }
    // `Unable to parse JSON as proto (…): {the whole of it}`
    after.split_once("): {\"").map_or_else(|| after.to_owned(), |(message, _)| format!("{message})"))
}

/// The end of the message: what is wrong, without the way there.
fn short(message: &str) -> String {
    if let Some((_, last)) = message.rsplit_once("ValidationError.") {
        return last
            .trim_end_matches(')')
            .replacen(':', "", 1)
            .split_once(' ')
            .map_or_else(|| last.to_owned(), |(field, rule)| format!("`{}`: {rule}", snake(field)));
    }
    if let Some((_, rest)) = message.split_once("INVALID_ARGUMENT: ") {
        let rest = rest.trim_end_matches(" has unknown fields").trim_end_matches(')');
        // `… near 1:430 (offset 429): no such field: 'x'`: a position in a text that nobody has.
        let rest = rest.split_once("): ").map_or(rest, |(_, rest)| rest);
        return rest.replace(": '", " '");
    }
    message.to_owned()
}

/// `@ static_resources.listeners[0].typed_config.<any>: … no such field: 'x'`.
fn by_path(message: &str, config: &Located) -> Option<Place> {
    let (_, rest) = message.split_once(" @ ")?;
    let path = rest.split(": ").next()?.trim_end_matches(':');
    let (node, mut place) = follow(config, path)?;
    if let Some((_, rest)) = message.split_once("no such field: '")
        && let Some((name, _)) = rest.split_once('\'')
        && let Some(entry) = node.entries().iter().find(|entry| entry.key == name)
    {
        place = entry.at.clone();
    }
    Some(place)
}

/// A path of fields and indices: the value, and where its key is (or itself, in a list).
fn follow<'a>(config: &'a Located, path: &str) -> Option<(&'a Located, Place)> {
    let (mut node, mut place) = (config, config.place.clone());
    for part in path.split('.').filter(|part| !part.is_empty() && *part != "<any>") {
        let (name, index) = match part.split_once('[') {
            Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let entry = node.entry(name)?;
        (node, place) = (&entry.value, entry.at.clone());
        if let Some(index) = index {
            node = node.items().get(index).copied()?;
            place = head(node);
        }
    }
    // A scalar is its own place.
    if let Content::Scalar(_) = node.content {
        place = node.place.clone();
    }
    Some((node, place))
}

/// The first key of a mapping: a short place to point at.
pub fn head(node: &Located) -> Place {
    node.entries().first().map_or_else(|| node.place.clone(), |entry| entry.at.clone())
}

/// `(BootstrapValidationError.StaticResources: … | caused by ClusterValidationError.Name: value length …)`.
fn by_messages(message: &str, config: &Located) -> Option<Place> {
    let (_, chain) = message.split_once("Proto constraint validation failed (")?;
    let steps: Vec<(&str, &str)> = chain
        .split(" | caused by ")
        .filter_map(|step| {
            let (name, rest) = step.trim_start_matches("caused by ").split_once("ValidationError.")?;
            Some((name, rest.split(':').next().unwrap_or(rest)))
        })
        .collect();
    let (first, _) = steps.first()?;
    let path: Vec<String> = steps
        .iter()
        .map(|(_, field)| {
            let (name, index) = field.find('[').map_or((*field, ""), |at| field.split_at(at));
            format!("{}{index}", snake(name))
        })
        .collect();
    let starts: Vec<&Located> = if *first == "Bootstrap" { vec![config] } else { of_type(config, first) };
    // The message may stand for several; the first that has all of the path but its end, which may be what is missing.
    let mut nearest = None;
    for start in starts {
        if let Some((_, place)) = follow(start, &path.join(".")) {
            return Some(place);
        }
        if nearest.is_none() {
            let above = path.split_last().map(|(_, above)| above.join(".")).unwrap_or_default();
            nearest = follow(start, &above).map(|(node, _)| head(node));
        }
    }
    nearest
}

/// The messages of a type, and the resources that have no type where they are written.
fn of_type<'a>(config: &'a Located, name: &str) -> Vec<&'a Located> {
    let mut found = Vec::new();
    let resources = config.field("static_resources");
    let list = match name {
        "Listener" => Some("listeners"),
        "Cluster" => Some("clusters"),
        "Secret" => Some("secrets"),
        _ => None,
    };
    if let Some(resources) = list.and_then(|list| resources?.field(list)) {
        found.extend(resources.items());
    }
    typed(config, name, &mut found);
    found
}

fn typed<'a>(node: &'a Located, name: &str, found: &mut Vec<&'a Located>) {
    let kind = node.field("@type").and_then(Located::text);
    if kind.is_some_and(|kind| kind.rsplit('.').next() == Some(name)) {
        found.push(node);
    }
    match &node.content {
        Content::Map(entries) => entries.iter().for_each(|entry| typed(&entry.value, name, found)),
        Content::List(items) => items.iter().for_each(|item| typed(item, name, found)),
        Content::Scalar(_) => {}
    }
}

/// What is in quotes, or is a type's or a file's name: the last value or key that is written so. The definition of a
/// thing comes before its use more often than not, and its use is what is wrong.
fn by_quotes(message: &str, config: &Located) -> Option<Place> {
    let mut words: Vec<&str> = Vec::new();
    for quote in ['\'', '"', '`'] {
        words.extend(message.split(quote).skip(1).step_by(2));
    }
    let bare = message.split(' ').map(|word| word.trim_end_matches(['.', ',', ':', ')']));
    words.extend(bare.filter(|word| word.starts_with('/') || word.contains("envoy.")));
    // `missing ): (`
    words.extend(message.rsplit(": ").next());
    let named = message.contains("duplicate");
    words.into_iter().filter(|word| !word.is_empty()).find_map(|word| {
        let name = named.then(|| last_name(config, word)).flatten();
        name.or_else(|| last(config, word))
    })
}

/// The last thing that is called so.
fn last_name(node: &Located, word: &str) -> Option<Place> {
    match &node.content {
        Content::Scalar(_) => None,
        Content::List(items) => items.iter().rev().find_map(|item| last_name(item, word)),
        Content::Map(entries) => entries.iter().rev().find_map(|entry| {
            let is = entry.key == "name" && entry.value.text() == Some(word);
            last_name(&entry.value, word).or_else(|| is.then(|| entry.value.place.clone()))
        }),
    }
}

fn last(node: &Located, word: &str) -> Option<Place> {
    match &node.content {
        Content::Scalar(value) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (text == word).then(|| node.place.clone())
        }
        Content::List(items) => items.iter().rev().find_map(|item| last(item, word)),
        Content::Map(entries) => entries.iter().rev().find_map(|entry| {
            last(&entry.value, word).or_else(|| (entry.key == word).then(|| entry.at.clone()))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::tree::Tree;

    const CONFIG: &str = "static_resources:\n  listeners:\n  - name: in\n    filterChains:\n    - filters:\n      - typed_config:\n          \"@type\": type.googleapis.com/x.HttpConnectionManager\n          stat_prefix: ''\n  clusters:\n  - name: app\n    connect_timeout: 1x\n";

    fn at(said: &str) -> (String, Option<String>) {
        let tree = Tree::parse(CONFIG).unwrap();
        let config = Located::read(&tree, tree.documents()[0], 0).unwrap();
        let blame = blame(said, &config);
        (blame.message, blame.place.map(|place| CONFIG[place.span].to_owned()))
    }

    fn check(said: &str, message: &str, place: &str) {
        assert_eq!(at(said), (message.to_owned(), Some(place.to_owned())), "{said}");
    }

    #[test]
    fn every_way_of_envoy_to_name_a_place() {
        check(
            "[t][critical] error initializing configuration 'x.yaml': Protobuf message (type envoy.config.bootstrap.v3.Bootstrap reason INVALID_ARGUMENT: invalid JSON in   envoy.config.bootstrap.v3.Bootstrap   @ static_resources.clusters[0]:  message envoy.Cluster, near 1:4 (offset 4):   no such field:  'connect_timeout') has unknown fields",
            "no such field 'connect_timeout'",
            "connect_timeout",
        );
        check(
            "x: Unable to parse JSON as proto (INVALID_ARGUMENT: invalid JSON in B @ static_resources.clusters[0].connect_timeout: message google.protobuf.Duration, near 1:2 (offset 2): duration must end with a single 's'): {\"static_resources\":{}}",
            "duration must end with a single 's'",
            "1x",
        );
        check(
            "error initializing configuration 'x': goo.gle/debugonly\nstat\n: Proto constraint validation failed (HttpConnectionManagerValidationError.StatPrefix: value length must be at least 1 characters)",
            "`stat_prefix`: value length must be at least 1 characters",
            "''",
        );
        check(
            "y: Proto constraint validation failed (BootstrapValidationError.StaticResources: embedded message failed validation | caused by StaticResourcesValidationError.Listeners[0]: embedded message failed validation | caused by ListenerValidationError.FilterChains[0]: no)",
            "`filter_chains[0]`: no",
            "filters",
        );
        check("x 'f.yaml': route: unknown cluster 'app'", "x 'f.yaml': route: unknown cluster 'app'", "app");
        assert_eq!(at("killed").1, None);
        assert_eq!(position("a: yaml-cpp: error at line 5, column 4: end"), Some((5, 4)));
    }
}
