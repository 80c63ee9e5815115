//! Whether this kernel lets exact looks be taken: some refuse programs of that type to everybody.

use steer::dataplane::looks::{Looks, LooksError};

/// The looks; where the kernel refuses them although every capability is there, a line that says so, and nothing.
#[track_caller]
pub fn looks() -> Option<Looks> {
    match Looks::open() {
        Ok(looks) => Some(looks),
        Err(error) if is_refused(&error) => {
            println!("skipped: this kernel refuses the programs of exact looks: {error}");
            None
        }
        Err(error) => panic!("{error}: {error:?}\nhint: {}", error.hint()),
    }
}

/// EPERM, which has nothing to do with what this process may: other programs are loaded.
fn is_refused(error: &LooksError) -> bool {
    format!("{error:?}").contains("kind: PermissionDenied")
}
