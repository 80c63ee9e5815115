//! What groups must not share: a name, or an address.

use std::collections::BTreeMap;

use super::{error::ConfigError, group::FoundGroup, source::Place};

/// Tells of every name and address that an earlier group has.
pub(super) fn check(groups: &[FoundGroup], errors: &mut Vec<ConfigError>) {
    let mut names: BTreeMap<_, Place> = BTreeMap::new();
    let mut addresses: BTreeMap<_, (usize, Place)> = BTreeMap::new();
    for (number, FoundGroup { source, name, listen, .. }) in groups.iter().enumerate() {
        if let Some(name) = name {
            let place = source.place(name.span());
            if let Some(first) = names.get(name.get_ref()) {
                let message = format!("the name {} is given to two groups", name.get_ref());
                let error = ConfigError::new(message, place, "give one of them another name");
                errors.push(error.with_other(first.clone(), "it is given here first"));
            } else {
                names.insert(name.get_ref(), place);
            }
        }
        // With port 0 the kernel gives each a port of its own.
        for address in listen.iter().filter(|address| address.get_ref().address.port() != 0) {
            let place = source.place(address.span());
            match addresses.get(address.get_ref()) {
                // Twice in one group is that group's own error.
                Some((owner, _)) if *owner == number => {}
                Some((_, first)) => {
                    let message = format!("two groups listen on {}", address.get_ref());
                    let hint = "an address belongs to one group: choose another address, or make one group of the two";
                    let error = ConfigError::new(message, place, hint);
                    errors.push(error.with_other(first.clone(), "the other listens here"));
                }
                None => {
                    addresses.insert(address.get_ref(), (number, place));
                }
            }
        }
    }
}
