//! The servers, each as its package brings it: the line that runs it, the files that it needs, what to ask it.

use std::{fs, net::SocketAddr, path::Path};

use crate::client::Exchange;

/// A server that is told an address and knows nothing of steer.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    /// The programs that it takes, looked for on PATH.
    pub(crate) needs: &'static [&'static str],
    /// The line that runs it, as a person types it: `IP` (in brackets where IPv6 is written so), `BARE` and `PORT` stand for the address,
    /// `DIR` for where its files are.
    pub(crate) line: &'static str,
    /// Its files, by name, with the same words.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// What `steer run` is told of it, beside the address and how many.
    pub(crate) options: &'static [&'static str],
    pub(crate) speaks: Speaks,
}

#[derive(Clone, Copy)]
pub(crate) enum Speaks {
    Http,
    Redis,
    FastCgi,
}

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

const NGINX: (&str, &str) = (
    "nginx.conf",
    "daemon off; worker_processes 2; error_log stderr;\n\
     events {}\n\
     http { access_log off; client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f;\n\
     uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;\n\
     server { listen IP:PORT; location / { return 200 \"ok\\n\"; } } }\n",
);

const HAPROXY: (&str, &str) = (
    "haproxy.cfg",
    "defaults\n  mode http\n  timeout client 5s\n  timeout server 5s\n  timeout connect 5s\n\
     frontend f\n  bind BARE:PORT\n  http-request return status 200 content-type text/plain string ok\n",
);

/// Apache's, but for the module that serves connections.
macro_rules! apache {
    ($name:literal, $module:literal) => {
        Server {
            name: $name,
            needs: &["apache2"],
            line: concat!(
                "apache2 -DFOREGROUND -d DIR -f DIR/apache.conf -c 'PidFile DIR/apache-{worker}-{generation}.pid' \
                 -C 'LoadModule ", $module, "_module /usr/lib/apache2/modules/mod_", $module, ".so'"
            ),
            files: &[
                (
                    "apache.conf",
                    "ServerName localhost\nListen IP:PORT\nErrorLog /dev/stderr\nDocumentRoot DIR/site\n\
                     LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\n\
                     User nobody\nGroup nogroup\n",
                ),
                ("site/index.html", "ok\n"),
            ],
            options: &[],
            speaks: Speaks::Http,
        }
    };
}

macro_rules! plain {
    ($name:literal, $needs:expr, $line:literal, $files:expr) => {
        Server { name: $name, needs: $needs, line: $line, files: $files, options: &[], speaks: Speaks::Http }
    };
}

/// All of them.
pub(crate) const SERVERS: &[Server] = &[
    plain!(
        "python3 http.server",
        &["python3"],
        "python3 -m http.server PORT --bind BARE --directory DIR",
        &[]
    ),
    plain!(
        "Node http",
        &["node"],
        "node DIR/server.js PORT BARE",
        &[(
            "server.js",
            "require('http').createServer((_, answer) => answer.end('ok\\n')).listen(process.argv[2], process.argv[3])\n",
        )]
    ),
    plain!(
        "Go net/http",
        &["go"],
        "DIR/server IP:PORT",
        &[(
            "server.go",
            "package main\nimport (\"io\"; \"net/http\"; \"os\")\n\
             func main() {\n\
             \thttp.HandleFunc(\"/\", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, \"ok\\n\") })\n\
             \tpanic(http.ListenAndServe(os.Args[1], nil))\n}\n",
        )]
    ),
    plain!(
        "Java HttpServer",
        &["java"],
        "java DIR/Server.java BARE PORT",
        &[(
            "Server.java",
            "import com.sun.net.httpserver.HttpServer;\nimport java.net.InetSocketAddress;\n\
             public class Server { public static void main(String[] a) throws Exception {\n\
             HttpServer s = HttpServer.create(new InetSocketAddress(a[0], Integer.parseInt(a[1])), 0);\n\
             s.createContext(\"/\", x -> { x.sendResponseHeaders(200, 3); x.getResponseBody().write(\"ok\\n\".getBytes()); x.close(); });\n\
             s.setExecutor(java.util.concurrent.Executors.newFixedThreadPool(16)); s.start(); } }\n",
        )]
    ),
    plain!(
        "nginx",
        &["nginx"],
        "nginx -c DIR/nginx.conf -g 'pid DIR/nginx-{worker}-{generation}.pid;'",
        &[NGINX]
    ),
    plain!("HAProxy", &["haproxy"], "haproxy -f DIR/haproxy.cfg", &[HAPROXY]),
    plain!("gunicorn", &["gunicorn"], "gunicorn -w 2 -b IP:PORT --chdir DIR app:wsgi", &[APPLICATION]),
    plain!(
        "uvicorn",
        &["uvicorn"],
        "uvicorn --host BARE --port PORT --app-dir DIR --no-access-log app:app",
        &[APPLICATION]
    ),
    plain!(
        "granian",
        &["granian"],
        "granian --interface asgi --host BARE --port PORT --working-dir DIR app:app",
        &[APPLICATION]
    ),
    plain!("hypercorn", &["hypercorn"], "hypercorn -b IP:PORT DIR/app:app", &[APPLICATION]),
    // It takes fd 3 where it is passed, for its own protocol.
    Server {
        name: "uWSGI",
        needs: &["uwsgi"],
        line: "uwsgi --plugin python3 --master --die-on-term --processes 2 --http-socket IP:PORT --chdir DIR --wsgi app:wsgi \
               --disable-logging",
        files: &[APPLICATION],
        options: &["--mode", "own"],
        speaks: Speaks::Http,
    },
    apache!("apache event", "mpm_event"),
    apache!("apache prefork", "mpm_prefork"),
    Server {
        name: "php-fpm",
        needs: &["php-fpm8.2"],
        line: "php-fpm8.2 -F -R -y DIR/fpm.conf",
        files: &[(
            "fpm.conf",
            "[global]\nerror_log = /dev/stderr\n[www]\nuser = nobody\ngroup = nogroup\nlisten = IP:PORT\npm = static\n\
             pm.max_children = 4\nping.path = /ping\n",
        )],
        options: &[],
        speaks: Speaks::FastCgi,
    },
    Server {
        name: "redis",
        needs: &["redis-server"],
        line: "redis-server --port PORT --bind BARE --dir DIR --save '' --loglevel warning --protected-mode no",
        files: &[],
        options: &["--restart", "replace"],
        speaks: Speaks::Redis,
    },
];

