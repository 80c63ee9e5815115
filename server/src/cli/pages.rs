//! What is made from the command line's own definition: completion scripts and manual pages.

use std::{fs, path::Path};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{arguments::Arguments, exit::Exit, output};

/// Prints a completion script.
pub(super) fn completions(shell: Shell) -> anyhow::Result<Exit> {
    // Into memory first: clap_complete panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "steer", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

/// Prints the manual page, or writes one for each command into `directory`, which is made where it is missing.
pub(super) fn man(directory: Option<&Path>) -> anyhow::Result<Exit> {
    let command = Arguments::command();
    match directory {
        Some(directory) => fs::create_dir_all(directory)
            .and_then(|()| clap_mangen::generate_to(command, directory))
            .with_context(|| format!("cannot write manual pages to {}", directory.display()))?,
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).context("cannot write the manual page")?;
            output::print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_manual_page_and_hidden_ones_have_none() {
        let place = tempfile::tempdir().unwrap();
        man(Some(&place.path().join("man1"))).unwrap();
        let page = |name: &str| place.path().join("man1").join(name);
        for command in Arguments::command().get_subcommands() {
            let exists = page(&format!("steer-{}.1", command.get_name())).exists();
            assert_eq!(exists, !command.is_hide_set(), "{}", command.get_name());
        }
        assert!(fs::read_to_string(page("steer.1")).unwrap().contains("Exit codes: 0 ok"));
    }
}
