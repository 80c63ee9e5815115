//! Usage errors: clap's words, with a hint, and exit code 2.

use std::{error::Error, ffi::OsString};

use clap::{CommandFactory, error::ErrorKind};

use super::{
    arguments::Arguments,
    exit::{self, Exit},
};

/// Prints what clap has to say: help and version to stdout, errors to stderr.
pub(super) fn report(error: &clap::Error, words: &[OsString]) -> Exit {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Whoever closes stdout before the end of the help has read enough of it.
        let _ = error.print();
        return Exit::Ok;
    }
    crate::log::last_words(&text(error, words));
    Exit::Usage
}

fn text(error: &clap::Error, words: &[OsString]) -> String {
    let rendered = error.render().to_string();
    // Our hint says the same, and for which command.
    let body = rendered.split("\nFor more information, try").next().unwrap_or(&rendered).trim_end();
    let hint = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "`steer demo` shows what it is for".to_owned(),
        ErrorKind::MissingRequiredArgument if command(words) == "steer release" => {
            "name a group of `steer status`, or give all of them back with `steer release --all`".to_owned()
        }
        _ => error
            .source()
            .and_then(exit::value_hint)
            .unwrap_or_else(|| format!("`{} --help` tells what it takes", command(words))),
    };
    format!("{body}\n\nhint: {hint}\n")
}

/// The command that was meant: `steer run`, or `steer` where none is recognized.
fn command(words: &[OsString]) -> String {
    let root = Arguments::command();
    let meant = words.iter().skip(1).filter_map(|word| word.to_str()).find_map(|word| {
        root.get_subcommands().find(|command| command.get_name() == word && !command.is_hide_set())
    });
    meant.map_or_else(|| "steer".to_owned(), |meant| format!("steer {}", meant.get_name()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn complain(line: &str) -> String {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        text(&Arguments::try_parse_from(&words).unwrap_err(), &words)
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_usage_error_has_a_hint() {
        let run = "steer run --workers 4 --listen 127.0.0.1:80";
        let mut lines = vec![
            "steer".to_owned(),
            "steer nonsense".to_owned(),
            "steer run".to_owned(),
            "steer status WEB".to_owned(),
            "steer drain web".to_owned(),
            "steer scale web many".to_owned(),
            "steer release".to_owned(),
            "steer restart web --timeout 5".to_owned(),
            "steer call Status []".to_owned(),
            "steer completions tcsh".to_owned(),
            "steer daemon --config".to_owned(),
            "steer policy web random".to_owned(),
            "steer policy web source ipv4=33".to_owned(),
            "steer policy web --dry-run".to_owned(),
            "steer weight web/0 101".to_owned(),
            "steer weight web/0 -1".to_owned(),
            "steer weight web 1".to_owned(),
            "steer table web --where nonsense".to_owned(),
            "steer table web --to 127.0.0.1:80".to_owned(),
            "steer restart web --canary 0%".to_owned(),
            "steer restart web --hold 30s".to_owned(),
            "steer restart web --abort --canary 5%".to_owned(),
            "steer restart web --abort --proceed".to_owned(),
        ];
        for bad in [
            "--metrics 0.0.0.0:9464",
            "--metrics nonsense",
            "--log-format xml",
            "--listen somewhere:80",
            "--workers 0",
            "--policy random",
            "--mode x",
            "--seed 5",
        ] {
            lines.push(format!("{run} {bad}"));
        }
        for line in lines {
            let text = complain(&line);
            assert!(text.lines().last().is_some_and(|last| last.starts_with("hint: ")), "{line}: {text}");
            assert!(!text.contains("For more information"), "{line}: {text}");
        }
    }

    #[test]
    fn a_release_of_nothing_tells_of_all() {
        assert!(complain("steer release").ends_with("with `steer release --all`\n"));
        assert!(
            complain("steer release --nonsense")
                .ends_with("hint: `steer release --help` tells what it takes\n")
        );
    }

    #[test]
    fn the_hint_is_the_values_own_where_it_has_one() {
        insta::assert_snapshot!(complain("steer run --workers 4 --listen somewhere:80"), @r#"
        error: invalid value 'somewhere:80' for '--listen <ADDR>...': "somewhere:80" is no listen address: what follows is not IP:PORT

        hint: write tcp://127.0.0.1:8080, udp://[::]:443, or IP:PORT for tcp; :8080 is all addresses, localhost:8080 is loopback, and no other name is resolved
        "#);
        insta::assert_snapshot!(complain("steer run --workers 4"), @r"
        error: the following required arguments were not provided:
          --listen <ADDR>...

        Usage: steer run --listen <ADDR>... --workers <N> [-- <CMD>...]

        hint: `steer run --help` tells what it takes
        ");
        for line in ["steer run --listen 127.0.0.1:80 --workers 2 --policy random", "steer policy web random"]
        {
            let text = complain(line);
            assert!(text.contains("POLICY"), "{text}");
            assert!(
                text.ends_with("hint: policies are hash, source, least-loaded, cpu and quic-cid\n"),
                "{text}"
            );
        }
    }
}
