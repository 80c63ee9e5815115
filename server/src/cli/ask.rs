//! The commands that ask the daemon: each is one request, and prints its answers.

use std::{cell::RefCell, os::fd::OwnedFd, path::Path, time::Duration};

use anyhow::Context;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
};

use super::{
    arguments::{Output, Question},
    exit::{self, Exit},
    output::{self, Stream},
    question::{self, Asked},
    render,
};
use crate::control::{
    api::{Fault, FaultKind, Receipt, Request, Response},
    client::Client,
};

/// Between the daemon's last answer and its end there is nothing left to wait for.
const END_MAX: Duration = Duration::from_secs(10);

/// Asks, prints, and says how it went.
pub(super) fn ask(socket: &Path, question: Question) -> anyhow::Result<Exit> {
    let asked = question::understand(question)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the client's runtime")?;
    runtime.block_on(async {
        let mut client = Client::connect(socket).await?;
        let stops = matches!(asked, Asked::Request(Request::Stop { .. }, _));
        let stopped = stops.then(|| client.daemon()).flatten();
        let exit = match asked {
            Asked::Call(method, parameters, output) => call(&mut client, &method, &parameters, output).await,
            Asked::Request(request, output) => match request {
                Request::Status { .. }
                | Request::Metrics {}
                | Request::Table { .. }
                | Request::Flows { .. }
                | Request::Policy { .. }
                | Request::SetPolicy { .. }
                | Request::SetWeight { .. }
                | Request::Adopt { .. } => one(&mut client, request, output).await,
                Request::Reload { .. } => reload(&mut client, request, output).await,
                Request::Events { .. } => events(&mut client, request, output).await,
                _ => receipts(&mut client, request, output).await,
            },
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

/// One answer, printed whole.
async fn one(client: &mut Client, request: Request, output: Output) -> anyhow::Result<Exit> {
    whole(client, request, output).await?;
    Ok(Exit::Ok)
}

async fn whole(client: &mut Client, request: Request, output: Output) -> anyhow::Result<Response> {
    let answer = client.call(request, |_| {}).await?;
    if matches!(answer, Response::Done(_)) {
        // A daemon that ends ends what only reads with this: nothing was said of what was asked.
        let fault = Fault::new(FaultKind::Failed, "the daemon ended before it answered");
        return Err(fault.with_hint("`steer status` tells whether another runs in its place").into());
    }
    if output.json {
        output::print(&render::json::pretty(&answer)?)?;
    } else {
        output::print(&render::text(&answer, output::style()))?;
    }
    Ok(answer)
}

/// What has changed, printed whole; how it went, its receipts and faults say.
async fn reload(client: &mut Client, request: Request, output: Output) -> anyhow::Result<Exit> {
    let Response::Reload(reload) = whole(client, request, output).await? else { return Ok(Exit::Failed) };
    if reload.reloaded.iter().any(|group| group.fault.is_some()) {
        return Ok(Exit::Failed);
    }
    Ok(exit::of_receipts(reload.reloaded.iter().flat_map(|group| &group.receipts)))
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
