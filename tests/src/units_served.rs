//! Servers as units of a [`Host`]: of Debian's packages, and small ones in the languages that servers are written in. None knows of steer.

use crate::host::Host;

/// A server, the same on every host.
#[derive(Debug)]
pub struct Served {
    /// What a table calls it.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Where it listens, in both families.
    pub port: u16,
    /// Its unit's file and its program's, with paths; none where a package brings them.
    files: &'static [(&'static str, &'static str)],
    /// What makes the program of its source.
    build: &'static [&'static str],
}

impl Served {
    /// Writes, builds and starts it; of a package's server it runs already.
    #[track_caller]
    pub fn install(&self, host: &Host) {
        for (path, text) in self.files {
            host.machine.write(path, text);
        }
        if !self.build.is_empty() {
            host.machine.execute(self.build);
        }
        host.systemctl(&["daemon-reload"]);
        host.systemctl(&["start", self.unit]);
    }
}

/// Debian's own, two listeners without SO_REUSEPORT.
pub const NGINX: Served = Served {
    name: "nginx",
    unit: "nginx.service",
    port: 80,
    files: &[("/etc/systemd/system/nginx.service.d/limit.conf", include_str!("units_served/limit.conf"))],
    build: &[],
};

/// Answers what it has accepted before it ends.
pub const NODE: Served = Served {
    name: "node",
    unit: "node.service",
    port: 8081,
    files: &[
        ("/etc/systemd/system/node.service", include_str!("units_served/node.service")),
        ("/srv/server.js", include_str!("units_served/server.js")),
    ],
    build: &[],
};

/// Ends at SIGTERM with what it has accepted, which is what Node does where nobody says otherwise.
pub const NODE_THAT_ENDS: Served = Served {
    name: "node, no handler",
    unit: "node.service",
    port: 8081,
    files: &[
        ("/etc/systemd/system/node.service", include_str!("units_served/node.service")),
        ("/srv/server.js", include_str!("units_served/ends.js")),
    ],
    build: &[],
};

/// `http.server`, which ends at SIGTERM with what it has accepted; by a user that systemd makes for it.
pub const PYTHON: Served = Served {
    name: "http.server",
    unit: "python.service",
    port: 8082,
    files: &[
        ("/etc/systemd/system/python.service", include_str!("units_served/python.service")),
        ("/srv/www/index.html", "hello\n"),
    ],
    build: &[],
};

/// `net/http`.
pub const GO: Served = Served {
    name: "go",
    unit: "go.service",
    port: 8083,
    files: &[
        ("/etc/systemd/system/go.service", include_str!("units_served/go.service")),
        ("/srv/server.go", include_str!("units_served/server.go")),
    ],
    build: &["env", "HOME=/root", "CGO_ENABLED=0", "go", "build", "-o", "/srv/server", "/srv/server.go"],
};

/// The JDK's `HttpServer`.
pub const JAVA: Served = Served {
    name: "java",
    unit: "java.service",
    port: 8084,
    files: &[
        ("/etc/systemd/system/java.service", include_str!("units_served/java.service")),
        ("/srv/Server.java", include_str!("units_served/Server.java")),
    ],
    build: &["javac", "-d", "/srv", "/srv/Server.java"],
};
