//! What a guest boots from: a kernel, and a root in memory with the tests and all that they call.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    packages,
    vm::{
        archive::Fetched,
        build::{Build, Planned},
    },
};

const INIT: &str = include_str!("init.sh");

/// What the tests call beside busybox's, with the libraries that each needs.
const PROGRAMS: [&str; 4] = ["nft", "ip", "python3", "setpriv"];

/// What the tests need of a kernel and Debian builds as modules; one that a kernel has built in, or part of another, is
/// not there. The counter of nf_tables was a module of its own up to 5.17.
const MODULES: [&str; 4] = ["tcp_diag", "udp_diag", "nf_tables", "nft_counter"];

/// Parts of Python that no program of the tests imports, and that would take a tenth of a guest's memory.
const NOT_OF_PYTHON: [&str; 8] =
    ["test", "idlelib", "lib2to3", "ensurepip", "distutils", "pydoc_data", "tkinter", "unittest"];

/// What qemu boots.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) root: PathBuf,
    /// Where the guest's console is written to.
    pub(crate) console: PathBuf,
}

/// Makes the image in `directory`, anew.
pub(crate) fn make(fetched: &Fetched, build: &Build, directory: &Path) -> Result<Image> {
    if directory.is_dir() {
        fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))?;
    }
    let root = directory.join("root");
    for place in ["bin", "usr/bin", "usr/lib", "proc", "sys", "dev", "tmp", "run", "etc", "modules", "tests"]
    {
        fs::create_dir_all(root.join(place))?;
    }
    copy(&packages::program("busybox")?, &root.join("bin/busybox"))?;
    strip(&build.steer, &root.join("usr/bin/steer"))?;
    for (target, binary) in &build.tests {
        strip(binary, &root.join("tests").join(target))?;
    }
    for program in PROGRAMS {
        copy_with_libraries(&installed(program)?, &root.join("usr/bin").join(program), &root)?;
    }
    // Scripts of tests are for this host's shell: busybox's runs its own programs even where others are on PATH.
    copy_with_libraries(Path::new("/bin/sh"), &root.join("bin/sh"), &root)?;
    copy_python(&root)?;
    let release = modules(&fetched.root, &root.join("modules"))?;
    fs::write(root.join("plan"), plan(&build.plan))?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let archive = directory.join("root.cpio");
    pack(&root, &archive)?;
    Ok(Image { kernel: kernel(&fetched.root, &release)?, root: archive, console: directory.join("console") })
}

/// Debian's own where it is there: another may be a shim, or need libraries from elsewhere.
fn installed(program: &str) -> Result<PathBuf> {
    let debian = Path::new("/usr/bin").join(program);
    if debian.exists() { Ok(debian) } else { packages::program(program) }
}

/// A line for each test: its name, and what it needs.
fn plan(plan: &[Planned]) -> String {
    let needs = |one: &Planned| if one.needs_migration { "migration" } else { "nothing" };
    plan.iter().map(|one| format!("{} {}\n", one.name, needs(one))).collect()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The symbols are most of a binary, and memory is the guest's disk.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("strip").arg("-o").args([to, from]).status().context("running strip")?;
    ensure!(status.success(), "strip {}: {status}", from.display());
    Ok(())
}

fn copy_with_libraries(program: &Path, to: &Path, root: &Path) -> Result<()> {
    copy(program, to)?;
    let output = Command::new("ldd").arg(program).output().context("running ldd")?;
    for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
        copy(Path::new(library), &root.join(library.trim_start_matches('/')))?;
    }
    Ok(())
}

/// The paths that ldd prints: `libc.so.6 => /lib/libc.so.6 (0x1)`, `/lib64/ld.so (0x2)`.
fn libraries(text: &str) -> Vec<&str> {
    text.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| word.trim_end_matches(':'))
        .collect()
}

