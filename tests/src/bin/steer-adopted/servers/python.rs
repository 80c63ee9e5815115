//! Servers of Python applications: gunicorn, uvicorn and granian.

use rustix::process::Signal;

use super::plain;
use crate::{
    case::{Case, Families, OwnLoss},
    changing::{Changing, Led, Step},
    site::Site,
};

const GUNICORN: &[&str] = &["gunicorn"];
const UVICORN: &[&str] = &["uvicorn"];
const GRANIAN: &[&str] = &["granian"];
const WORKERS: usize = 2;

/// What a worker of one thread that is killed has taken, and its runtime's own queue.
const KILLED: OwnLoss = OwnLoss { each: 8, why: "connections that the killed worker had accepted" };

pub(super) const CASES: &[Case] = &[
    plain("gunicorn", "HUP", GUNICORN, |site| gunicorn(site, "", renewed())),
    plain("gunicorn", "TTIN, TTOU", GUNICORN, |site| gunicorn(site, "", resized())),
    Case {
        own_loss: Some(KILLED),
        ..plain("gunicorn", "SIGKILL of a worker", GUNICORN, |site| gunicorn(site, "", vec![Step::Loses]))
    },
    plain("gunicorn reuse-port", "HUP", GUNICORN, |site| gunicorn(site, REUSE, renewed())),
    Case {
        keeps_count: false,
        ..plain("gunicorn reuse-port", "TTIN, TTOU", GUNICORN, |site| gunicorn(site, REUSE, resized()))
    },
    Case {
        own_loss: Some(KILLED),
        ..plain("gunicorn reuse-port", "SIGKILL of a worker", GUNICORN, |site| {
            gunicorn(site, REUSE, vec![Step::Loses])
        })
    },
    Case {
        families: Families::Apart,
        few: 3,
        own_loss: Some(OwnLoss {
            each: 8,
            why: "each worker accepts for its event loop, and drops at its end what no request has come from yet",
        }),
        ..plain("uvicorn", "HUP", UVICORN, uvicorn)
    },
    Case {
        families: Families::Apart,
        few: 2,
        ..plain("granian", "HUP", GRANIAN, |site| granian(site, renewed()))
    },
    Case {
        families: Families::Apart,
        // It has half of the 16 clients at an address.
        own_loss: Some(OwnLoss { each: 16, ..KILLED }),
        ..plain("granian", "SIGKILL of a worker", GRANIAN, |site| granian(site, vec![Step::Loses]))
    },
];

const REUSE: &str = " --reuse-port";

const APPLICATION: &str = "async def app(scope, receive, send):\n\
     \x20   if scope['type'] == 'lifespan':\n\
     \x20       while True:\n\
     \x20           kind = (await receive())['type']\n\
     \x20           await send({'type': kind + '.complete'})\n\
     \x20           if kind == 'lifespan.shutdown': return\n\
     \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'3')]})\n\
     \x20   await send({'type': 'http.response.body', 'body': b'ok\\n'})\n\
     def wsgi(environ, start):\n\
     \x20   start('200 OK', [('Content-Length', '3')])\n\
     \x20   return [b'ok\\n']\n";

fn renewed() -> Vec<Step> {
    vec![Step::Renews(Signal::HUP, Some(WORKERS))]
}

fn resized() -> Vec<Step> {
    vec![Step::Resizes(Signal::TTIN, WORKERS + 1), Step::Resizes(Signal::TTOU, WORKERS)]
}

fn gunicorn(site: &Site, options: &str, steps: Vec<Step>) -> Box<dyn Changing> {
    site.write("app.py", APPLICATION);
    let binds = site.each(" -b ADDRESS");
    let line = format!("gunicorn -w {WORKERS}{binds}{options} --chdir DIR --worker-tmp-dir DIR app:wsgi");
    // With its option each worker binds for itself.
    let listeners: fn(usize) -> usize = if options.is_empty() { |_| 1 } else { |workers| workers };
    Box::new(Led { listeners, ..Led::start(site, &line, WORKERS, steps) })
}

fn uvicorn(site: &Site) -> Box<dyn Changing> {
    site.write("app.py", APPLICATION);
    let line = site.first(&format!(
        "uvicorn --host BARE --port PORT --workers {WORKERS} --app-dir DIR --no-access-log app:app"
    ));
    Box::new(Led::start(site, &line, WORKERS, renewed()))
}

fn granian(site: &Site, steps: Vec<Step>) -> Box<dyn Changing> {
    site.write("app.py", APPLICATION);
    let line = site.first(&format!(
        "granian --interface asgi --host BARE --port PORT --workers {WORKERS} --respawn-failed-workers --working-dir DIR app:app"
    ));
    // Each worker binds for itself.
    Box::new(Led { listeners: |workers| workers, ..Led::start(site, &line, WORKERS, steps) })
}
