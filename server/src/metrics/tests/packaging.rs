//! The dashboard and the alert rules ask for metrics and labels that there are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{exposed, snapshot};

const DASHBOARD: &str = include_str!("../../../packaging/grafana-dashboard.json");
const ALERTS: &str = include_str!("../../../packaging/alerts.yaml");

/// The labels that Prometheus itself gives to what it scrapes.
const GIVEN: [&str; 2] = ["instance", "job"];

/// The labels of each metric, by the name that a scraper stores.
fn there_is() -> BTreeMap<String, BTreeSet<String>> {
    let mut metrics = BTreeMap::<String, BTreeSet<String>>::new();
    for sample in exposed(snapshot()).samples() {
        metrics.entry(sample.name.clone()).or_default().extend(sample.labels.keys().cloned());
    }
    metrics
}

/// What an expression of PromQL asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    metrics: BTreeSet<String>,
    /// Labels in the braces after a metric.
    matched: BTreeSet<(String, String)>,
    /// Labels of `by`, `on`, `without` and so on.
    grouped: BTreeSet<String>,
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Names of other things than metrics (functions, keywords, numbers) begin with neither prefix.
fn asked(expression: &str) -> Asked {
    let mut asked = Asked::default();
    let mut rest = expression;
    while let Some(at) = rest.find(is_of_a_name) {
        let end = rest[at..].find(|c| !is_of_a_name(c)).map_or(rest.len(), |length| at + length);
        let (word, after) = (&rest[at..end], &rest[end..]);
        rest = after;
        if word.starts_with("steer_") || word.starts_with("process_") {
            asked.metrics.insert(word.to_owned());
            if let Some((inside, after)) = after.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
                let labels = inside.split(',').filter_map(|matcher| matcher.split(['=', '!']).next());
                let labels = labels.map(str::trim).filter(|label| !label.is_empty());
                asked.matched.extend(labels.map(|label| (word.to_owned(), label.to_owned())));
                rest = after;
            }
        } else if ["by", "on", "without", "ignoring", "group_left", "group_right"].contains(&word)
            && let Some((inside, after)) =
                after.trim_start().strip_prefix('(').and_then(|inside| inside.split_once(')'))
        {
            let labels = inside.split(',').map(str::trim).filter(|label| !label.is_empty());
            asked.grouped.extend(labels.map(str::to_owned));
            rest = after;
        }
    }
    asked
}

/// The names in `{{name}}` and `{{ $labels.name }}`.
fn placeholders(text: &str) -> BTreeSet<String> {
    let inner =
        text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(inner, _)| inner.trim());
    let names = inner.map(|inner| inner.strip_prefix("$labels.").unwrap_or(inner));
    names.filter(|name| name.chars().all(is_of_a_name)).map(str::to_owned).collect()
}

/// All strings under these keys, however deep.
fn strings<'a>(value: &'a Value, keys: &[&str], found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str() {
                    Some(text) if keys.contains(&key.as_str()) => found.push(text),
                    _ => strings(value, keys, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| strings(value, keys, found)),
        _ => {}
    }
}

/// The expressions of the rules, each on one line, and the rest of the file.
fn alerts() -> (Vec<&'static str>, Vec<&'static str>) {
    let (expressions, rest): (Vec<_>, Vec<_>) =
        ALERTS.lines().map(str::trim).partition(|line| line.starts_with("expr: "));
    let of = |line: &'static str| line.strip_prefix("expr: ").unwrap_or(line);
    (expressions.into_iter().map(of).collect(), rest)
}

#[track_caller]
fn check(expressions: &[&str], shown: &[&str]) {
    let there_is = there_is();
    let labels: BTreeSet<&str> = there_is.values().flatten().map(String::as_str).chain(GIVEN).collect();
    for expression in expressions {
        let asked = asked(expression);
        assert!(!asked.metrics.is_empty(), "{expression} asks for nothing");
        for metric in &asked.metrics {
            assert!(there_is.contains_key(metric), "{expression}: there is no {metric}");
        }
        for (metric, label) in &asked.matched {
            let has = there_is[metric].contains(label) || GIVEN.contains(&label.as_str());
            assert!(has, "{expression}: {metric} has no label {label}");
        }
        for label in &asked.grouped {
            assert!(labels.contains(label.as_str()), "{expression}: no metric has a label {label}");
        }
    }
    for text in shown {
        for label in placeholders(text) {
            assert!(labels.contains(label.as_str()) || label == "$value", "{text}: no label {label}");
        }
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let (mut expressions, mut shown) = (Vec::new(), Vec::new());
    strings(&dashboard["panels"], &["expr"], &mut expressions);
    strings(&dashboard["panels"], &["legendFormat"], &mut shown);
    strings(&dashboard["templating"], &["definition"], &mut expressions);
    assert!(expressions.len() > 15, "{expressions:#?}");
    check(&expressions, &shown);
    let mut identities = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(identities.insert(panel["id"].as_u64().unwrap()), "the id of {panel} is another's");
    }
}

#[test]
fn the_alerts_ask_for_what_there_is() {
    let (expressions, rest) = alerts();
    assert!(expressions.len() > 5, "{expressions:#?}");
    check(&expressions, &rest);
    // Nothing that is an expression escapes for being written otherwise.
    assert!(rest.iter().all(|line| !line.contains("expr") && asked(line).metrics.is_empty()), "{rest:#?}");
    let rules = rest.iter().filter(|line| line.starts_with("- alert: ")).count();
    assert_eq!(rules, expressions.len());
}

#[test]
fn names_and_labels_are_found_in_expressions() {
    let found = asked(
        "sum by (group, worker) (rate(steer_a_total{group=~\"$group\", state!=\"x\"}[5m])) / on(group) group_left steer_b > 0.5",
    );
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(found.metrics, set(&["steer_a_total", "steer_b"]));
    assert_eq!(found.grouped, set(&["group", "worker"]));
    let matched = ["group", "state"].map(|label| ("steer_a_total".to_owned(), label.to_owned()));
    assert_eq!(found.matched, matched.into());
    assert_eq!(placeholders("{{ $labels.worker }} at {{group}}"), set(&["worker", "group"]));
}
