//! Names of units, as people write them and as systemd has them.

use std::fmt;

use super::UnitError;

/// The longest name that systemd takes, in bytes.
const LENGTH_MAX: usize = 255;

/// The types of units that are no service.
const OTHER_TYPES: [&str; 10] =
    [".socket", ".target", ".device", ".mount", ".automount", ".swap", ".timer", ".path", ".slice", ".scope"];

/// The full name of a service, `nginx.service` or `app@1.service`, or of a template, `app@.service`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitName(String);

impl UnitName {
    /// Completes a name as `systemctl` does: `nginx` is `nginx.service`. `app@`, `app@*` and `app@*.service` are the template
    /// `app@.service`.
    pub fn complete(text: &str) -> Result<Self, UnitError> {
        if let Some(other) = OTHER_TYPES.iter().find(|suffix| text.ends_with(**suffix)) {
            let error =
                if is_valid(text.trim_end_matches(other)) { UnitError::NotService } else { UnitError::Name };
            return Err(error(text.to_owned()));
        }
        let prefix = text.strip_suffix(".service").unwrap_or(text);
        let prefix =
            prefix.strip_suffix("@*").map_or_else(|| prefix.to_owned(), |prefix| format!("{prefix}@"));
        if !is_valid(&prefix) {
            return Err(UnitError::Name(text.to_owned()));
        }
        Ok(Self(format!("{prefix}.service")))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether only instances of it run.
    pub fn is_template(&self) -> bool {
        is_template(&self.0)
    }

    /// What matches all instances of the template, as `ListUnitsByPatterns` takes it.
    pub(super) fn instances(&self) -> String {
        self.0.replace("@.service", "@*.service")
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a full name is that of a template.
pub fn is_template(name: &str) -> bool {
    name.ends_with("@.service")
}

/// Whether systemd takes this in front of a suffix.
fn is_valid(prefix: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let length = prefix.len() + ".service".len();
    length <= LENGTH_MAX && !prefix.is_empty() && !prefix.starts_with('@') && prefix.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(text: &str) -> String {
        UnitName::complete(text).unwrap().to_string()
    }

    #[test]
    fn short_names_are_completed_and_full_ones_are_kept() {
        for (text, name) in [
            ("nginx", "nginx.service"),
            ("nginx.service", "nginx.service"),
            // As systemctl has it: no type of unit is called `1`.
            ("redis-7.1", "redis-7.1.service"),
            ("app@1", "app@1.service"),
            ("app@a\\x2db.service", "app@a\\x2db.service"),
            ("app@", "app@.service"),
            ("app@*", "app@.service"),
            ("app@*.service", "app@.service"),
        ] {
            assert_eq!(completed(text), name, "{text}");
        }
    }

    #[test]
    fn a_template_is_told_from_its_instances() {
        let template = UnitName::complete("app@*").unwrap();
        assert!(template.is_template());
        assert_eq!(template.instances(), "app@*.service");
        assert!(!UnitName::complete("app@1").unwrap().is_template());
    }

    #[test]
    fn what_no_unit_can_be_called_is_refused() {
        let long = "a".repeat(LENGTH_MAX);
        for text in [
            "",
            ".service",
            "@1",
            "@.service",
            "a b",
            "ngin*",
            "../x",
            "/etc/x.service",
            "nginx\n",
            "é",
            &long,
        ] {
            assert!(matches!(UnitName::complete(text), Err(UnitError::Name(name)) if name == text), "{text}");
        }
    }

    #[test]
    fn units_of_other_types_are_no_services() {
        for text in ["nginx.socket", "multi-user.target", "user.slice", "x.scope"] {
            assert!(
                matches!(UnitName::complete(text), Err(UnitError::NotService(name)) if name == text),
                "{text}"
            );
        }
        assert!(matches!(UnitName::complete("a b.socket"), Err(UnitError::Name(_))));
    }
}
