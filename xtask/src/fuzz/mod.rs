//! `cargo xtask fuzz`: the fuzz targets of `server/fuzz/`, one after another.

mod figures;

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};

use self::figures::Figures;
use crate::{
    cargo_tool::{self, Tool},
    workspace::Workspace,
};

/// Of the release that the layout of `server/fuzz/` is written for.
const CARGO_FUZZ: Tool = Tool { name: "fuzz", release: "0.13.2", takes: "about a minute" };

/// How long one run of a target may take, in seconds: none takes a thousandth of it, so more is a loop without an end.
const RUN_MAX: u32 = 10;

/// Fuzz what reads bytes of others: configuration, control messages, answers of sock_diag, /proc, state files, the keeper's
/// messages.
///
/// Each target begins with the seeds that are committed and with what it found in earlier runs, which is kept in the target
/// directory with the inputs that crashed. cargo-fuzz is installed where it is missing. Builds with the address sanitizer and
/// debug assertions, which stable rustc does with RUSTC_BOOTSTRAP=1.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// One target instead of all
    target: Option<String>,
    /// How long each target is fuzzed, in seconds
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

/// Builds the targets and fuzzes one or all. Fails if any crashed.
pub(crate) fn main(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let place = Place::new(workspace);
    let targets = wanted(place.targets()?, arguments.target.as_deref())?;
    let tool = cargo_tool::prepare(workspace, CARGO_FUZZ)?;
    let built = place.command(workspace, &tool, "build")?.args(["--release", "--debug-assertions"]).status();
    let built = built.context("running cargo fuzz build")?;
    ensure!(built.success(), "building the fuzz targets failed ({built})");
    let mut all_well = true;
    for target in targets {
        let figures = fuzz(workspace, &place, &tool, &target, arguments.seconds)?;
        println!("{target:<8}  {figures}");
        all_well &= !figures.has_crashed;
    }
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where things are.
struct Place {
    /// The crate of the targets, with their seeds.
    package: PathBuf,
    /// Of a build of its own: sanitizers and coverage are in every crate of it.
    build: PathBuf,
    /// What was found, by target.
    found: PathBuf,
}

impl Place {
    fn new(workspace: &Workspace) -> Self {
        let build = workspace.target.join("fuzz");
        Self { package: workspace.root.join("server/fuzz"), found: build.join("found"), build }
    }

    /// The names of the targets, in order.
    fn targets(&self) -> Result<Vec<String>> {
        let directory = self.package.join("targets");
        let entries = fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))?;
        let name = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned());
        let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// cargo finds its subcommand by `PATH`.
    fn command(&self, workspace: &Workspace, tool: &Path, verb: &str) -> Result<Command> {
        let others = env::var_os("PATH").unwrap_or_default();
        let all = tool.parent().map(Path::to_owned).into_iter().chain(env::split_paths(&others));
        let mut command = workspace.cargo();
        command
            .current_dir(&self.package)
            .env("PATH", env::join_paths(all).context("joining PATH")?)
            // The sanitizer's flag is not stable.
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["fuzz", verb, "--fuzz-dir", ".", "--target-dir"])
            .arg(&self.build);
        Ok(command)
    }
}

/// The targets to fuzz.
fn wanted(all: Vec<String>, target: Option<&str>) -> Result<Vec<String>> {
    let Some(target) = target else { return Ok(all) };
    ensure!(
        all.iter().any(|name| name == target),
        "no fuzz target {target}\nhint: there are {}",
        all.join(", ")
    );
    Ok(vec![target.to_owned()])
}

/// Fuzzes one target; what libFuzzer says is passed on.
fn fuzz(workspace: &Workspace, place: &Place, tool: &Path, target: &str, seconds: u32) -> Result<Figures> {
    let corpus = place.found.join(target).join("corpus");
    let crashes = place.found.join(target).join("crashes");
    for directory in [&corpus, &crashes] {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let seeds = place.package.join("seeds").join(target);
    let mut command = place.command(workspace, tool, "run")?;
    command
        .args(["--release", "--debug-assertions", target])
        // What is found goes to the first.
        .args([&corpus, &seeds])
        .arg("--")
        .args([format!("-max_total_time={seconds}"), format!("-timeout={RUN_MAX}")])
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args(["-print_final_stats=1", "-use_value_profile=1"])
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("running {}", tool.display()))?;
    let said = BufReader::new(child.stderr.take().context("cargo-fuzz has no stderr")?);
    let mut figures = Figures::default();
    for line in said.split(b'\n') {
        let line = line.context("reading what cargo-fuzz says")?;
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        figures.take(&line);
    }
    let status = child.wait().context("waiting for cargo-fuzz")?;
    figures.has_crashed = !status.success();
    figures.corpus = fs::read_dir(&corpus).with_context(|| format!("reading {}", corpus.display()))?.count();
    ensure!(
        figures.has_crashed || figures.runs > 0,
        "{target} ran not once and cargo-fuzz ended with {status}"
    );
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_one_that_there_is() {
        let all = || vec!["config".to_owned(), "state".to_owned()];
        assert_eq!(wanted(all(), None).unwrap(), all());
        assert_eq!(wanted(all(), Some("state")).unwrap(), ["state"]);
        let error = wanted(all(), Some("stat")).unwrap_err().to_string();
        assert!(error.contains("hint: there are config, state"), "{error}");
    }
}
