//! The interface's description beside the types on the wire: the same names in both.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use crate::{
    cli::render::fixtures,
    control::{
        api::{Applies, Canary, Decision, Done, INTERFACE, METHODS, Response, tests::every_request},
        dispatch::DESCRIPTION,
    },
};

type Names = BTreeSet<String>;

/// The keys of a JSON object.
fn keys(value: &impl Serialize) -> Names {
    let Value::Object(object) = serde_json::to_value(value).unwrap() else { panic!("it is no object") };
    object.keys().cloned().collect()
}

/// The names between the next parentheses of `text`, and what follows.
fn names(text: &str) -> (Names, &str) {
    let (inside, rest) = text.split_once('(').and_then(|(_, text)| text.split_once(')')).unwrap();
    let names = inside.split(',').filter_map(|field| field.split(':').next());
    (names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect(), rest)
}

/// What follows the keyword and the name in the description.
fn described(keyword: &str, name: &str) -> &'static str {
    let line = format!("\n{keyword} {name}");
    let mut places = DESCRIPTION.match_indices(&line).map(|(at, line)| &DESCRIPTION[at + line.len()..]);
    // Not of a longer name that begins with this one.
    let found = places.find(|rest| rest.starts_with([' ', '(']));
    found.unwrap_or_else(|| panic!("{keyword} {name} is not described"))
}

#[test]
fn parameters_are_described_as_they_are() {
    for request in every_request() {
        let name = request.method().strip_prefix(&format!("{INTERFACE}.")).unwrap();
        let written = serde_json::to_value(&request).unwrap();
        assert_eq!(names(described("method", name)).0, keys(&written["parameters"]), "{name}");
    }
}

#[test]
fn answers_are_described_as_they_are() {
    let done = keys(&Done { answers: 0, milliseconds: 0 });
    for name in METHODS {
        let answers = fixtures::answers();
        let is_of = |answer: &&Response| match answer {
            Response::Change(_) => matches!(name, "SetPolicy" | "SetWeight"),
            Response::Receipt(_) => matches!(name, "Restart" | "Drain" | "DrainAll" | "Scale" | "Stop"),
            Response::Event(_) => name == "Events",
            Response::Adopted(_) => name == "Adopt",
            Response::Done(_) => false,
            other => format!("{other:?}").starts_with(&format!("{name}(")),
        };
        let mut fields = answers.iter().find(is_of).map(keys).unwrap_or_default();
        if fields.is_empty() || matches!(name, "Events" | "Restart" | "Drain" | "DrainAll" | "Scale" | "Stop")
        {
            fields.extend(done.clone());
        }
        let (_, rest) = names(described("method", name));
        assert_eq!(names(rest).0, fields, "{name}");
    }
}

#[test]
fn types_are_described_as_they_are_and_no_other_is() {
    let (group, table) = (fixtures::status().groups.remove(0), fixtures::table());
    let (policy, change, receipt) = (fixtures::policy(), fixtures::change(), fixtures::receipt());
    let (reload, flows) = (fixtures::reload(), fixtures::flows());
    let types = [
        ("Counters", keys(&group.counters)),
        ("Asked", keys(&group.counters.asked)),
        ("Outcomes", keys(&group.counters.outcome)),
        ("FlowEvents", keys(&group.counters.flows)),
        ("IdEvents", keys(&group.counters.ids)),
        ("GenerationFlows", keys(&flows.by_generation[0])),
        ("FlowOf", keys(&flows.flows[0])),
        ("Drains", keys(&group.drains)),
        ("WorkerStatus", keys(&group.workers[0])),
        ("GroupStatus", keys(&group)),
        ("CanaryStatus", keys(&fixtures::canary())),
        ("TableShare", keys(&table.shares[0])),
        ("Placed", keys(&change.clients[0].before)),
        ("WorkerPolicy", keys(&policy.members[1])),
        ("Ramp", keys(&policy.members[1].ramp.unwrap())),
        ("ShareChange", keys(&change.shares[0])),
        ("FlowsMoved", keys(&change.open)),
        ("PlacedAnew", keys(&change.clients[0])),
        ("Canary", keys(&Canary { permille: 1, hold_ms: None })),
        ("Count", keys(&receipt.flows)),
        ("Step", keys(&receipt.steps[0])),
        ("GroupReload", keys(&reload.reloaded[1])),
        ("KeyChange", keys(&reload.daemon[0])),
        ("Applies", [Applies::Now, Applies::NextGeneration].map(word).into()),
        ("Receipt", keys(&receipt)),
        ("AdoptTarget", ["unit", "address", "pid", "cgroup", "container"].map(str::to_owned).into()),
        ("AdoptedAddress", keys(&fixtures::adopted().listen[0])),
        ("Decision", [Decision::Proceed, Decision::Abort].map(word).into()),
    ];
    for (name, fields) in &types {
        assert_eq!(&names(described("type", name)).0, fields, "{name}");
    }
    assert_eq!(DESCRIPTION.matches("\ntype ").count(), types.len());
}

fn word(value: impl Serialize) -> String {
    serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
}
