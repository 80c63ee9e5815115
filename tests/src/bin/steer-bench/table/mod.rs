//! Which worker has which bucket: the assignment beside three others, over the same changes to the same groups.
//!
//! What is wanted is against each other: parts that are as exact as weights, and changes that move nothing but the part that
//! changes.

mod cases;
mod maglev;
mod quotas;
mod rendezvous;

use std::{hint::black_box, time::Instant};

use anyhow::Result;
use steer::engine::assign::{Member, assign};

use self::cases::Case;
use crate::{
    report::{Aim, Report, Row},
    samples::Samples,
};

/// Who has which bucket, by one way of several.
type Assign = fn(&[Member]) -> Vec<u32>;

const STEER: &str = "steer";
/// The limits that the assignment was chosen by.
const PART_OFF_AIM: f64 = 1.0;
const MOVED_AIM: f64 = 1.0;
const BUILD_AIM: f64 = 20.0;

/// A way, and what was found of it.
struct Contender {
    name: &'static str,
    assign: Assign,
    /// For each case the most that a part of 1,000 buckets or more was missed by, in %; nothing where there is none.
    part_off: Samples,
    /// For each case the most that any part was missed by, in buckets.
    buckets_off: Samples,
    /// For each case what moved beyond the change in the part of the one that changed, in % of all buckets.
    moved: Samples,
    /// For each round the time that a table of the largest group took.
    build: Samples,
}

impl Contender {
    fn new(name: &'static str, assign: Assign) -> Self {
        let none = Samples::default;
        Self { name, assign, part_off: none(), buckets_off: none(), moved: none(), build: none() }
    }

    fn take(&mut self, case: &Case) {
        let (before, after) = ((self.assign)(&case.before), (self.assign)(&case.after));
        let off = cases::parts_off(&case.after, &after);
        self.buckets_off.push(off.buckets);
        if let Some(percent) = off.percent {
            self.part_off.push(percent);
        }
        self.moved.push(case.moved_beyond_the_change(&before, &after));
    }

    fn time(&mut self, members: &[Member]) {
        let began = Instant::now();
        black_box((self.assign)(black_box(members)));
        self.build.push(began.elapsed().as_secs_f64() * 1_000.0);
    }

    fn report(&self, report: &mut Report) {
        let is_judged = self.name == STEER;
        let mut add = |what, unit, samples: &Samples, aim: Option<Aim>| {
            let row = Row::new(format!("{}: {what}", self.name), samples).in_unit(unit);
            report.add(match aim {
                Some(aim) if is_judged => row.with_aim(aim),
                _ => row,
            });
        };
        let (part_off, moved) = (self.part_off.quantile(1.0), self.moved.quantile(1.0));
        let aim = Aim::at_most("the worst", part_off, PART_OFF_AIM);
        add("off a part of 1,000 or more", "%", &self.part_off, Some(aim));
        add("off any part", "buckets", &self.buckets_off, None);
        let aim = Aim::at_most("the worst", moved, MOVED_AIM);
        add("moved beyond the change", "% of buckets", &self.moved, Some(aim));
        let aim = Aim::at_most("the median", self.build.median(), BUILD_AIM);
        add("table of 1,024 workers", "ms", &self.build, Some(aim));
    }
}

/// Has each way make the tables before and after each case, then the largest group's once more against the clock.
pub(crate) fn run(quick: bool) -> Result<Report> {
    let (each, rounds) = if quick { (1, 2) } else { (4, 20) };
    let mut contenders = [
        Contender::new(STEER, assign),
        Contender::new("exact quotas", quotas::assign),
        Contender::new("Maglev", maglev::assign),
        Contender::new("weighted rendezvous", rendezvous::assign),
    ];
    let cases = cases::all(each, quick);
    for case in &cases {
        contenders.iter_mut().for_each(|contender| contender.take(case));
    }
    let largest = cases::largest();
    for _ in 0..rounds {
        contenders.iter_mut().for_each(|contender| contender.time(&largest));
    }
    let method = format!(
        "{} cases: groups of 2 to 1,024 workers of equal or random weights, where one comes, goes or changes its \
         weight; {rounds} rounds against the clock",
        cases.len()
    );
    let mut report = Report::new("table", "who has which bucket", method);
    contenders.iter().for_each(|contender| contender.report(&mut report));
    Ok(report)
}
