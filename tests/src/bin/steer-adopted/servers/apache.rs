//! apache: a graceful restart closes each bucket's listener before it binds its successor.

use rustix::process::Signal;

use super::plain;
use crate::{
    case::Case,
    changing::{Changing, Led, Step},
    site::Site,
};

const NEEDS: &[&str] = &["apache2"];
/// A bucket for each CPU: apache makes as many as the host has CPUs for each of the ratio.
const BUCKETS: &str = "ListenCoresBucketsRatio 1\n";

pub(super) const CASES: &[Case] = &[
    plain("apache event", "graceful", NEEDS, |site| graceful(site, "event", "")),
    plain("apache event, buckets", "graceful", NEEDS, |site| graceful(site, "event", BUCKETS)),
    plain("apache prefork", "graceful", NEEDS, |site| graceful(site, "prefork", "")),
    plain("apache prefork, buckets", "graceful", NEEDS, |site| graceful(site, "prefork", BUCKETS)),
];

fn graceful(site: &Site, module: &str, buckets: &str) -> Box<dyn Changing> {
    let listen = site.each("Listen ADDRESS\n");
    site.write(
        "apache.conf",
        &format!(
            "LoadModule mpm_{module}_module /usr/lib/apache2/modules/mod_mpm_{module}.so\n\
             LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\n\
             ServerName localhost\nPidFile DIR/apache.pid\n{buckets}{listen}ErrorLog /dev/stderr\nDocumentRoot DIR/site\n\
             User nobody\nGroup nogroup\n"
        ),
    );
    site.write("site/index.html", "ok\n");
    let line = "apache2 -DFOREGROUND -d DIR -f DIR/apache.conf";
    let led = Led::start(site, line, 2, vec![Step::Renews(Signal::USR1, None)]);
    let listeners: fn(usize) -> usize = if buckets.is_empty() { |_| 1 } else { |_| cpus() };
    Box::new(Led { listeners, ..led })
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}
