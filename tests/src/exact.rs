//! Whether this kernel lets exact looks be taken. Some have no BTF, and some refuse programs of that type to everybody.

use steer::dataplane::looks::{Looks, LooksError};

use crate::skip::skip;

/// The looks; where this kernel has none although every capability is there, nothing, and the test is skipped.
#[track_caller]
pub fn looks() -> Option<Looks> {
    match Looks::open() {
        Ok(looks) => Some(looks),
        Err(error) if is_the_kernels(&error) => {
            skip(&format!("this kernel has no exact looks: {error}"));
            None
        }
        Err(error) => panic!("{error}: {error:?}\nhint: {}", error.hint()),
    }
}

/// Whether looks are exact here; where not, the test is skipped.
#[track_caller]
pub fn are_had() -> bool {
    looks().is_some()
}

/// No BTF; or EPERM, which has nothing to do with what this process may: other programs are loaded.
fn is_the_kernels(error: &LooksError) -> bool {
    matches!(error, LooksError::Btf(_)) || format!("{error:?}").contains("kind: PermissionDenied")
}
