//! What is filled in for each worker in a command, a variable or a directory. Pure.

use crate::names::WorkerName;

/// Replaces `{group}`, `{worker}` and `{generation}` by the group's name, the worker's index and the generation's number, for paths that each
/// has for itself. Doubled braces stand for themselves: `{{worker}}` is passed on as `{worker}`.
pub(crate) fn fill_in(text: &str, name: &WorkerName, generation: u64) -> String {
    let names = [
        ("group", name.group.to_string()),
        ("worker", name.index.to_string()),
        ("generation", generation.to_string()),
    ];
    let mut rest = text;
    let mut filled = String::with_capacity(text.len());
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        let from = &rest[at..];
        let literal = names.iter().find_map(|(name, _)| {
            let doubled = format!("{{{{{name}}}}}");
            from.starts_with(&doubled).then_some((doubled.len(), format!("{{{name}}}")))
        });
        let value = || {
            names.iter().find_map(|(name, value)| {
                let placeholder = format!("{{{name}}}");
                from.starts_with(&placeholder).then_some((placeholder.len(), value.clone()))
            })
        };
        let (length, with) = literal.or_else(value).unwrap_or((1, "{".to_owned()));
        filled.push_str(&with);
        rest = &from[length..];
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_paths_of_its_own() {
        let name = "web/3".parse().unwrap();
        let filled = |text| fill_in(text, &name, 12);
        assert_eq!(filled("/run/{group}-{worker}/{generation}.pid"), "/run/web-3/12.pid");
        assert_eq!(filled("{{worker}} {worker}"), "{worker} 3");
        for text in ["", "{", "}{", "{}", "{other} {work", "{\"worker\": {}}", "{é{"] {
            assert_eq!(filled(text), text);
        }
    }
}
