//! The command reference, `docs/commands.md`: generated from the arguments, and compared with them here.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory as _};

fn reference() -> String {
    let mut text = String::from(
        "# Commands\n\nWhat `flair --help` says, for reading in one place. Made from the program itself by\n\
         `FLAIR_UPDATE=1 cargo test -p flair-cli reference`.\n",
    );
    let mut flair = crate::args::Arguments::command().term_width(100);
    flair.build();
    section(&mut text, &mut flair, "##");
    text
}

fn section(text: &mut String, command: &mut Command, level: &str) {
    let name = command.get_bin_name().unwrap_or("flair").to_owned();
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    writeln!(text, "\n{level} {name}\n\n```text\n{}\n```", help.join("\n")).unwrap();
    let below: Vec<&mut Command> =
        command.get_subcommands_mut().filter(|below| below.get_name() != "help").collect();
    for below in below {
        section(text, below, "###");
    }
}

#[test]
fn every_command_is_in_the_reference_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
    let made = reference();
    if std::env::var_os("FLAIR_UPDATE").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "docs/commands.md is stale: run `FLAIR_UPDATE=1 cargo test -p flair-cli reference`"
    );
}

#[test]
fn every_aggregation_rule_is_named_where_one_is_chosen() {
    let made = reference();
    for line in flair_node::service::rules::list().lines() {
        let name = line.split_whitespace().next().unwrap();
        assert!(
            made.contains(&format!("{name},"))
                || made.contains(&format!("{name} [default"))
                || made.contains(&format!("{name}. ")),
            "{name}"
        );
    }
}

#[test]
fn every_command_has_an_example_and_every_argument_is_explained() {
    fn check(command: &Command) {
        if command.get_name() != "help" && command.get_bin_name().is_some() {
            let name = command.get_bin_name().unwrap();
            assert!(command.get_about().is_some(), "{name} says nothing about itself");
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                examples.contains(&format!("  {name}")) || command.get_name() == "list",
                "{name} has no example"
            );
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{name}: {} is not explained", argument.get_id());
            }
        }
        command.get_subcommands().filter(|below| below.get_name() != "help").for_each(check);
    }
    let mut flair = crate::args::Arguments::command();
    flair.build();
    flair.clone().debug_assert();
    check(&flair);
}
