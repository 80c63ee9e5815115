//! Servers of ASGI and WSGI applications.

use super::{PLAIN, Server, plain};

/// An application for servers of ASGI and WSGI.
const APPLICATION: (&str, &str) = (
    "app.py",
    "async def app(scope, receive, send):\n\
     \x20   if scope['type'] == 'lifespan':\n\
     \x20       while True:\n\
     \x20           kind = (await receive())['type']\n\
     \x20           await send({'type': kind + '.complete'})\n\
     \x20           if kind == 'lifespan.shutdown': return\n\
     \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'3')]})\n\
     \x20   await send({'type': 'http.response.body', 'body': b'ok\\n'})\n\
     def wsgi(environ, start):\n\
     \x20   start('200 OK', [('Content-Length', '3')])\n\
     \x20   return [b'ok\\n']\n",
);

pub(super) const SERVERS: &[Server] = &[
    plain("gunicorn", &["gunicorn"], "gunicorn -w 2 -b IP:PORT --chdir DIR app:wsgi", &[APPLICATION]),
    plain(
        "uvicorn",
        &["uvicorn"],
        "uvicorn --host BARE --port PORT --app-dir DIR --no-access-log app:app",
        &[APPLICATION],
    ),
    plain(
        "granian",
        &["granian"],
        "granian --interface asgi --host BARE --port PORT --working-dir DIR app:app",
        &[APPLICATION],
    ),
    plain("hypercorn", &["hypercorn"], "hypercorn -b IP:PORT DIR/app:app", &[APPLICATION]),
    // It takes fd 3 where it is passed, for its own protocol.
    Server {
        name: "uWSGI",
        needs: &["uwsgi"],
        line: "uwsgi --plugin python3 --master --die-on-term --processes 2 --http-socket IP:PORT --chdir DIR --wsgi app:wsgi \
               --disable-logging",
        files: &[APPLICATION],
        options: &["--mode", "own"],
        ..PLAIN
    },
];