impl Server {
    /// Writes its files, and builds what has to be built.
    pub(crate) fn prepare(&self, directory: &Path, address: SocketAddr) -> Result<(), String> {
        for (name, text) in self.files {
            let path = directory.join(name);
            let parent = path.parent().expect("a file is in a directory");
            let written =
                fs::create_dir_all(parent).and_then(|()| fs::write(&path, fill_in(text, directory, address)));
            written.map_err(|error| format!("writing {}: {error}", path.display()))?;
        }
        if self.files.iter().any(|(name, _)| *name == "server.go") {
            let mut build = std::process::Command::new("go");
            build.args(["build", "-o", "server", "server.go"]).current_dir(directory);
            let built = build.env("GOCACHE", directory.join("cache")).env("HOME", directory).output();
            let built = built.map_err(|error| error.to_string())?;
            if !built.status.success() {
                return Err(String::from_utf8_lossy(&built.stderr).into_owned());
            }
        }
        Ok(())
    }

    /// How many of it run at once.
    pub(crate) fn workers(&self) -> u32 {
        if self.options.contains(&"replace") { 1 } else { 4 }
    }

    /// The words of its line.
    pub(crate) fn command(&self, directory: &Path, address: SocketAddr) -> Vec<String> {
        words(&fill_in(self.line, directory, address))
    }

    pub(crate) fn exchange(&self) -> Exchange {
        match self.speaks {
            Speaks::Http => Exchange {
                request: b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec(),
                answers: &["ok\n", "</html>", "\r\n\r\nok"],
            },
            Speaks::Redis => Exchange { request: b"PING\r\n".to_vec(), answers: &["+PONG"] },
            Speaks::FastCgi => Exchange { request: fastcgi_ping(), answers: &["pong"] },
        }
    }
}

fn fill_in(text: &str, directory: &Path, address: SocketAddr) -> String {
    let bare = address.ip().to_string();
    let ip = if address.is_ipv6() { format!("[{bare}]") } else { bare.clone() };
    text.replace("DIR", &directory.to_string_lossy())
        .replace("BARE", &bare)
        .replace("IP:PORT", &format!("{ip}:{}", address.port()))
        .replace("PORT", &address.port().to_string())
}

/// Splits a line at blanks, but for what stands in single quotes.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    parts
        .flat_map(|(number, part)| match number % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

/// One request of the FastCGI protocol for `/ping`.
fn fastcgi_ping() -> Vec<u8> {
    let record = |kind: u8, body: &[u8]| {
        let length = (body.len() as u16).to_be_bytes();
        [&[1, kind, 0, 1, length[0], length[1], 0, 0][..], body].concat()
    };
    let pairs = [("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", "/ping"), ("SCRIPT_FILENAME", "/ping")];
    let parameters: Vec<u8> = pairs
        .iter()
        .flat_map(|(name, value)| {
            [&[name.len() as u8, value.len() as u8], name.as_bytes(), value.as_bytes()].concat()
        })
        .collect();
    // BEGIN_REQUEST as a responder, PARAMS to their end, an empty STDIN.
    [record(1, &[0, 1, 0, 0, 0, 0, 0, 0]), record(4, &parameters), record(4, &[]), record(5, &[])].concat()
}
