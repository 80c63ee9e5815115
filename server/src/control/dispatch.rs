//! From a call to what it asks for, or to the varlink error that it deserves. Pure.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    api::{Fault, INTERFACE, METHODS, Request},
    wire::{self, Incoming},
};

/// The description of the interface, for people and for code generators.
pub(super) const DESCRIPTION: &str = include_str!("io.steer.Control.varlink");

const SERVICE_INTERFACE: &str = "org.varlink.service";
const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");

/// What a call asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    /// Something that the daemon carries out.
    Request(Request),
    /// Something that is known already: these reply parameters.
    Known(Value),
}

/// An error of the interface `org.varlink.service`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ServiceError {
    MethodNotFound { method: String },
    InterfaceNotFound { interface: String },
    InvalidParameter { parameter: String },
}

impl ServiceError {
    /// The error as a message.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (name, key, value) = match self {
            Self::MethodNotFound { method } => ("MethodNotFound", "method", method),
            Self::InterfaceNotFound { interface } => ("InterfaceNotFound", "interface", interface),
            Self::InvalidParameter { parameter } => ("InvalidParameter", "parameter", parameter),
        };
        wire::error(&format!("{SERVICE_INTERFACE}.{name}"), &json!({ key: value }))
    }
}

/// A fault as a message.
pub(super) fn encode_fault(fault: &Fault) -> Vec<u8> {
    #[derive(Serialize)]
    struct Parameters<'a> {
        message: &'a str,
        hint: Option<&'a str>,
    }
    let parameters = Parameters { message: &fault.message, hint: fault.hint.as_deref() };
    wire::error(&format!("{INTERFACE}.{}", fault.kind.name()), &parameters)
}

/// What the call asks for.
pub(super) fn understand(incoming: Incoming) -> Result<Asked, ServiceError> {
    let Incoming { method, parameters } = incoming;
    let mut parameters = match parameters {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(parameters)) => parameters,
        Some(_) => return Err(ServiceError::InvalidParameter { parameter: "parameters".to_owned() }),
    };
    // In varlink, null is a parameter that was left out.
    parameters.retain(|_, value| !value.is_null());
    let (interface, name) = method.rsplit_once('.').unwrap_or(("", &method));
    match (interface, name) {
        (INTERFACE, name) if METHODS.contains(&name) => request(&method, parameters).map(Asked::Request),
        (SERVICE_INTERFACE, "GetInfo") => Ok(Asked::Known(json!({
            "vendor": "steer",
            "product": "steer",
            "version": env!("CARGO_PKG_VERSION"),
            "url": "",
            "interfaces": [SERVICE_INTERFACE, INTERFACE],
        }))),
        (SERVICE_INTERFACE, "GetInterfaceDescription") => describe(&parameters),
        (INTERFACE | SERVICE_INTERFACE | "", _) => Err(ServiceError::MethodNotFound { method }),
        (interface, _) => Err(ServiceError::InterfaceNotFound { interface: interface.to_owned() }),
    }
}

fn describe(parameters: &Map<String, Value>) -> Result<Asked, ServiceError> {
    let description = match parameters.get("interface").and_then(Value::as_str) {
        Some(INTERFACE) => DESCRIPTION,
        Some(SERVICE_INTERFACE) => SERVICE_DESCRIPTION,
        Some(other) => return Err(ServiceError::InterfaceNotFound { interface: other.to_owned() }),
        None => return Err(ServiceError::InvalidParameter { parameter: "interface".to_owned() }),
    };
    Ok(Asked::Known(json!({ "description": description })))
}

