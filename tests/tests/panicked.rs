//! A group's task panics: that is told, and concerns the one group. Its workers serve, and the next daemon goes on with them.

use std::time::Duration;

use steer_tests::{
    netns,
    scrape::Scraper,
    service::{group, sample},
    steer::{Steer, binary},
    traffic::Traffic,
};

const SOON: Duration = Duration::from_secs(60);
const METRICS: &str = "127.0.0.1:9464";

#[test]
fn a_panic_ends_one_group_s_care_and_nothing_else() {
    netns::run("panicked", |namespace| {
        let command = sample(&binary());
        let configured = format!(
            "[daemon]\nmetrics = \"{METRICS}\"\n{}{}",
            group("web", "127.0.0.1:8080", 2, &command, "ready = \"notify\""),
            group("other", "127.0.0.1:8081", 2, &command, "ready = \"notify\"")
        );
        // The first look at what a draining worker has left: nobody drains before the test has one do so.
        let crash = [("STEER_CRASH_AT".to_owned(), "panic:observe:1".into())];
        let mut steer = Steer::configured_in(namespace, &configured, &crash);
        let targets = ["127.0.0.1:8080", "127.0.0.1:8081"].map(|target| target.parse().expect("an address"));
        let traffic = Traffic::start(&targets);
        let scraper = Scraper::Tcp(METRICS.parse().expect("an address"));
        assert_eq!(scraper.get("/readyz").code, 200);

        // Who waits for it at that time, and who comes later.
        for arguments in [&["restart", "web"][..], &["status", "web"], &["scale", "web", "3"], &["reload"]] {
            let output = steer.command(arguments);
            if arguments == ["reload"] {
                assert_eq!(output.code, Some(0), "nothing of it has changed: {output:?}");
                continue;
            }
            let said = output.exited(1).stderr;
            assert!(said.contains("nobody looks after the group web any more"), "{said}");
            assert!(
                said.contains("STEER_CRASH_AT wants it at observe") && said.contains("\nhint: "),
                "{said}"
            );
        }
        let messages = steer.messages();
        let told = |line: &&str| line.contains("ERROR") && line.contains("the group web");
        assert_eq!(messages.lines().filter(told).count(), 1, "{messages}");
        let page = scraper.get("/readyz");
        assert_eq!(page.code, 503, "{page:?}");
        assert!(page.body.contains("the group web") && !page.body.contains("other"), "{page:?}");
        assert_eq!(scraper.get("/healthz").code, 200, "a restart of the daemon is the operator's to decide");

        // The other one is looked after.
        let status = steer.status();
        let names: Vec<String> = status.groups.iter().map(|group| group.name.to_string()).collect();
        assert_eq!(names, ["other"]);
        assert!(matches!(&status.unattended[..], [one] if one.contains("the group web")), "{status:?}");
        steer.command(["restart", "other"]).succeeded();
        traffic.more(200);

        steer.environment.clear();
        steer.kill();
        steer.start_daemon();
        assert_eq!(steer.until_working().groups.len(), 2);
        steer.until("the restart goes on", SOON, |status| {
            let web = status.groups.iter().find(|group| group.name.as_str() == "web");
            web.is_some_and(|web| web.workers.iter().all(|one| one.generation == 2 && one.state == "working"))
        });
        assert_eq!(scraper.get("/readyz").code, 200);
        let tally = traffic.end();
        println!("panicked: connections: {}, failed: {}", tally.connections, tally.failed);
        steer.stop(SOON);
    });
}

#[test]
fn a_stop_tells_of_what_it_could_not_stop() {
    netns::run("panicked-stop", |namespace| {
        let command = sample(&binary());
        let configured = group("web", "127.0.0.1:8080", 1, &command, "ready = \"notify\"")
            + &group("other", "127.0.0.1:8081", 1, &command, "ready = \"notify\"");
        let crash = [("STEER_CRASH_AT".to_owned(), "panic:observe:1".into())];
        let mut steer = Steer::configured_in(namespace, &configured, &crash);
        let workers = steer.status().groups.iter().filter_map(|group| group.workers[0].pid).count();
        assert_eq!(workers, 2);
        steer.command(["restart", "web"]).exited(1);
        let said = steer.command(["stop"]).exited(1).stderr;
        assert!(said.contains("the group web") && said.contains("\nhint: "), "{said}");
        steer.wait(SOON);

        // The next one has the group that was left, and can stop it.
        steer.environment.clear();
        steer.start_daemon();
        steer.until("both groups work", SOON, |status| {
            status.groups.len() == 2
                && status.groups.iter().all(|group| group.workers.iter().all(|one| one.state == "working"))
        });
        assert!(steer.messages().contains("web taken-over"), "{}", steer.messages());
        steer.stop(SOON);
    });
}
