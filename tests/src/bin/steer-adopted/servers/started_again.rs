//! Servers that are stopped and started again, and know nothing of SO_REUSEPORT.

use steer_tests::steer::Steer;

use super::plain;
use crate::{
    case::{Case, OwnLoss, Speaks},
    changing::Changing,
    program::Program,
    site::Site,
};

const REDIS: &[&str] = &["redis-server"];
const PYTHON: &[&str] = &["python3"];
/// It dies by SIGTERM where it stands.
const ACCEPTED: OwnLoss = OwnLoss {
    each: 8,
    why: "connections that the server had accepted when it was stopped; none where it drains first",
};

pub(super) const CASES: &[Case] = &[
    Case { speaks: Speaks::Redis, ..plain("redis", "drain, stop, start", REDIS, |site| redis(site, true)) },
    Case {
        speaks: Speaks::Redis,
        own_loss: Some(ACCEPTED),
        ..plain("redis", "stop, start", REDIS, |site| redis(site, false))
    },
    Case { ..plain("python plain", "drain, stop, start", PYTHON, |site| python(site, true)) },
    Case {
        own_loss: Some(ACCEPTED),
        ..plain("python plain", "stop, start", PYTHON, |site| python(site, false))
    },
];

fn redis(site: &Site, drains: bool) -> Box<dyn Changing> {
    let hosts = site.each(" BARE");
    let line = site.first(&format!(
        "redis-server --port PORT --bind{hosts} --dir DIR --save '' --loglevel warning --protected-mode no"
    ));
    begin(site, line, drains)
}

/// A server of a few lines, one thread, that knows nothing of SO_REUSEPORT.
const SERVER: &str = r#"
import asyncio, sys
async def answer(reader, writer):
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
        await writer.drain()
    except Exception:
        pass
    writer.close()
async def main():
    server = await asyncio.start_server(answer, sys.argv[1:-1], int(sys.argv[-1]), backlog=1024)
    await server.serve_forever()
asyncio.run(main())
"#;

fn python(site: &Site, drains: bool) -> Box<dyn Changing> {
    site.write("server.py", SERVER);
    let hosts = site.each(" BARE");
    begin(site, site.first(&format!("python3 DIR/server.py{hosts} PORT")), drains)
}

/// One that is stopped by SIGTERM and started again by the same line.
struct StartedAgain {
    program: Option<Program>,
    start: Box<dyn Fn() -> Program>,
    /// Whether steer drains it before, as it does by itself before a unit of systemd is stopped.
    drains: bool,
}

fn begin(site: &Site, line: String, drains: bool) -> Box<dyn Changing> {
    let again = site.clone();
    let start = move || {
        let program = again.start(&line);
        again.until_served();
        program
    };
    Box::new(StartedAgain { program: Some(start()), start: Box::new(start), drains })
}

impl Changing for StartedAgain {
    fn change(&mut self, _: u32, steer: Option<&Steer<'_>>) {
        if let Some(steer) = steer.filter(|_| self.drains) {
            steer.command(["drain", "web/*", "--until-replaced", "--timeout", "10s"]).succeeded();
        }
        self.program.take().into_iter().for_each(Program::end);
        self.program = Some((self.start)());
    }

    fn listeners(&self) -> usize {
        1
    }

    fn pid(&self) -> u32 {
        self.program.as_ref().expect("it runs").pid()
    }

    fn end(self: Box<Self>) {
        self.program.into_iter().for_each(Program::end);
    }
}
