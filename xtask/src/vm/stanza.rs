//! What apt says of packages: the paragraphs that `apt-cache show` prints.

/// One version of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The packages that it depends on, by name; of alternatives, each.
    pub(crate) depends: Vec<String>,
}

/// Reads paragraphs; those without a name or a version are of no package.
pub(crate) fn read(text: &str) -> Vec<Package> {
    text.split("\n\n").filter_map(paragraph).collect()
}

fn paragraph(text: &str) -> Option<Package> {
    // Lines that go on begin with a space; none of the fields that are read here does.
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim));
    let depends = field("Depends").unwrap_or_default().split([',', '|']);
    let names = depends.filter_map(|one| one.split_whitespace().next()).map(str::to_owned);
    Some(Package {
        name: field("Package")?.into(),
        version: field("Version")?.into(),
        depends: names.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_packages() {
        let text = "Package: linux-image-7.2-cloud-amd64\nVersion: 7.2.13-1\nDescription: a kernel\n Package: not this\n\
                    Depends: dracut | initramfs-tools (>= 0.120), linux-modules-7.2-cloud-amd64 (= 7.2.13-1)\n\n\
                    Package: b\nVersion: 1\n\nFilename: no package\n";
        let packages = read(text);
        assert_eq!(packages.len(), 2);
        assert_eq!(packages[0].version, "7.2.13-1");
        assert_eq!(packages[0].depends, ["dracut", "initramfs-tools", "linux-modules-7.2-cloud-amd64"]);
        assert_eq!(packages[1], Package { name: "b".into(), version: "1".into(), depends: vec![] });
    }
}
