//! The commands that ask the daemon: each is one request, and prints its answers.

use std::{cell::RefCell, os::fd::OwnedFd, path::Path, time::Duration};

use anyhow::Context;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
};

use super::{
    arguments::{Output, Question, Wait},
    exit::{self, Exit},
    output::{self, Stream},
    render,
};
use crate::control::{
    api::{Fault, FaultKind, INTERFACE, Receipt, Request, Response},
    client::Client,
};

/// Between the daemon's last answer and its end there is nothing left to wait for.
const END_MAX: Duration = Duration::from_secs(10);

/// Asks, prints, and says how it went.
pub(super) fn ask(socket: &Path, question: Question) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the client's runtime")?;
    runtime.block_on(async {
        let mut client = Client::connect(socket).await?;
        let stopped = matches!(question, Question::Stop { .. }).then(|| client.daemon()).flatten();
        let exit = match question {
            Question::Call { method, parameters, output } => {
                let method = full_name(&method);
                call(&mut client, &method, &parameters, output).await
            }
            question => {
                let (request, output) = request(question);
                match request {
                    Request::Status { .. } | Request::Table { .. } => one(&mut client, request, output).await,
                    Request::Events { .. } => events(&mut client, request, output).await,
                    _ => receipts(&mut client, request, output).await,
                }
            }
        }?;
        drop(client);
        if let Some(daemon) = stopped {
            until_ended(daemon).await?;
        }
        Ok(exit)
    })
}

/// Waits for the end of the daemon after its last answer: only then are its socket and its addresses free for the next.
async fn until_ended(daemon: OwnedFd) -> anyhow::Result<()> {
    // SAFETY: the registration owns the descriptor, so that it stays open and the same.
    let registered = unsafe { AsyncFd::register_with_interest(daemon, Interest::READABLE) };
    let daemon = registered.context("cannot wait for the daemon's end")?;
    let Ok(ended) = tokio::time::timeout(END_MAX, daemon.readable()).await else {
        let message = format!("the daemon has stopped its groups, and has not ended within {END_MAX:?}");
        return Err(Fault::new(FaultKind::TimedOut, message)
            .with_hint("what it prints says what it waits for")
            .into());
    };
    let _ready = ended.context("cannot wait for the daemon's end")?;
    Ok(())
}

/// The request that a question is. `Call` is none, and has been dealt with.
fn request(question: Question) -> (Request, Output) {
    let milliseconds = |Wait { timeout }: Wait| timeout.map(whole_milliseconds);
    match question {
        Question::Status { group, output } => (Request::Status { group }, output),
        Question::Table { group, output } => (Request::Table { group, clients: vec![], to: None }, output),
        Question::Events { group, follow, since, output } => {
            (Request::Events { group, since, follow }, output)
        }
        Question::Restart { target, wait, output } => {
            let timeout_ms = milliseconds(wait);
            (
                Request::Restart { group: target.group, worker: target.worker, timeout_ms, canary: None },
                output,
            )
        }
        Question::Drain { worker, wait, output } => {
            (Request::Drain { worker, timeout_ms: milliseconds(wait) }, output)
        }
        Question::Undrain { worker, output } => (Request::Undrain { worker }, output),
        Question::Scale { group, workers, wait, output } => {
            (Request::Scale { group, workers, timeout_ms: milliseconds(wait) }, output)
        }
        Question::Stop { wait, output } => (Request::Stop { timeout_ms: milliseconds(wait) }, output),
        Question::Call { .. } => unreachable!("a call has no request of ours"),
    }
}

fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `Status` for `io.steer.Control.Status`; other names have their interface already.
fn full_name(method: &str) -> String {
    if method.contains('.') { method.to_owned() } else { format!("{INTERFACE}.{method}") }
}

/// One answer, printed whole.
async fn one(client: &mut Client, request: Request, output: Output) -> anyhow::Result<Exit> {
    let answer = client.call(request, |_| {}).await?;
    if output.json {
        output::print(&render::json::pretty(&answer)?)?;
    } else {
        output::print(&render::text(&answer, output::style()))?;
    }
    Ok(Exit::Ok)
}