fn request(method: &str, parameters: Map<String, Value>) -> Result<Request, ServiceError> {
    let parse = |parameters: &Map<String, Value>| {
        serde_json::from_value::<Request>(json!({ "method": method, "parameters": parameters }))
    };
    let invalid = |parameter: &str| ServiceError::InvalidParameter { parameter: parameter.to_owned() };
    let request = parse(&parameters).map_err(|error| {
        let error = error.to_string();
        // serde does not say which field it was in, so find the one without which the complaint is another.
        let culprit = parameters.keys().find(|key| {
            let mut rest = parameters.clone();
            rest.remove(*key);
            match parse(&rest).map_err(|other| other.to_string()) {
                // That this one is missing then says nothing of it where another was missing already.
                Err(other) if other == format!("missing field `{key}`") => {
                    !error.starts_with("missing field")
                }
                other => other != Err(error.clone()),
            }
        });
        // Without a culprit one is missing, and its name is in backticks.
        invalid(culprit.map(String::as_str).or_else(|| error.split('`').nth(1)).unwrap_or("parameters"))
    })?;
    // A parameter that is not known is a misspelt one: "timeout" for "timeout_ms" must not mean "none".
    let known = serde_json::to_value(&request).unwrap_or_default();
    match parameters.keys().find(|key| known["parameters"].get(key).is_none()) {
        Some(unknown) => Err(invalid(unknown)),
        None => Ok(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::Canary;

    fn ask(method: &str, parameters: Value) -> Result<Asked, ServiceError> {
        understand(Incoming { method: method.to_owned(), parameters: Some(parameters) })
    }

    fn invalid(parameter: &str) -> Result<Asked, ServiceError> {
        Err(ServiceError::InvalidParameter { parameter: parameter.to_owned() })
    }

    #[test]
    fn parameters_that_may_be_left_out_may_be_left_out() {
        let status = Ok(Asked::Request(Request::Status { group: None }));
        assert_eq!(
            understand(Incoming { method: "io.steer.Control.Status".into(), parameters: None }),
            status
        );
        assert_eq!(ask("io.steer.Control.Status", json!(null)), status);
        assert_eq!(ask("io.steer.Control.Status", json!({})), status);
        assert_eq!(ask("io.steer.Control.Status", json!({ "group": null })), status);
        let canary = Some(Canary { permille: 5, hold_ms: None });
        let group = "web".parse().unwrap();
        assert_eq!(
            ask("io.steer.Control.Restart", json!({ "group": "web", "canary": { "permille": 5 } })),
            Ok(Asked::Request(Request::Restart { group, worker: None, timeout_ms: None, canary }))
        );
    }

    #[test]
    fn what_is_wrong_with_the_parameters_is_named() {
        assert_eq!(ask("io.steer.Control.Status", json!({ "group": 5 })), invalid("group"));
        assert_eq!(ask("io.steer.Control.Status", json!({ "group": "NO" })), invalid("group"));
        assert_eq!(ask("io.steer.Control.Table", json!({})), invalid("group"));
        assert_eq!(ask("io.steer.Control.Drain", json!({ "timeout_ms": 5 })), invalid("worker"));
        assert_eq!(
            ask("io.steer.Control.Scale", json!({ "group": "web", "workers": -1 })),
            invalid("workers")
        );
        assert_eq!(ask("io.steer.Control.Stop", json!({ "timeout": 5 })), invalid("timeout"));
        let policy = |parameters| ask("io.steer.Control.SetPolicy", parameters);
        assert_eq!(policy(json!({ "group": "web" })), invalid("policy"));
        assert_eq!(policy(json!({ "policy": "cpu", "dry_run": true })), invalid("group"));
        assert_eq!(policy(json!({ "group": "web", "policy": "random" })), invalid("policy"));
        assert_eq!(policy(json!({ "group": "web", "policy": "cpu", "clients": ["x"] })), invalid("clients"));
        assert_eq!(policy(json!({ "group": "web", "policy": "cpu", "dry-run": true })), invalid("dry-run"));
        let weight =
            |weight: i64| ask("io.steer.Control.SetWeight", json!({ "worker": "web/0", "weight": weight }));
        assert_eq!([weight(-1), weight(1 << 32)], [invalid("weight"), invalid("weight")]);
        let canary =
            |canary: Value| ask("io.steer.Control.Restart", json!({ "group": "web", "canary": canary }));
        assert_eq!(canary(json!({ "hold_ms": 5 })), invalid("canary"));
        assert_eq!(canary(json!({ "permille": 5, "hold": 5 })), invalid("canary"));
        let decide = json!({ "group": "web", "decision": "wait" });
        assert_eq!(ask("io.steer.Control.Decide", decide), invalid("decision"));
        assert_eq!(ask("io.steer.Control.Info", json!({ "x": 5 })), invalid("x"));
        assert_eq!(ask("io.steer.Control.Status", json!([])), invalid("parameters"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let method = "io.steer.Control.Reboot".to_owned();
        assert_eq!(ask(&method, json!({})), Err(ServiceError::MethodNotFound { method }));
        for method in ["Do", "", ".", "org.varlink.service.Do"].map(str::to_owned) {
            assert_eq!(ask(&method, json!({})), Err(ServiceError::MethodNotFound { method }));
        }
        let interface = "org.example".to_owned();
        assert_eq!(ask("org.example.Do", json!({})), Err(ServiceError::InterfaceNotFound { interface }));
    }

    #[test]
    fn the_service_describes_itself() {
        let Ok(Asked::Known(info)) = ask("org.varlink.service.GetInfo", json!({})) else { panic!() };
        assert_eq!(info["interfaces"], json!(["org.varlink.service", "io.steer.Control"]));
        let get = "org.varlink.service.GetInterfaceDescription";
        let Ok(Asked::Known(text)) = ask(get, json!({ "interface": INTERFACE })) else { panic!() };
        assert_eq!(text["description"], DESCRIPTION);
        assert_eq!(ask(get, json!({})), invalid("interface"));
    }

    #[test]
    fn the_description_has_every_method_and_error_and_no_other() {
        let names = |keyword: &str| -> Vec<&str> {
            let lines = DESCRIPTION.lines().filter_map(|line| line.strip_prefix(keyword));
            lines.filter_map(|rest| rest.split([' ', '(']).next()).collect()
        };
        assert_eq!(names("method "), METHODS);
        let faults = crate::control::api::FaultKind::ALL.map(|kind| kind.name());
        assert_eq!(names("error "), faults);
        assert!(DESCRIPTION.contains("\ninterface io.steer.Control\n"));
    }
}
