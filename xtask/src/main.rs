//! `cargo xtask`: everything that a developer runs. One file per subcommand.

mod bench;
mod build_ebpf;
mod capabilities;
mod cargo_tool;
mod debian_tree;
mod dist;
mod ebpf_toolchain;
mod fuzz;
mod kubernetes;
mod libtest;
mod packages;
mod rustc_wrapper;
mod servers;
mod soak;
mod summary;
mod test;
mod tests_binary;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a developer of steer runs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Arguments),
    BuildEbpf(build_ebpf::Arguments),
    Dist(dist::Arguments),
    Fuzz(fuzz::Arguments),
    Kubernetes(kubernetes::Arguments),
    Servers(servers::Arguments),
    Soak(soak::Arguments),
    Test(test::Arguments),
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    if rustc_wrapper::is_wanted() {
        return rustc_wrapper::main();
    }
    let outcome = workspace::Workspace::find().and_then(|workspace| match Arguments::parse().command {
        Command::Bench(arguments) => bench::main(&workspace, &arguments),
        Command::BuildEbpf(arguments) => build_ebpf::main(&workspace, &arguments),
        Command::Dist(arguments) => dist::main(&workspace, &arguments),
        Command::Fuzz(arguments) => fuzz::main(&workspace, &arguments),
        Command::Kubernetes(arguments) => kubernetes::main(&workspace, &arguments),
        Command::Servers(arguments) => servers::main(&workspace, &arguments),
        Command::Soak(arguments) => soak::main(&workspace, &arguments),
        Command::Test(arguments) => test::main(&workspace, &arguments),
        Command::Vm(arguments) => vm::main(&workspace, &arguments),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
