//! The Unix group `steer`, whose members may read.

use std::{ffi::CStr, io, mem::MaybeUninit, ptr};

/// The group whose members may connect and read.
pub(super) const READERS: &CStr = c"steer";

/// The number of the Unix group `name`; nothing where there is no such group.
///
/// Asks the name service, so that groups from a directory count as well as those of `/etc/group`.
pub(super) fn number_of(name: &CStr) -> io::Result<Option<u32>> {
    let mut entry = MaybeUninit::<libc::group>::uninit();
    let mut buffer: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let mut found = ptr::null_mut();
        // SAFETY: all pointers are valid for the call, and the length is the buffer's.
        let error = unsafe {
            libc::getgrnam_r(name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found)
        };
        match error {
            // The members' names are in the buffer too, and a group can have many.
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 2, 0),
            // getgrnam(3): "not found" is a null result, or one of these, depending on the name service.
            0 | libc::ENOENT | libc::ESRCH if found.is_null() => return Ok(None),
            // SAFETY: `found` is not null, so the entry has been filled in.
            0 => return Ok(Some(unsafe { entry.assume_init_ref() }.gr_gid)),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_name() {
        assert_eq!(number_of(c"root").unwrap(), Some(0));
        assert_eq!(number_of(c"no-such-group-here").unwrap(), None);
    }
}
