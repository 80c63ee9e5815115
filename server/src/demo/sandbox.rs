//! Where the demo runs: namespaces of its own, and an end that leaves nothing behind.

use std::{
    fs::DirBuilder,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{children, error::DemoError};
use crate::{
    load::{FourTuple, four_tuples},
    sockets::netns,
};

/// The port of the service; in a namespace of its own every port is free.
const PORT: u16 = 8080;
/// Client addresses of each family, and ports of each client: 2,048 4-tuples in each family.
const CLIENTS: u16 = 64;
const CLIENT_PORTS: std::ops::Range<u16> = 20_000..20_032;
const RUN: &str = "/run";
const BPFFS: &str = "/sys/fs/bpf";
/// The IPv6 clients' prefix, local by an AnyIP route.
const CLIENT_PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x5ee1, 0, 0, 0, 0, 0, 0);

/// The demo's surroundings. Dropping it ends every process that the demo has started; the namespaces, and the
/// files in them, end with this process.
pub(super) struct Sandbox {
    directory: PathBuf,
    ipv6: bool,
}

impl Sandbox {
    /// Moves this process into network and mount namespaces of its own, for good.
    pub(super) fn enter() -> Result<Self, DemoError> {
        netns::enter_fresh()?;
        let ipv6 = netns::has_ipv6();
        if ipv6 {
            netns::add_local_prefix(CLIENT_PREFIX, 64)?;
        }
        own_file_systems()?;
        children::adopt_orphans()
            .map_err(|source| DemoError::System { operation: "adopt orphans", source })?;
        Ok(Self { directory: make_directory()?, ipv6 })
    }

    /// A directory for sockets and output, in a file system that ends with the demo.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether IPv6 clients take part.
    pub(super) fn has_ipv6(&self) -> bool {
        self.ipv6
    }

    /// Where the service listens.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, PORT));
        if self.ipv6 { vec![v4, v6] } else { vec![v4] }
    }

    /// The clients' flows to the service.
    pub(super) fn four_tuples(&self) -> Vec<FourTuple> {
        let clients: Vec<IpAddr> = (1..=CLIENTS)
            .flat_map(|number| {
                let [high, low] = number.to_be_bytes();
                let v4 = Ipv4Addr::new(127, 1, high, low);
                let v6 = CLIENT_PREFIX.to_bits() + u128::from(number);
                [IpAddr::from(v4), IpAddr::from(Ipv6Addr::from_bits(v6))]
            })
            .collect();
        four_tuples(&clients, CLIENT_PORTS, &self.addresses())
    }

    /// Whether the kernel by itself migrates what a closing listener holds (5.14 and later).
    pub(super) fn let_kernel_migrate(&self, migrate: bool) -> Result<(), DemoError> {
        Ok(netns::set_sysctl("net.ipv4.tcp_migrate_req", if migrate { "1" } else { "0" })?)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        children::end_all();
    }
}

/// Puts fresh file systems over `/sys/fs/bpf` and `/run` that only this process and its children see. So the
/// demo neither meets another daemon's pins, sockets and locks nor can leave any behind, even when it is killed.
fn own_file_systems() -> Result<(), DemoError> {
    let failed = |operation| move |error: Errno| DemoError::System { operation, source: error.into() };
    // SAFETY: the call is unsafe only for UnshareFlags::FILES, which parts threads' descriptors; NEWNS does not.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(failed("enter a mount namespace of its own"))?;
    // Systemd shares `/` with every namespace: without this the mounts below would show everywhere.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(failed("make its mounts private"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", RUN, "tmpfs", flags, Some(c"mode=0755")).map_err(failed("mount a tmpfs on /run"))?;
    if Path::new(BPFFS).is_dir() {
        mount("bpf", BPFFS, "bpf", flags, None).map_err(failed("mount a bpffs on /sys/fs/bpf"))?;
    }
    Ok(())
}

fn make_directory() -> Result<PathBuf, DemoError> {
    let path = Path::new(RUN).join("steer-demo");
    let created = DirBuilder::new().mode(0o700).create(&path);
    created.map_err(|source| DemoError::File { operation: "create", path: path.clone(), source })?;
    Ok(path)
}
