//! Values of any length, limits and weights: what is refused of them.

use super::{WEB, refused, understood};

#[test]
fn a_value_of_any_length_is_cut() {
    let long = "x".repeat(100_000);
    let digits = "9".repeat(100_000);
    let texts = [
        WEB.replace("0.0.0.0:80", &long),
        WEB.replace("web", &long),
        WEB.replace("name", &format!("policy = \"{long}\"\nname")),
        WEB.replace("name", &format!("{long} = 1\nname")),
        WEB.replace("count = 2", &format!("count = {digits}")),
        format!("{WEB}stop_signal = \"{long}\"\n"),
        format!("{WEB}directory = \"{long}\"\n"),
        format!("{WEB}environment = {{ \"={long}\" = \"\" }}\n"),
        format!("{WEB}limits = {{ {long} = 1 }}\n"),
        format!("{WEB}weights = {{ {long} = 1 }}\n"),
        format!("{WEB}[group.deadlines]\ndrain = \"{long}\"\n"),
    ];
    for text in texts {
        let said = refused(&[&text]);
        let most = said.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(most <= 300, "{most} characters in a line: {}", said.chars().take(2_000).collect::<String>());
        assert!(said.contains("[...]") || said.contains("..."), "{said}");
    }
}

#[test]
fn limits_and_weights_that_are_none_are_shown() {
    insta::assert_snapshot!(refused(&[&format!(
        "{WEB}weights = {{ 0 = 101, 2 = 1, x = 1, 01 = 1, 1 = -1 }}\n\
         limits = {{ files = 1, nofile = \"many\", core = [1], stack = [\"unlimited\", 5], nproc = -1, as = [1, true] }}\n"
    )]), @r#"
    error: weights: 101 is not from 0 to 100
     --> /etc/steer/steer.toml:6:17
      |
    6 | weights = { 0 = 101, 2 = 1, x = 1, 01 = 1, 1 = -1 }
      |                 ^^^
    hint: weights are relative to each other; with 0 a worker gets nothing new

    error: weights: "x" is no worker's index
     --> /etc/steer/steer.toml:6:29
      |
    6 | weights = { 0 = 101, 2 = 1, x = 1, 01 = 1, 1 = -1 }
      |                             ^
    hint: workers are counted from 0: weights = { 0 = 2 }

    error: weights: "01" is no worker's index
     --> /etc/steer/steer.toml:6:36
      |
    6 | weights = { 0 = 101, 2 = 1, x = 1, 01 = 1, 1 = -1 }
      |                                    ^^
    hint: workers are counted from 0: weights = { 0 = 2 }

    error: weights: -1 is not from 0 to 100
     --> /etc/steer/steer.toml:6:48
      |
    6 | weights = { 0 = 101, 2 = 1, x = 1, 01 = 1, 1 = -1 }
      |                                                ^^
    hint: weights are relative to each other; with 0 a worker gets nothing new

    error: limits: "files" is no resource
     --> /etc/steer/steer.toml:7:12
      |
    7 | limits = { files = 1, nofile = "many", core = [1], stack = ["unlimited", 5], nproc = -1, as = [1, true] }
      |            ^^^^^
    hint: resources are as, core, cpu, data, fsize, locks, memlock, msgqueue, nofile, nproc, rss, rtprio, rttime, sigpending, stack

    error: limits: a string stands where a whole number, "unlimited" or [SOFT, HARD] belongs
     --> /etc/steer/steer.toml:7:32
      |
    7 | limits = { files = 1, nofile = "many", core = [1], stack = ["unlimited", 5], nproc = -1, as = [1, true] }
      |                                ^^^^^^
    hint: write it like limits = { nofile = 65536, core = [0, "unlimited"] }

    error: limits: 1 values stand where the soft and the hard limit belong
     --> /etc/steer/steer.toml:7:47
      |
    7 | limits = { files = 1, nofile = "many", core = [1], stack = ["unlimited", 5], nproc = -1, as = [1, true] }
      |                                               ^^^
    hint: write it like limits = { nofile = 65536, core = [0, "unlimited"] }

    error: limits: in [unlimited, 5] the soft limit is above the hard one
     --> /etc/steer/steer.toml:7:60
      |
    7 | limits = { files = 1, nofile = "many", core = [1], stack = ["unlimited", 5], nproc = -1, as = [1, true] }
      |                                                            ^^^^^^^^^^^^^^^^
    hint: write the soft limit first, then the hard one, which it may not exceed

    error: limits: -1 is not from 0 to 18446744073709551614
     --> /etc/steer/steer.toml:7:86
      |
    7 | limits = { files = 1, nofile = "many", core = [1], stack = ["unlimited", 5], nproc = -1, as = [1, true] }
      |                                                                                      ^^
    hint: write "unlimited" for no limit

    error: limits: a boolean stands where a whole number, "unlimited" or [SOFT, HARD] belongs
     --> /etc/steer/steer.toml:7:95
      |
    7 | limits = { files = 1, nofile = "many", core = [1], stack = ["unlimited", 5], nproc = -1, as = [1, true] }
      |                                                                                               ^^^^^^^^^
    hint: write it like limits = { nofile = 65536, core = [0, "unlimited"] }
    "#);
    insta::assert_snapshot!(refused(&[&format!("{WEB}weights = {{ 0 = 0, 2 = 5 }}\n")]), @r"
    error: weights names worker 2, and the 2 workers are counted from 0
     --> /etc/steer/steer.toml:6:11
      |
    6 | weights = { 0 = 0, 2 = 5 }
      |           ^^^^^^^^^^^^^^^^
    hint: raise count, or leave the weight out
    ");
    let large = WEB.replace("count = 2", "count = 200\nweights = { 0 = 1, 1 = 100, 2 = 100 }");
    assert!(understood(&[&large]).is_ok(), "{}", refused(&[&large]));
    let many: Vec<String> = (1..200).map(|index| format!("{index} = 100")).collect();
    let large = WEB.replace("count = 2", &format!("count = 200\nweights = {{ {} }}", many.join(", ")));
    let said = refused(&[&large]);
    assert!(
        said.starts_with("error: weights differ too much: worker 0 of weight 1 would get 3 of 65536"),
        "{said}"
    );
}
