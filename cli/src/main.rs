//! The command `flair`: reads arguments, asks a node (or the home itself, offline), and prints the answer.

mod args;
mod command;
mod context;
mod influence;
mod measure;
mod metric;
mod problem;
mod progress;
#[cfg(test)]
mod reference;
mod render;

use std::process::ExitCode;

use clap::Parser as _;

use args::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
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
