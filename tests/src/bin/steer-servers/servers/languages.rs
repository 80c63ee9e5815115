//! What languages bring along, and programs of our own that know nothing of steer.

use super::{PLAIN, Server, plain};

pub(super) const SERVERS: &[Server] = &[
    plain(
        "python3 http.server",
        &["python3"],
        "python3 -m http.server PORT --bind BARE --directory DIR",
        &[],
    ),
    plain(
        "Node http",
        &["node"],
        "node DIR/server.js PORT BARE",
        &[(
            "server.js",
            "require('http').createServer((_, answer) => answer.end('ok\\n')).listen(process.argv[2], process.argv[3])\n",
        )],
    ),
    Server {
        name: "Go net/http",
        needs: &["go"],
        line: "DIR/server IP:PORT",
        files: &[(
            "server.go",
            "package main\nimport (\"io\"; \"net/http\"; \"os\")\n\
             func main() {\n\
             \thttp.HandleFunc(\"/\", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, \"ok\\n\") })\n\
             \tpanic(http.ListenAndServe(os.Args[1], nil))\n}\n",
        )],
        build: "env HOME=DIR GOCACHE=DIR/cache go build -o DIR/server DIR/server.go",
        ..PLAIN
    },
    plain(
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
        )],
    ),
    // No libc that could be preloaded.
    Server {
        name: "Rust, static",
        needs: &["rustc"],
        line: "DIR/server IP:PORT",
        files: &[("static.rs", include_str!("../programs/static.rs"))],
        build: "rustc --edition 2024 -O -C target-feature=+crt-static -o DIR/server DIR/static.rs",
        ..PLAIN
    },
    Server {
        name: "io_uring",
        needs: &["cc", "/usr/include/liburing.h"],
        line: "DIR/server BARE PORT",
        files: &[("ring.c", include_str!("../programs/ring.c"))],
        build: "cc -O2 -o DIR/server DIR/ring.c -luring",
        // Many a sandbox refuses rings.
        trial: "DIR/server",
        ..PLAIN
    },
];
