//! The user that a worker runs as.

use std::{ffi::CString, io, ptr};

use thiserror::Error;

/// A user with everything that a process needs to become it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// Its number: who the group's sockets belong to.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// All its groups, the primary one too.
    pub groups: Vec<u32>,
    /// Its name; the number as text where the system knows none.
    pub name: String,
    /// Its home directory, where the system knows one.
    pub home: Option<String>,
}

/// There is no such user, or the system could not say.
#[derive(Debug, Error)]
pub enum UserError {
    /// No entry has this name.
    #[error("there is no user {0:?} on this system")]
    Unknown(String),
    /// The user database could not be read.
    #[error("cannot look user {name:?} up")]
    Lookup {
        /// The name or number that was looked for.
        name: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl UserError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown(name) => {
                Some(format!("make it with `useradd --system {name}`, or give a number instead of a name"))
            }
            Self::Lookup { .. } => None,
        }
    }
}

impl ResolvedUser {
    /// Looks a user up by name or number. A number without an entry is taken as it is, with the group of the
    /// same number and no other.
    pub fn resolve(text: &str) -> Result<Self, UserError> {
        let lookup = |source| UserError::Lookup { name: text.to_owned(), source };
        let number = text.parse::<u32>().ok().filter(|number| *number != u32::MAX);
        let entry = match number {
            Some(uid) => read_entry(|entry, buffer, result| {
                // SAFETY: the pointers are to live memory of the lengths given, as `read_entry` makes them.
                unsafe { libc::getpwuid_r(uid, entry, buffer.as_mut_ptr(), buffer.len(), result) }
            }),
            None => {
                let name = CString::new(text).map_err(|_| UserError::Unknown(text.to_owned()))?;
                read_entry(|entry, buffer, result| {
                    // SAFETY: as above, and the name ends with a zero byte.
                    unsafe {
                        libc::getpwnam_r(name.as_ptr(), entry, buffer.as_mut_ptr(), buffer.len(), result)
                    }
                })
            }
        };
        match (entry.map_err(lookup)?, number) {
            (Some(entry), _) => Ok(Self {
                uid: entry.uid,
                gid: entry.gid,
                groups: groups_of(&entry.name, entry.gid),
                name: entry.name.to_string_lossy().into_owned(),
                home: Some(entry.home.to_string_lossy().into_owned()),
            }),
            (None, Some(uid)) => {
                Ok(Self { uid, gid: uid, groups: vec![uid], name: text.to_owned(), home: None })
            }
            (None, None) => Err(UserError::Unknown(text.to_owned())),
        }
    }

    /// Whether this process is that user already and becomes it by doing nothing.
    pub(super) fn is_this_process(&self) -> bool {
        // SAFETY: these cannot fail and touch no memory.
        unsafe { libc::geteuid() == self.uid && libc::getuid() == self.uid && libc::getegid() == self.gid }
    }
}

struct Entry {
    uid: u32,
    gid: u32,
    name: CString,
    home: CString,
}

type Buffer = [libc::c_char];

fn read_entry(
    call: impl Fn(*mut libc::passwd, &mut Buffer, *mut *mut libc::passwd) -> libc::c_int,
) -> io::Result<Option<Entry>> {
    let mut buffer: Vec<libc::c_char> = vec![0; 1024];
    loop {
        // SAFETY: a `passwd` is integers and pointers, for which zero is a value.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut result = ptr::null_mut();
        match call(&mut entry, &mut buffer, &mut result) {
            0 if result.is_null() => return Ok(None),
            0 => {
                // SAFETY: the call succeeded, so both point to strings inside the buffer, which is alive.
                let (name, home) = unsafe {
                    (std::ffi::CStr::from_ptr(entry.pw_name), std::ffi::CStr::from_ptr(entry.pw_dir))
                };
                let (name, home) = (name.to_owned(), home.to_owned());
                return Ok(Some(Entry { uid: entry.pw_uid, gid: entry.pw_gid, name, home }));
            }
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 2, 0),
            // What some name services answer where others find nothing.
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn groups_of(name: &CString, gid: u32) -> Vec<u32> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the list has room for `count` entries and the name ends with a zero byte.
        let result = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &mut count) };
        let needed = usize::try_from(count).unwrap_or(0);
        if result >= 0 {
            groups.truncate(needed);
            return groups;
        }
        // It says how many there are; a system that does not gets twice the room.
        groups.resize(needed.max(groups.len() * 2), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_by_number() {
        let root = ResolvedUser::resolve("root").unwrap();
        assert_eq!((root.uid, root.gid, root.name.as_str()), (0, 0, "root"));
        assert!(root.groups.contains(&0));
        assert_eq!(ResolvedUser::resolve("0").unwrap(), root);
    }

    #[test]
    fn a_number_without_an_entry_is_taken_as_it_is() {
        let user = ResolvedUser::resolve("3999999999").unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (3_999_999_999, 3_999_999_999, vec![3_999_999_999]));
    }

    #[test]
    fn an_unknown_name_says_so() {
        for name in ["no-such-user-here", "", "a\0b", "4294967295"] {
            let error = ResolvedUser::resolve(name).unwrap_err();
            assert!(matches!(error, UserError::Unknown(_)), "{error:?}");
            assert!(error.hint().is_some());
        }
    }
}