fn copy_python(root: &Path) -> Result<()> {
    let ask = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    let output = Command::new(installed("python3")?).args(["-c", ask]).output().context("running python3")?;
    ensure!(output.status.success(), "python3 does not tell where its library is");
    let library = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    copy_tree(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("listing {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let is_left_out =
            NOT_OF_PYTHON.iter().any(|part| name == *part) || name.to_string_lossy().starts_with("config-");
        let kind = entry.file_type()?;
        if kind.is_dir() && !is_left_out {
            copy_tree(&entry.path(), &to.join(name))?;
        } else if kind.is_file() {
            copy(&entry.path(), &to.join(name))?;
        }
    }
    Ok(())
}

/// Puts the modules into `to`, in the order in which they can be inserted; which release they are of.
fn modules(packages: &Path, to: &Path) -> Result<String> {
    // kmod looks in /lib; since Debian 13 that is where /usr/lib is linked to.
    if !packages.join("lib").exists() {
        symlink("usr/lib", packages.join("lib")).context("linking /lib")?;
    }
    let place = packages.join("lib/modules");
    let release = fs::read_dir(&place).with_context(|| format!("listing {}", place.display()))?.next();
    let release =
        release.context("the packages have no modules")??.file_name().to_string_lossy().into_owned();
    let mut depmod = Command::new(packages::program("depmod")?);
    // It complains of symbols that are in the parts of a kernel which are not there.
    let depmod = depmod.arg("-b").arg(packages).arg(&release).stderr(Stdio::null());
    let status = depmod.status().context("running depmod")?;
    ensure!(status.success(), "depmod -b {} {release}: {status}", packages.display());
    for (place, file) in needed_modules(packages, &release)?.iter().enumerate() {
        let name = file.file_name().and_then(|name| name.to_str()).context("a module has a name")?;
        unpack(file, &to.join(format!("{place:02}-{}", name.trim_end_matches(".xz"))))?;
    }
    Ok(release)
}

/// The files of [`MODULES`], each after those that it needs.
fn needed_modules(packages: &Path, release: &str) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for module in MODULES {
        let mut modprobe = Command::new(packages::program("modprobe")?);
        let modprobe = modprobe.arg("-d").arg(packages).args(["-S", release, "--show-depends", module]);
        let output = modprobe.output().context("running modprobe")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for file in inserted(&text).into_iter().map(PathBuf::from) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// Copies a module as a guest can insert it: not every busybox reads xz.
fn unpack(from: &Path, to: &Path) -> Result<()> {
    if from.extension().is_none_or(|extension| extension != "xz") {
        return copy(from, to);
    }
    let output = fs::File::create(to).with_context(|| format!("making {}", to.display()))?;
    let status = Command::new("xz").arg("-dc").arg(from).stdout(output).status().context("running xz")?;
    ensure!(status.success(), "xz -dc {}: {status}", from.display());
    Ok(())
}

/// The files of `insmod FILE OPTIONS`.
fn inserted(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("insmod ")?.split_whitespace().next()).collect()
}

/// In `/boot`, or since Debian 14 beside the modules.
fn kernel(packages: &Path, release: &str) -> Result<PathBuf> {
    let places = [
        packages.join(format!("boot/vmlinuz-{release}")),
        packages.join(format!("lib/modules/{release}/vmlinuz")),
    ];
    places.into_iter().find(|place| place.exists()).with_context(|| format!("no vmlinuz of {release}"))
}

/// Not compressed: to unpack it would take the guest longer than to read it.
fn pack(root: &Path, archive: &Path) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", "find . | cpio --quiet -o -H newc >\"$0\""])
        .arg(archive)
        .current_dir(root)
        .status()
        .context("running cpio")?;
    ensure!(status.success(), "cpio: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_modules_are_read_from_what_their_programs_print() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        assert_eq!(libraries(text), ["/lib/libc.so.6", "/lib64/ld.so.2"]);
        assert_eq!(libraries("\tnot a dynamic executable\n"), [""; 0]);
        assert_eq!(
            inserted("builtin ipv6\ninsmod /m/a.ko \ninsmod /m/b.ko.xz x=1\n"),
            ["/m/a.ko", "/m/b.ko.xz"]
        );
    }

    #[test]
    fn the_plan_says_what_a_test_needs() {
        let one = |name: &str, needs_migration| Planned { name: name.into(), needs_migration };
        assert_eq!(plan(&[one("a::b", true), one("c::d", false)]), "a::b migration\nc::d nothing\n");
    }
}
