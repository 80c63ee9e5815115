//! Servers that are packages of Debian; those of DNS have a file of their own.

use super::{PLAIN, Server, Speaks, plain};

/// nginx's file; the options of its `listen`.
macro_rules! nginx {
    ($options:literal) => {
        (
            "nginx.conf",
            concat!(
                "daemon off; worker_processes 2; error_log stderr;\n\
                 events {}\n\
                 http { access_log off; client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f;\n\
                 uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;\n\
                 server { listen IP:PORT",
                $options,
                "; location / { return 200 \"ok\\n\"; } } }\n"
            ),
        )
    };
}

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
            ..PLAIN
        }
    };
}

pub(super) const SERVERS: &[Server] = &[
    plain(
        "nginx",
        &["nginx"],
        "nginx -c DIR/nginx.conf -g 'pid DIR/nginx-{worker}-{generation}.pid;'",
        &[nginx!("")],
    ),
    plain(
        "nginx, reuseport",
        &["nginx"],
        "nginx -c DIR/nginx.conf -g 'pid DIR/nginx-{worker}-{generation}.pid;'",
        &[nginx!(" reuseport")],
    ),
    plain("HAProxy", &["haproxy"], "haproxy -f DIR/haproxy.cfg", &[HAPROXY]),
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
        speaks: Speaks::FastCgi,
        ..PLAIN
    },
    Server {
        name: "redis",
        needs: &["redis-server"],
        line: "redis-server --port PORT --bind BARE --dir DIR --save '' --loglevel warning --protected-mode no",
        options: &["--restart", "replace"],
        speaks: Speaks::Redis,
        ..PLAIN
    },
];
