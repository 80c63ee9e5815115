//! Which kernels, and which of an archive's packages has each.

use std::ops::RangeInclusive;

use anyhow::{Result, bail};

use crate::vm::stanza::Package;

/// A suite of a Debian archive: the archive's label, and the suite's name.
pub(crate) type Suite = (&'static str, &'static str);

const DEBIAN: &str = "Debian";
const SECURITY: &str = "Debian-Security";

/// A kernel that hosts have.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// How it is asked for.
    pub(crate) name: &'static str,
    /// Why it is one of those.
    pub(crate) what: &'static str,
    series: (u32, u32),
    patch: RangeInclusive<u32>,
    /// Where packages of it are.
    pub(crate) suites: &'static [Suite],
}

/// All that can be asked for. Within its range each is the newest that the archive has.
pub(crate) static KERNELS: [Kernel; 5] = [
    Kernel {
        name: "5.10",
        what: "Debian 11: before migration (5.14) and before maps were accounted by cgroup (5.11)",
        series: (5, 10),
        patch: 0..=u32::MAX,
        suites: &[(DEBIAN, "bullseye"), (SECURITY, "bullseye-security")],
    },
    Kernel {
        name: "6.1.170",
        what: "Debian 12, with CVE-2026-46015: a connection that has moved wakes nobody",
        series: (6, 1),
        patch: 0..=170,
        suites: &[(DEBIAN, "bookworm"), (SECURITY, "bookworm-security")],
    },
    Kernel {
        name: "6.1",
        what: "Debian 12, with that fixed",
        series: (6, 1),
        patch: 176..=u32::MAX,
        suites: &[(DEBIAN, "bookworm"), (SECURITY, "bookworm-security")],
    },
    Kernel {
        name: "6.12",
        what: "Debian 13",
        series: (6, 12),
        patch: 0..=u32::MAX,
        suites: &[(DEBIAN, "trixie"), (SECURITY, "trixie-security")],
    },
    Kernel {
        name: "7.2",
        what: "what comes after",
        series: (7, 2),
        patch: 0..=u32::MAX,
        suites: &[(DEBIAN, "trixie-backports"), (DEBIAN, "forky"), (DEBIAN, "sid")],
    },
];

/// The kernels with these names, in the order of [`KERNELS`]; all where none is named.
pub(crate) fn choose(names: &[String]) -> Result<Vec<&'static Kernel>> {
    let all = KERNELS.each_ref().map(|kernel| kernel.name);
    if let Some(unknown) = names.iter().find(|name| !all.contains(&name.as_str())) {
        bail!("no kernel {unknown:?}\nhint: there are {}", all.join(", "));
    }
    let is_wanted = |kernel: &&Kernel| names.is_empty() || names.iter().any(|name| name == kernel.name);
    Ok(KERNELS.iter().filter(is_wanted).collect())
}

impl Kernel {
    /// The newest of the packages that is an image of this kernel.
    pub(crate) fn newest<'a>(&self, packages: &'a [Package]) -> Option<&'a Package> {
        let age = |package: &Package| {
            let name = package.name.strip_prefix("linux-image-")?.strip_suffix("-cloud-amd64")?;
            // One without a whole version in its name has no kernel of its own, and depends on the newest.
            upstream(name)?;
            let (major, minor, patch) = upstream(&package.version)?;
            // Of one kernel in two suites, the one that is not built for an older suite.
            let is_own = !package.version.contains('~');
            ((major, minor) == self.series && self.patch.contains(&patch)).then_some((
                patch,
                is_own,
                package.version.clone(),
            ))
        };
        packages.iter().filter(|package| age(package).is_some()).max_by_key(|package| age(package))
    }

    /// What it is in words, for when no package is found.
    pub(crate) fn range(&self) -> String {
        let (major, minor) = self.series;
        let (first, last) = (self.patch.start(), self.patch.end());
        let last =
            if *last == u32::MAX { "the newest".to_owned() } else { format!("{major}.{minor}.{last}") };
        format!("{major}.{minor}.{first} to {last}")
    }
}

/// `6.1.170` of `6.1.170-3~deb11u1`. A version of two numbers is a release candidate's or a meta package's.
fn upstream(version: &str) -> Option<(u32, u32, u32)> {
    let numbers = version.split(['-', '~', '+']).next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    let version = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_the_newest_of_its_range() {
        let package = |name: &str, version: &str| Package {
            name: name.into(),
            version: version.into(),
            depends: vec![],
        };
        let packages = [
            package("linux-image-6.1.0-47-cloud-amd64", "6.1.170-3"),
            package("linux-image-6.1.0-48-cloud-amd64", "6.1.172-1"),
            package("linux-image-6.1.0-56-cloud-amd64", "6.1.192-2"),
            package("linux-image-6.1.0-55-cloud-amd64", "6.1.192-1"),
            package("linux-image-6.1.0-50-cloud-amd64", "6.1.176-1"),
            package("linux-image-6.12.117+deb13-cloud-amd64", "6.12.117-1"),
            package("linux-image-6.12.117+deb12-cloud-amd64", "6.12.117-1~deb12u1"),
            package("linux-image-6.12-cloud-amd64", "6.12.117-2"),
            package("linux-image-6.1.0-99-amd64", "6.1.999-1"),
            package("linux-image-cloud-amd64", "6.1.998-1"),
            package("linux-image-7.3-cloud-amd64", "7.3~rc7-1~exp1"),
        ];
        let found = |name: &str| {
            let kernel = KERNELS.iter().find(|kernel| kernel.name == name).unwrap();
            kernel.newest(&packages).map(|package| package.version.as_str())
        };
        assert_eq!(found("6.1.170"), Some("6.1.170-3"));
        assert_eq!(found("6.1"), Some("6.1.192-2"));
        assert_eq!(found("6.12"), Some("6.12.117-1"));
        assert_eq!(found("7.2"), None);
    }

    #[test]
    fn kernels_are_chosen_by_their_whole_name() {
        let names = |asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
            choose(&asked).map(|kernels| kernels.iter().map(|kernel| kernel.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["6.12", "6.1"]).unwrap(), ["6.1", "6.12"]);
        assert_eq!(names(&[]).unwrap().len(), KERNELS.len());
        assert!(names(&["6"]).unwrap_err().to_string().contains("6.1.170"));
    }

    #[test]
    fn upstream_versions_are_three_numbers() {
        assert_eq!(upstream("6.12.117-1~deb12u1"), Some((6, 12, 117)));
        assert_eq!(upstream("7.3~rc7-1~exp1"), None);
        assert_eq!(upstream("6.1.0.1-1"), None);
    }
}
