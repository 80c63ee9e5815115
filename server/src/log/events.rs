//! What happens to groups, in the log: as fields, and at the level that it deserves.

use crate::{
    engine::effect::AboutProcess,
    names::{GroupName, WorkerName},
};

/// The first field of such a message, after its text: what happened, in one word.
pub(super) const FIELD: &str = "event";

/// Where these messages come from, for RUST_LOG.
const TARGET: &str = "steer::events";

/// What has happened.
#[derive(Debug, Clone, Copy)]
pub struct Happened<'a> {
    /// In one word.
    pub kind: &'a str,
    /// The group that it has happened to.
    pub group: &'a GroupName,
    /// The worker.
    pub worker: Option<&'a WorkerName>,
    /// The generation.
    pub generation: Option<u64>,
    /// What is known of its process.
    pub process: &'a AboutProcess,
    /// The rest, for people.
    pub detail: &'a str,
}

/// Whether somebody should look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Calls {
    /// No: it was asked for, or is over.
    Nobody,
    /// Yes: something is lost or does not work.
    Somebody,
    /// Where a process has ended that was not told to.
    UnlessTold,
}

/// Every event that there is.
const EVENTS: [(&str, Calls); 41] = {
    use Calls::{Nobody, Somebody, UnlessTold};
    [
        ("abandoned", Somebody),
        ("added", Nobody),
        ("adopted", Nobody),
        ("binds", Nobody),
        ("bound-elsewhere", Somebody),
        ("canary", Nobody),
        ("canary-over", Nobody),
        ("deadline", Somebody),
        ("drained", Nobody),
        ("draining", Nobody),
        ("exited", UnlessTold),
        ("hold-ended", Nobody),
        ("hold-failed", Somebody),
        ("hold-lost", Somebody),
        ("hold-over", Somebody),
        ("inherits", Nobody),
        ("left-behind", Somebody),
        ("left-cgroup", Somebody),
        ("listener-lost", Somebody),
        ("lost", Somebody),
        ("mended", Somebody),
        ("policy", Nobody),
        ("publish-failed", Somebody),
        ("reconfigured", Nobody),
        ("recovered", Nobody),
        ("refused", Somebody),
        ("released", Nobody),
        ("reloaded", Nobody),
        ("removed", Nobody),
        ("restarted", Nobody),
        ("sockets", Nobody),
        ("stalled", Somebody),
        ("start-failed", Somebody),
        ("started", Nobody),
        ("state-saved", Nobody),
        ("state-unsaved", Somebody),
        ("stranger", Somebody),
        ("taken-over", Nobody),
        ("unused-sockets", Somebody),
        ("weight", Nobody),
        ("working", Nobody),
    ]
};

fn calls_somebody(kind: &str, process: &AboutProcess) -> bool {
    let calls = EVENTS.iter().find(|(known, _)| *known == kind).map(|(_, calls)| *calls);
    match calls {
        Some(Calls::Somebody) => true,
        Some(Calls::UnlessTold) => !process.was_told,
        Some(Calls::Nobody) | None => false,
    }
}

/// Writes it to the log. As text it is one sentence; as an object it has a field for each thing as well.
pub fn log(happened: &Happened<'_>) {
    let Happened { kind, group, worker, generation, process, detail } = *happened;
    let object = worker.map_or_else(|| group.to_string(), ToString::to_string);
    let number = generation.map(|number| format!(" generation {number}")).unwrap_or_default();
    // A level has to be a constant.
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                target: TARGET,
                event = kind,
                group = %group,
                worker = worker.map(tracing::field::display),
                generation,
                pid = process.pid,
                exit = process.exit,
                detail,
                "{object}{number} {kind}: {detail}"
            )
        };
    }
    if calls_somebody(kind, process) { log!(warn) } else { log!(info) }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        path::{Path, PathBuf},
    };

    use super::*;

    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    /// The first words that are passed to what adds events, wherever the line breaks.
    fn kinds(source: &str) -> BTreeSet<String> {
        let calls = ["note(", "journal(", "journal.add(", "journal().add("];
        let arguments = calls.iter().flat_map(|call| source.split(call).skip(1));
        let kinds = arguments.filter_map(|text| text.trim_start().strip_prefix('"')?.split('"').next());
        let is_word = |kind: &&str| kind.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        kinds.filter(is_word).map(str::to_owned).collect()
    }

    #[test]
    fn every_event_of_the_sources_is_in_the_table() {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        let found: BTreeSet<String> =
            files.iter().flat_map(|file| kinds(&std::fs::read_to_string(file).unwrap())).collect();
        assert!(found.len() > 20, "{found:?}");
        let known: BTreeSet<String> = EVENTS.iter().map(|(kind, _)| (*kind).to_owned()).collect();
        assert_eq!(known.len(), EVENTS.len(), "each is there once");
        let unknown: Vec<&String> = found.difference(&known).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn a_process_that_ended_as_it_was_told_calls_nobody() {
        let by_itself = AboutProcess { exit: Some("signal 11".to_owned()), ..AboutProcess::default() };
        assert!(calls_somebody("exited", &by_itself));
        assert!(!calls_somebody("exited", &AboutProcess { was_told: true, ..by_itself }));
        assert!(calls_somebody("lost", &AboutProcess::default()));
        assert!(!calls_somebody("drained", &AboutProcess::default()));
        assert!(!calls_somebody("of-a-later-release", &AboutProcess::default()));
    }
}
