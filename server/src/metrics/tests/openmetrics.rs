//! Reads an exposition in the text format of OpenMetrics 1.0, and takes nothing that the format does not allow.

use std::collections::{BTreeMap, BTreeSet};

/// What a family's samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Info,
}

impl Kind {
    fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Gauge => "",
            Self::Info => "_info",
        }
    }
}

#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: String,
    pub(super) help: String,
    pub(super) kind: Kind,
    pub(super) samples: Vec<Sample>,
}

#[derive(Debug)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) value: f64,
}

#[derive(Debug)]
pub(super) struct Exposition {
    pub(super) families: Vec<Family>,
}

impl Exposition {
    /// Panics at the first line that should not be there.
    #[track_caller]
    pub(super) fn read(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
        assert!(body.ends_with('\n') && !body.contains("# EOF"), "{text}");
        let mut families: Vec<Family> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut lines = body.lines();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect("a name and a text");
                let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} ")));
                let kind = match kind {
                    Some("counter") => Kind::Counter,
                    Some("gauge") => Kind::Gauge,
                    Some("info") => Kind::Info,
                    other => panic!("{name} is followed by {other:?}"),
                };
                assert!(is_name(name), "{name:?}");
                assert!(families.iter().all(|family| family.name != name), "{name} is there twice");
                let (name, help) = (name.to_owned(), help.to_owned());
                families.push(Family { name, help, kind, samples: Vec::new() });
                continue;
            }
            let family = families.last_mut().unwrap_or_else(|| panic!("no family before {line}"));
            let sample = Sample::read(line);
            assert_eq!(sample.name, format!("{}{}", family.name, family.kind.suffix()), "{line}");
            assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
            if let Some(first) = family.samples.first() {
                assert!(first.labels.keys().eq(sample.labels.keys()), "other labels: {line}");
            }
            family.samples.push(sample);
        }
        Self { families }
    }

    /// Every sample of this name, as a scraper stores it.
    pub(super) fn samples_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples().filter(move |sample| sample.name == name)
    }

    pub(super) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.families.iter().flat_map(|family| &family.samples)
    }

    /// The one value with just these labels.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples_of(name).find(|sample| sample.labels == wanted).map(|sample| sample.value)
    }

    pub(super) fn label_names(&self) -> BTreeSet<&str> {
        self.samples().flat_map(|sample| sample.labels.keys().map(String::as_str)).collect()
    }
}

impl Sample {
    #[track_caller]
    fn read(line: &str) -> Self {
        let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
        let (name, mut rest) = line.split_at(end);
        assert!(is_name(name), "{line}");
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
                assert!(is_name(label), "{label:?}: {line}");
                let (value, after) = unescape(value);
                assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice: {line}");
                match after.split_at(1) {
                    (",", after) => rest = after,
                    ("}", after) => {
                        rest = after;
                        break;
                    }
                    _ => panic!("after {label}: {line}"),
                }
            }
        }
        let value = rest.strip_prefix(' ').and_then(|value| value.parse().ok());
        Self { name: name.to_owned(), labels, value: value.unwrap_or_else(|| panic!("no value: {line}")) }
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// A label's value up to its closing quote, and what follows that.
#[track_caller]
fn unescape(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, escaped @ ('"' | '\\'))) => escaped,
                other => panic!("escaped {other:?} in {text}"),
            }),
            other => value.push(other),
        }
    }
    panic!("no end: {text}");
}

#[test]
fn what_the_format_does_not_allow_is_not_taken() {
    let family = "# HELP a A.\n# TYPE a counter\n";
    let wrong = [
        format!("{family}a_total 1\n"),
        format!("{family}a 1\n# EOF\n"),
        format!("{family}a_total 1\na_total 1\n# EOF\n"),
        format!("{family}{family}a_total 1\n# EOF\n"),
        format!("{family}a_total{{b=\"1}} 1\n# EOF\n"),
        format!("{family}a_total{{b=\"\\x\"}} 1\n# EOF\n"),
        format!("{family}a_total one\n# EOF\n"),
        "a_total 1\n# EOF\n".to_owned(),
    ];
    for text in wrong {
        assert!(std::panic::catch_unwind(|| Exposition::read(&text)).is_err(), "{text}");
    }
    let right = Exposition::read(&format!("{family}a_total{{b=\"x\\\"y\",c=\"\"}} 1\n# EOF\n"));
    assert_eq!(right.value("a_total", &[("b", "x\"y"), ("c", "")]), Some(1.0));
}
