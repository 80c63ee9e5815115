//! The signals that concern a unit, and how they are told from others.

use zbus::{MatchRule, OwnedMatchRule, match_rule, message::Type};

use super::{
    UnitError,
    connection::{MANAGER, MANAGER_PATH, PROPERTIES, SYSTEMD},
};

/// The bus says that systemd has come, gone, or executed itself anew.
pub(super) const OWNER_CHANGED: &str = "NameOwnerChanged";

/// All that can tell of a change of the unit with this full name. Each says no more than that something may have changed.
pub(super) fn of_unit(unit: &str) -> Vec<Result<OwnedMatchRule, UnitError>> {
    let path = object_path(unit);
    vec![
        built(of_systemd().path(path.as_str()).interface(PROPERTIES).member("PropertiesChanged")),
        built(of_manager("JobNew").arg(2, unit)),
        job_removed(unit),
        built(of_manager("UnitNew").arg(0, unit)),
        built(of_manager("UnitRemoved").arg(0, unit)),
        // All unit files are being read again.
        built(of_manager("Reloading")),
        built(of_bus().member(OWNER_CHANGED).arg(0, SYSTEMD)),
    ]
}

/// A job of the unit has ended: its number, object, unit and result.
pub(super) fn job_removed(unit: &str) -> Result<OwnedMatchRule, UnitError> {
    built(of_manager("JobRemoved").arg(2, unit))
}

fn of_manager(member: &'static str) -> match_rule::Builder<'static> {
    of_systemd().path(MANAGER_PATH).interface(MANAGER).member(member)
}

/// By the sender the bus sees to it that nobody else's pass for systemd's.
fn of_systemd() -> match_rule::Builder<'static> {
    MatchRule::builder().msg_type(Type::Signal).sender(SYSTEMD)
}

fn of_bus() -> match_rule::Builder<'static> {
    const DBUS: &str = "org.freedesktop.DBus";
    MatchRule::builder().msg_type(Type::Signal).sender(DBUS).interface(DBUS)
}

fn built(rule: match_rule::Builder<'_>) -> Result<OwnedMatchRule, UnitError> {
    let rule = rule.build().map_err(|source| UnitError::Call { call: "AddMatch", source })?;
    Ok(rule.to_owned().into())
}

/// The object of a unit: in its name all but letters and digits are written in hexadecimal, and so is a digit in the first place.
fn object_path(unit: &str) -> String {
    let escape = |(place, byte): (usize, u8)| match byte {
        b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
        b'0'..=b'9' if place > 0 => char::from(byte).to_string(),
        _ => format!("_{byte:02x}"),
    };
    let escaped: String = unit.bytes().enumerate().map(escape).collect();
    format!("{MANAGER_PATH}/unit/{escaped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_object_is_named_as_systemd_names_it() {
        for (unit, object) in [
            ("nginx.service", "nginx_2eservice"),
            ("app@1.service", "app_401_2eservice"),
            ("0_a-b.service", "_30_5fa_2db_2eservice"),
            ("a\\x2db.service", "a_5cx2db_2eservice"),
        ] {
            assert_eq!(object_path(unit), format!("/org/freedesktop/systemd1/unit/{object}"));
        }
    }

    #[test]
    fn every_rule_is_for_the_unit_or_for_systemd_as_a_whole() {
        let rules: Vec<String> =
            of_unit("app@1.service").into_iter().map(|rule| rule.unwrap().to_string()).collect();
        println!("{rules:#?}");
        assert!(rules.iter().all(|rule| rule.contains("sender='org.freedesktop.")), "{rules:?}");
        let names_it =
            |rule: &&String| rule.contains("'app@1.service'") || rule.contains("app_401_2eservice'");
        assert_eq!(rules.iter().filter(names_it).count(), rules.len() - 2, "{rules:?}");
    }
}
