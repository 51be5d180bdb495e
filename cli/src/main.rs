//! The command `flair`: reads arguments, asks a node (or the home itself, offline), and prints the answer.

mod args;
mod command;
mod context;
mod external;
mod influence;
mod measure;
mod metric;
mod problem;
mod progress;
#[cfg(test)]
mod reference;
mod render;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use args::Arguments;
use external::External;

fn main() -> ExitCode {
    let arguments = match read() {
        Ok(arguments) => arguments,
        Err((external, json)) => {
            let problem = external.run();
            problem::report(&problem, json);
            return ExitCode::from(problem.code.exit());
        }
    };
    let json = arguments.json;
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(flair_node::api::types::Problem::internal)
        .and_then(|runtime| {
            let result = runtime.block_on(command::run(arguments));
            // What still waits for a disk or peer was closed already; nothing else is worth waiting for.
            runtime.shutdown_background();
            result
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            problem::report(&problem, json);
            ExitCode::from(problem.code.exit())
        }
    }
}

/// What was typed, or the program that it asks for and whether problems are told as JSON. Anything else ends here, as clap
/// ends: with help, or with what is wrong.
fn read() -> Result<Arguments, (External, bool)> {
    let command = Arguments::command();
    let matches = command.clone().allow_external_subcommands(true).get_matches();
    if let Some((word, below)) = matches.subcommand()
        && command.find_subcommand(word).is_none()
    {
        if let Some(external) = External::find(word, below, &matches) {
            return Err((external, matches.get_flag("json")));
        }
        if let Some(where_from) = external::missing(word) {
            command.clone().error(clap::error::ErrorKind::InvalidSubcommand, where_from).exit();
        }
        // Without such programs: clap names the command that may have been meant.
        command.get_matches();
    }
    Ok(Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()))
}
