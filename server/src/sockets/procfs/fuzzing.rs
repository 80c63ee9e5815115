//! Any text as a file of `/proc`: those of a process of another user's choice are not to be trusted.

use super::*;
use crate::{metrics::kernel::KernelCounters, sockets::processes::Processes};

/// What is understood is written as the kernel does and understood as the same; trees of processes are trees whatever they say.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(stat) = parse_stat(&text) {
        assert_eq!(parse_stat(&written(&stat)), Some(stat));
    }
    if let Some(user) = parse_user(&text) {
        assert_eq!(parse_user(&format!("Name:\tx\nUid:\t0\t{user}\t0\t0\n")), Some(user));
    }
    if let Some(inode) = parse_socket_link(&text) {
        assert_eq!(parse_socket_link(&format!("socket:[{inode}]")), Some(inode));
    }
    if let Some(counters) = KernelCounters::parse(&text) {
        assert_eq!(KernelCounters::parse(&format!("{text}\n")), Some(counters));
    }
    check_trees(text.lines().filter_map(parse_stat).collect());
}

/// As `do_task_stat` has it; what is not read is 0.
fn written(stat: &Stat) -> String {
    let Stat { pid, command, state, parent, session, start_time, status } = stat;
    let zeros = |count: usize| "0 ".repeat(count);
    let (before, between) = (zeros(15), zeros(29));
    format!("{pid} ({command}) {state} {parent} 0 {session} {before}{start_time} {between}{status}\n")
}

fn check_trees(all: Vec<Stat>) {
    let processes = Processes::of(all.iter().map(Stat::record));
    for leader in all.iter().flat_map(|stat| [stat.pid, stat.parent, stat.session]) {
        let tree = processes.tree(leader);
        assert!(tree.is_sorted_by(|one, next| one < next), "{tree:?}");
        for pid in &tree {
            assert!(processes.lives(*pid), "{pid} is dead");
        }
        if processes.lives(leader) {
            assert!(tree.contains(&leader), "{leader} is not in its own tree");
        }
    }
}