/// Events, one line each, until there are no more or nobody reads them.
async fn events(client: &mut Client, request: Request, output: Output) -> anyhow::Result<Exit> {
    let style = output::style();
    let stream = RefCell::new(Stream::default());
    let nobody_reads = Notify::new();
    let call = client.call(request, |answer| {
        let mut stream = stream.borrow_mut();
        stream.print(&line(&answer, output, style));
        if stream.has_failed() {
            nobody_reads.notify_one();
        }
    });
    tokio::select! {
        last = call => match last? {
            // The end of the stream, of which the events before it have said all.
            Response::Done(_) => {}
            last => stream.borrow_mut().print(&line(&last, output, style)),
        },
        () = nobody_reads.notified() => {}
    }
    Ok(stream.into_inner().finish(Exit::Ok)?)
}

/// Receipts as they come, then the end. The change goes on, and is waited for, when nobody reads them.
async fn receipts(client: &mut Client, request: Request, output: Output) -> anyhow::Result<Exit> {
    let style = output::style();
    let mut stream = Stream::default();
    let mut receipts: Vec<Receipt> = Vec::new();
    let mut show = |answer: Response| {
        // With JSON, every line is of one kind: the end is printed where nothing else was.
        let skip = output.json && !receipts.is_empty() && matches!(answer, Response::Done(_));
        if !skip {
            stream.print(&line(&answer, output, style));
        }
        if let Response::Receipt(receipt) = answer {
            receipts.push(receipt);
        }
    };
    let last = client.call(request, &mut show).await?;
    show(last);
    Ok(stream.finish(exit::of_receipts(&receipts))?)
}

/// Answers of any method, as they are on the wire.
async fn call(
    client: &mut Client,
    method: &str,
    parameters: &serde_json::Value,
    output: Output,
) -> anyhow::Result<Exit> {
    let mut stream = Stream::default();
    let write = |value: &serde_json::Value| {
        // A value with string keys can always be written.
        if output.json { value.to_string() } else { format!("{value:#}") }
    };
    let last = client.call_any(method, parameters, |answer| stream.print(&write(&answer))).await?;
    stream.print(&write(&last));
    Ok(stream.finish(Exit::Ok)?)
}

fn line(answer: &Response, output: Output, style: render::Style) -> String {
    if output.json {
        // What cannot be written as JSON is written all the same, for the reader to find.
        render::json::line(answer).unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()))
    } else {
        render::text(answer, style)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::arguments::{Arguments, Command};

    fn asked(line: &str) -> Request {
        let Command::Ask(question) = Arguments::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("{line}")
        };
        request(question).0
    }

    #[test]
    fn each_command_asks_for_what_it_says() {
        let group: crate::names::GroupName = "web".parse().unwrap();
        let worker = group.worker(2);
        assert_eq!(asked("steer status"), Request::Status { group: None });
        assert_eq!(asked("steer status web --json"), Request::Status { group: Some(group.clone()) });
        assert_eq!(
            asked("steer table web"),
            Request::Table { group: group.clone(), clients: vec![], to: None }
        );
        assert_eq!(
            asked("steer events web --follow --since 7"),
            Request::Events { group: Some(group.clone()), since: 7, follow: true }
        );
        assert_eq!(
            asked("steer restart web"),
            Request::Restart { group: group.clone(), worker: None, timeout_ms: None, canary: None }
        );
        assert_eq!(
            asked("steer restart web/2 --timeout 500ms"),
            Request::Restart { group: group.clone(), worker: Some(2), timeout_ms: Some(500), canary: None }
        );
        assert_eq!(
            asked("steer drain web/2 --timeout 3s"),
            Request::Drain { worker: worker.clone(), timeout_ms: Some(3000) }
        );
        assert_eq!(asked("steer undrain web/2"), Request::Undrain { worker });
        assert_eq!(asked("steer scale web 8"), Request::Scale { group, workers: 8, timeout_ms: None });
        assert_eq!(asked("steer --socket /x stop"), Request::Stop { timeout_ms: None });
    }

    #[test]
    fn a_method_without_an_interface_is_ours() {
        assert_eq!(full_name("Status"), "io.steer.Control.Status");
        assert_eq!(full_name("org.varlink.service.GetInfo"), "org.varlink.service.GetInfo");
    }
}
