//! Runs a guest to its end.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::vm::image::Image;

/// How long a guest may take, in seconds: several times what the slowest kernel does.
const LIMIT: u32 = 3_600;

/// What came of a guest.
#[derive(Debug)]
pub(crate) struct Guest {
    /// What it reported.
    pub(crate) lines: Vec<String>,
    /// How it ended, for what it has not reported.
    pub(crate) end: String,
}

/// Boots the image under emulation, with two processors, and shows what it reports.
pub(crate) fn run(image: &Image) -> Result<Guest> {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &LIMIT.to_string(), "qemu-system-x86_64"]);
    // No KVM: where this runs there may be none, and what is here is what each host gets.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536"]);
    command.args(["-nodefaults", "-no-reboot", "-display", "none"]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.root);
    command.args(["-append", "console=ttyS0 quiet panic=-1"]);
    command.arg("-serial").arg(format!("file:{}", image.console.display()));
    command.args(["-chardev", "stdio,id=report,signal=off", "-serial", "chardev:report"]);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("running qemu-system-x86_64")?;
    let output = child.stdout.take().context("the child has no stdout")?;
    let mut lines = Vec::new();
    for line in BufReader::new(output).split(b'\n') {
        let line =
            String::from_utf8_lossy(&line.context("reading the guest's report")?).trim_end().to_owned();
        println!("{line}");
        lines.push(line);
    }
    let status = child.wait().context("waiting for qemu")?;
    let end = match status.code() {
        Some(0) => "the guest has ended before it or during it".to_owned(),
        Some(124 | 137) => format!("the guest was ended after {LIMIT} s"),
        _ => format!("qemu ended with {status}"),
    };
    Ok(Guest { lines, end: format!("{end}; its console is in {}", image.console.display()) })
}
