//! `cargo xtask dist --oci`: an image of the binary, as an OCI layout in a tar. No registry is asked, and nothing is fetched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::write;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The name of the image where it is loaded.
const NAME: &str = "steer";

/// What the daemon looks users and groups up in.
const ACCOUNTS: [(&str, &str); 2] =
    [("etc/passwd", "root:x:0:0:root:/:/usr/bin/steer\n"), ("etc/group", "root:x:0:\nsteer:x:999:\n")];

/// Makes the image of a binary, with the libraries of this host that it needs. `directory` is made anew. Returns the tar's path.
pub(super) fn pack(server: &Path, binary: &Path, version: &str, directory: &Path) -> Result<PathBuf> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))?;
    }
    let (root, layout) = (directory.join("root"), directory.join("layout"));
    lay_out(server, binary, &root)?;
    let layer = directory.join("layer.tar");
    archive(&root, &layer)?;
    let (layer, layer_size) = blob(&layout, &fs::read(&layer).context("reading the layer")?)?;
    let config = config(&layer, version)?;
    let (config, config_size) = blob(&layout, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": config, "size": config_size },
        "layers": [{ "mediaType": LAYER, "digest": layer, "size": layer_size }],
    });
    let (manifest, manifest_size) = blob(&layout, manifest.to_string().as_bytes())?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{
            "mediaType": MANIFEST, "digest": manifest, "size": manifest_size,
            "annotations": { "org.opencontainers.image.ref.name": format!("{NAME}:{version}") },
        }],
    });
    write(&layout.join("index.json"), index.to_string().as_bytes())?;
    write(&layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let image = directory.join(format!("{NAME}_{version}_{}.oci.tar", architecture()?));
    archive(&layout, &image)?;
    Ok(image)
}

/// The image's file system: the binary, its libraries, the directories that are mounted, an example of a configuration.
fn lay_out(server: &Path, binary: &Path, root: &Path) -> Result<()> {
    let program = root.join("usr/bin/steer");
    write(&program, &fs::read(binary).with_context(|| format!("reading {}", binary.display()))?)?;
    run(Command::new("strip").arg(&program))?;
    run(Command::new("chmod").arg("755").arg(&program))?;
    for library in libraries(&run(Command::new("ldd").arg(binary))?) {
        // The path is what the program is linked with, whatever directories stand behind it here.
        let to = root.join(library.strip_prefix("/").unwrap_or(&library));
        write(&to, &fs::read(&library).with_context(|| format!("reading {}", library.display()))?)?;
        run(Command::new("chmod").arg("755").arg(&to))?;
    }
    for (path, text) in ACCOUNTS {
        write(&root.join(path), text.as_bytes())?;
    }
    for directory in ["etc/steer", "run/steer", "sys/fs/bpf", "host/sys/fs/cgroup", "proc", "dev", "tmp"] {
        fs::create_dir_all(root.join(directory)).with_context(|| format!("making {directory}"))?;
    }
    let example = fs::read(server.join("src/config/example.toml")).context("reading the example")?;
    write(&root.join("usr/share/doc/steer/examples/steer.toml"), &example)
}

/// The libraries that `ldd` lists, the loader among them.
fn libraries(listed: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let place = line.split_once(" => ").map_or(line, |(_, place)| place);
        place.split_whitespace().next().filter(|place| place.starts_with('/')).map(PathBuf::from)
    };
    listed.lines().filter_map(path).collect()
}

fn config(layer: &str, version: &str) -> Result<Value> {
    Ok(json!({
        "architecture": architecture()?,
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/steer"],
            "Cmd": ["daemon", "--config", "/etc/steer/steer.toml"],
            "Env": ["PATH=/usr/bin"],
            "Labels": { "org.opencontainers.image.version": version },
        },
        // Of one layer that is not compressed, its digest is that of what is in it.
        "rootfs": { "type": "layers", "diff_ids": [layer] },
    }))
}

/// As OCI names it.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => anyhow::bail!("OCI's name for {other} is not known here"),
    }
}

/// Writes a blob by its digest; the digest and the size.
fn blob(layout: &Path, contents: &[u8]) -> Result<(String, usize)> {
    let unnamed = layout.join("blobs/sha256/unnamed");
    write(&unnamed, contents)?;
    let said = run(Command::new("sha256sum").arg("--binary").arg(&unnamed))?;
    let digest = said.split_whitespace().next().context("sha256sum prints a digest")?.to_owned();
    fs::rename(&unnamed, layout.join("blobs/sha256").join(&digest)).context("naming a blob")?;
    Ok((format!("sha256:{digest}"), contents.len()))
}

/// Archives what is in a directory: the same files are the same bytes.
fn archive(directory: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--format=gnu"]);
    run(command.arg("-C").arg(directory).arg("-cf").arg(to).arg(".")).map(drop)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, messages.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path() {
        let listed = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld-linux.so.2 (0x7f)\n";
        assert_eq!(libraries(listed), [PathBuf::from("/lib/x/libc.so.6"), "/lib64/ld-linux.so.2".into()]);
        assert!(libraries("\tstatically linked\n").is_empty());
    }

    #[test]
    fn every_blob_of_an_image_is_named_by_its_digest() {
        let directory = tempfile::tempdir().unwrap();
        let (digest, size) = blob(directory.path(), b"abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((digest, size), (format!("sha256:{expected}"), 3));
        let path = directory.path().join("blobs/sha256").join(expected);
        assert_eq!(fs::read(path).unwrap(), b"abc");
    }
}
