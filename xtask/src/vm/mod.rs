//! `cargo xtask vm`: the privileged tests on the kernels that hosts have.

mod archive;
mod build;
mod image;
mod kernels;
mod matrix;
mod qemu;
mod report;
mod stanza;

use std::{path::Path, process::ExitCode};

use anyhow::{Result, ensure};

use crate::{
    packages::{self, Needed},
    vm::{
        archive::{Archive, Fetched},
        build::Build,
        kernels::{KERNELS, Kernel},
        matrix::{Column, Matrix},
    },
    workspace::Workspace,
};

/// Run the privileged tests that tell kernels apart on kernels of Debian, in qemu without KVM, and print a matrix.
///
/// Fetches kernels with apt, from the mirror that apt on this host is configured with, into the target directory, and
/// checks their signatures as apt does; installs what is missing, as root, from Debian. Each kernel boots from memory
/// with the daemon and the tests, statically linked, and has no network but its own loopback. Emulation is slow:
/// expect two to six minutes for each kernel, beside the build. Ends with 1 if a test failed, or if no kernel could run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which kernels, by the names that `--list` prints [default: all]
    kernels: Vec<String>,
    /// Run only tests whose name contains this
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
    /// Print the kernels' names, and end
    #[arg(long)]
    list: bool,
}

/// What it calls beyond what the tests do.
const NEEDED: [Needed; 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("modprobe", "kmod"),
    ("xz", "xz-utils"),
    ("strip", "binutils"),
    ("timeout", "coreutils"),
];

/// Fetches, builds, boots, and prints what came of it.
pub(crate) fn main(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let chosen = kernels::choose(&arguments.kernels)?;
    if arguments.list {
        for Kernel { name, what, .. } in &KERNELS {
            println!("{name:8} {what}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let needed: Vec<Needed> = packages::FOR_TESTS.into_iter().chain(NEEDED).collect();
    packages::install_missing(&needed)?;
    let directory = workspace.target.join("vm");
    let archive = Archive::open(&directory)?;
    let build = Build::make(workspace, arguments.test.as_deref())?;
    let mut matrix = Matrix::new(build.plan.iter().map(|planned| planned.name.clone()).collect());
    for kernel in chosen {
        println!("\n== Linux {} ==", kernel.name);
        let fetched = match archive.fetch(kernel) {
            Ok(fetched) => fetched,
            Err(error) => {
                println!("skipped: {error:#}");
                matrix.push(Column::skipped(kernel.name, &format!("{error:#}")));
                continue;
            }
        };
        matrix.push(run(kernel, &fetched, &build, &directory)?);
    }
    println!("\n{matrix}");
    ensure!(matrix.ran(), "no kernel ran\nhint: see the reasons above");
    Ok(if matrix.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Boots one kernel with the tests.
fn run(kernel: &Kernel, fetched: &Fetched, build: &Build, directory: &Path) -> Result<Column> {
    let image = image::make(fetched, build, &directory.join(kernel.name))?;
    let guest = qemu::run(&image)?;
    Ok(Column::of(kernel.name, &fetched.version, &build.plan, &report::read(&guest.lines), &guest.end))
}
