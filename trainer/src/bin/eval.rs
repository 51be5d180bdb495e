//! `flair eval`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use flair_trainer::data::Data;
use flair_trainer::flair::Flair;
use flair_trainer::folder::Folder;
use flair_trainer::measure::{Loss, Measured};
use flair_trainer::module::Module;
use flair_trainer::report::{self, Output};
use flair_trainer::settings::{Set, write};
use flair_trainer::{Problem, evaluate};
use serde_json::json;

/// Measure a model on data that nobody else sees; a commit's figures are published, signed
///
/// Without a commit, the model of the working folder is measured, and nothing leaves. With one, `flair evaluate` measures it
/// and its base and publishes the figures: what it is to run is written to .flair/config.toml of the working folder, as
/// [evaluate.holdout], where that is not there yet.
///
/// A module is a program, and runs as you: measure only with those that you made or trust.
#[derive(Parser)]
#[command(name = "flair-eval", bin_name = "flair eval", version, max_term_width = 100)]
#[command(after_help = "Examples:
  flair eval --module model.ts --data holdout.safetensors
  flair eval --module model.ts --data holdout.safetensors main
  flair eval --module model.ts --data holdout.safetensors --on ward7 4f5a6b7c8d
  flair eval --json --module model.ts --data holdout.safetensors --model other/model.safetensors")]
struct Arguments {
    /// A commit's id or its beginning, or a branch for its head: its figures are published
    commit: Option<String>,
    /// The TorchScript module
    #[arg(long, value_name = "FILE")]
    module: PathBuf,
    /// The data, a safetensors file
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The model's file or its folder, instead of the working folder's
    #[arg(long, value_name = "PATH", conflicts_with = "commit")]
    model: Option<PathBuf>,
    /// The tensor of inputs in the data
    #[arg(long, value_name = "NAME", default_value = "inputs")]
    inputs: String,
    /// The tensor of targets in the data
    #[arg(long, value_name = "NAME", default_value = "targets")]
    targets: String,
    /// Examples in a batch
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(i64).range(1..=1 << 30))]
    batch_size: i64,
    /// What is measured: cross-entropy of classes, mse of numbers, bce of yes and no
    #[arg(long, value_enum, default_value_t = Loss::CrossEntropy, hide_possible_values = true)]
    loss: Loss,
    /// With a commit: what you call the data
    #[arg(long, value_name = "NAME", default_value = "holdout")]
    on: String,
    /// With a commit: measure, and publish nothing
    #[arg(short = 'n', long, requires = "commit")]
    dry_run: bool,
    /// The repository, when it is not that of the folder
    #[arg(long, value_name = "REPOSITORY")]
    repo: Option<String>,
    #[command(flatten)]
    output: Output,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.output.json;
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => report::problem(&problem, json),
    }
}

fn run(arguments: &Arguments) -> Result<(), Problem> {
    if let Some(commit) = &arguments.commit {
        return publish(arguments, commit);
    }
    let measured = measure(arguments)?;
    arguments.output.result(&json!(measured), &words(&measured))
}

fn measure(arguments: &Arguments) -> Result<Measured, Problem> {
    let folder = match &arguments.model {
        Some(path) if path.is_dir() => Folder::find(path, &[], &arguments.data)?,
        Some(path) => Folder::find(Path::new("."), std::slice::from_ref(path), &arguments.data)?,
        None => Folder::find(Path::new("."), &[], &arguments.data)?,
    };
    let mut files = folder.open()?;
    let mut module = Module::load(&arguments.module)?;
    module.fill(&mut files)?;
    let (inputs, targets) = (&arguments.inputs, &arguments.targets);
    let data = Data::load(&arguments.data, inputs, targets, module.kind()?, arguments.loss)?;
    evaluate::all(&mut module, &data, arguments.loss, arguments.batch_size)
}

/// Lets `flair evaluate` measure the commit and its base with this program.
fn publish(arguments: &Arguments, commit: &str) -> Result<(), Problem> {
    let folder = Folder::find(Path::new("."), &[], &arguments.data)?;
    if !folder.working {
        return Err(
            Problem::file(&folder.root, "this is not in a working folder").help("run this in a clone")
        );
    }
    // What is wrong with module or data is told before anything is written.
    let measured = measure(arguments)?;
    let set = Set {
        name: &arguments.on,
        module: &arguments.module,
        data: &arguments.data,
        inputs: &arguments.inputs,
        targets: &arguments.targets,
        batch: arguments.batch_size,
        loss: arguments.loss,
    };
    if let Some(path) = write(&folder.root, &set, &measured)? {
        arguments.output.say(&format!("Wrote [evaluate.{}] to {}", arguments.on, path.display()));
    }
    let mut words = vec!["evaluate".to_owned(), commit.to_owned(), "--on".to_owned(), arguments.on.clone()];
    for (wanted, word) in [
        (arguments.dry_run, "--dry-run"),
        (arguments.output.json, "--json"),
        (arguments.output.quiet, "--quiet"),
    ] {
        if wanted {
            words.push(word.to_owned());
        }
    }
    Flair::new(&folder.root, arguments.repo.clone()).run(words.into_iter().map(Into::into))
}

fn words(measured: &Measured) -> String {
    let mut words = format!("loss {:.4}", measured.loss);
    for (name, value) in [("accuracy", measured.accuracy), ("auc", measured.auc)] {
        if let Some(value) = value {
            let _ = write!(words, "  {name} {value:.4}");
        }
    }
    format!("{words}  n {}", measured.n)
}
