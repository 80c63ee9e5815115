//! The benchmarks run and say what they say; their figures are nobody's here.

use std::process::Command;

use steer_tests::steer::binary;

#[test]
fn every_benchmark_runs_and_reports_what_it_compares() {
    let output = Command::new(env!("CARGO_BIN_EXE_steer-bench"))
        .args(["--quick", "--json"])
        .env("STEER_BIN", binary())
        .output()
        .expect("the benchmarks can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let whole: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it prints one object");
    let benchmarks = whole["benchmarks"].as_array().expect("there is a list of benchmarks");
    let names: Vec<&str> = benchmarks.iter().filter_map(|benchmark| benchmark["name"].as_str()).collect();
    assert_eq!(
        names,
        [
            "program",
            "datagrams",
            "rate",
            "handover",
            "table",
            "stall",
            "policy",
            "hostile",
            "binds",
            "idle",
            "scale"
        ]
    );
    let rows = benchmarks.iter().flat_map(|benchmark| benchmark["rows"].as_array().into_iter().flatten());
    let (mut judged, mut all) = (0, 0);
    for row in rows {
        all += 1;
        judged += usize::from(row["aim"]["met"].is_boolean());
        assert!(row["median"].as_f64().is_some_and(f64::is_finite), "{row}");
    }
    // Two of steer's policies for each family, three ways of datagrams for each and their rates, the rate of connections, the handover, three of the table, two stopped workers, the memory that changes
    // leave behind, two times beside each of four that are hostile, a bind of others, and of an idle daemon the start, the time, the memory and the takeover; of how all that grows, three drains and their
    // ratio, the status and the time beside many connections, and two kinds of handovers.
    assert_eq!(judged, 42, "{whole:#}");
    println!("benchmarks: {}, rows: {all}, with an aim: {judged}", names.len());
}
