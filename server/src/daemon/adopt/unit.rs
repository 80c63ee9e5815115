//! Units of systemd, as adoption needs them.

use crate::{
    control::api::{Fault, FaultKind},
    daemon::registry::Daemon,
    sockets::cgroups,
};

use super::find::FoundUnit;

impl Daemon {
    /// The unit of this name.
    pub(super) async fn find_unit(&self, name: &str) -> Result<FoundUnit, Fault> {
        let name = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
        let path = format!("/system.slice/{name}");
        if !cgroups::of_path(&path).is_some_and(|path| path.exists()) {
            return Err(Fault::new(FaultKind::NoSuch, format!("there is no unit {name}")));
        }
        Ok(FoundUnit { name, control_group: Some(path), triggered_by: Vec::new() })
    }
}
