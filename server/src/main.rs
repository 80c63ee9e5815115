//! The binary `steer`. Everything is in the library, where tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    steer::cli::main(std::env::args_os())
}
