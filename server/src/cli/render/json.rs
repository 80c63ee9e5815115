//! Answers as JSON: the types of the control protocol, with the schema's number in each object.

use serde::Serialize;

use crate::control::api::{Response, SCHEMA};

/// Adds the number to answers that do not have it on the wire.
#[derive(Serialize)]
struct WithSchema<'a, T> {
    schema: u32,
    #[serde(flatten)]
    answer: &'a T,
}

/// One object over several lines.
pub fn pretty(answer: &Response) -> serde_json::Result<String> {
    write(answer, true)
}

/// One object on one line.
pub fn line(answer: &Response) -> serde_json::Result<String> {
    write(answer, false)
}

fn write(answer: &Response, pretty: bool) -> serde_json::Result<String> {
    fn to<T: Serialize>(value: &T, pretty: bool) -> serde_json::Result<String> {
        if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) }
    }
    fn with_schema<T: Serialize>(answer: &T, pretty: bool) -> serde_json::Result<String> {
        to(&WithSchema { schema: SCHEMA, answer }, pretty)
    }
    match answer {
        Response::Status(answer) => to(answer, pretty),
        Response::Metrics(answer) => to(answer, pretty),
        Response::Table(answer) => to(answer, pretty),
        Response::Flows(answer) => to(answer, pretty),
        Response::Policy(answer) => to(answer, pretty),
        Response::Change(answer) => to(answer, pretty),
        Response::Adopted(answer) => to(answer, pretty),
        Response::Reload(answer) => to(answer, pretty),
        Response::Receipt(answer) => to(answer, pretty),
        Response::Info(answer) => with_schema(answer, pretty),
        Response::Event(answer) => with_schema(answer, pretty),
        Response::Done(answer) => with_schema(answer, pretty),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures, *};

    #[test]
    fn every_object_has_the_schema_first_and_once() {
        for answer in fixtures::answers() {
            let line = line(&answer).unwrap();
            assert!(line.starts_with("{\"schema\":1,"), "{line}");
            // Receipts have it wherever they are.
            let receipts = usize::from(matches!(answer, Response::Reload(_)));
            assert_eq!(line.matches("\"schema\"").count(), 1 + receipts, "{line}");
            assert!(!line.contains('\n'));
            // `Done` takes no field that it does not know, so that it is told from the other answers.
            if !matches!(answer, Response::Done(_)) {
                let read_back: Response = serde_json::from_str(&pretty(&answer).unwrap()).unwrap();
                assert_eq!(read_back, answer);
            }
        }
    }

    #[test]
    fn a_receipt_is_one_line() {
        insta::assert_snapshot!(line(&Response::Receipt(fixtures::receipt())).unwrap());
    }

    #[test]
    fn a_status_is_an_object() {
        insta::assert_snapshot!(pretty(&Response::Status(fixtures::status())).unwrap());
    }
}
