//! Any text as a configuration.

use super::{error::ConfigError, source::Source, *};

/// The files that a text is parted into at its NUL bytes, which TOML does not have.
const FILES: [&str; 3] = ["/etc/steer/steer.toml", "/etc/steer/conf.d/10.toml", "/etc/steer/conf.d/20.toml"];

/// What is a configuration is written and read as the same; what is none is explained, at a line that there is.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let texts = text.splitn(FILES.len(), '\0').zip(FILES).enumerate();
    let sources: Vec<Source> =
        texts.map(|(order, (text, path))| Source::new(path.into(), text.to_owned(), order)).collect();
    match understand(&sources, Vec::new()) {
        Ok(config) => check_settings(&config, sources.len()),
        Err(errors) => {
            assert!(errors.iter().next().is_some(), "it is refused, and nothing is wrong with it");
            errors.iter().for_each(check_error);
            assert!(errors.to_string().contains("hint: "));
        }
    }
}

fn check_settings(config: &Config, files: usize) {
    assert_eq!(config.files.len(), files);
    for (index, group) in config.groups.iter().enumerate() {
        assert!(
            config.groups[..index].iter().all(|other| other.name != group.name),
            "{} is twice",
            group.name
        );
        assert!(group.workers > 0 && !group.listen.is_empty(), "{group:?}");
        let written = serde_json::to_vec(group).expect("settings can be written");
        let read: GroupSettings = serde_json::from_slice(&written).expect("what was written can be read");
        assert_eq!(read, *group);
    }
}

fn check_error(error: &ConfigError) {
    assert!(!error.message().is_empty() && !error.hint().is_empty(), "{error:?}");
    let shown = error.to_string();
    for place in error.places() {
        let text = place.source.text();
        assert!(text.get(place.span.clone()).is_some(), "{error:?} is not in the text");
    }
    let Some(place) = error.places().next() else { return };
    let path = place.source.path().display().to_string();
    let mut numbers =
        shown.split_once(&format!("--> {path}:")).expect("the place is shown").1.split([':', '\n']);
    let line: usize = numbers.next().and_then(|line| line.trim().parse().ok()).expect("a line's number");
    let lines = place.source.text().split('\n').count();
    assert!((1..=lines).contains(&line), "line {line} of {lines}: {shown}");
}
