//! `flair train`

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use flair_trainer::data::Data;
use flair_trainer::flair::Flair;
use flair_trainer::folder::Folder;
use flair_trainer::measure::Loss;
use flair_trainer::module::Module;
use flair_trainer::report::{self, Output};
use flair_trainer::train::{Optimizer, Plan, Progress, train};
use flair_trainer::weights::Weights;
use flair_trainer::{LIBTORCH, Problem, TCH};
use serde_json::{Value, json};

/// Train the working folder's model on data of one's own, and commit what training changed
///
/// A TorchScript module gives the architecture, the folder's safetensors file the weights: they are put into the module by
/// name. The data are a safetensors file with a row of inputs and a row of targets for each example; they stay here.
/// On an error or Ctrl-C the model's file is left as it was, and the weights trained until then are kept elsewhere.
///
/// A module is a program, and runs as you: train only those that you made or trust.
#[derive(Parser)]
#[command(name = "flair-train", bin_name = "flair train", version, max_term_width = 100)]
#[command(after_help = "In Python, once:
  torch.jit.script(model).save(\"model.ts\")
  safetensors.torch.save_file({\"inputs\": x, \"targets\": y}, \"private.safetensors\")

Examples:
  flair train --module model.ts --data private.safetensors --epochs 2 -m \"site B\" && flair push
  flair train --module model.ts --data private.safetensors --optimizer adamw --lr 0.001 --hold-out 0.1
  flair train --module model.ts --data private.safetensors --loss mse --seed 1 --threads 1 --no-commit")]
struct Arguments {
    /// The TorchScript module
    #[arg(long, value_name = "FILE")]
    module: PathBuf,
    /// The private data, a safetensors file
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The model's file, where the folder has several safetensors files; can be given often
    #[arg(long, value_name = "FILE")]
    model: Vec<PathBuf>,
    /// The tensor of inputs in the data
    #[arg(long, value_name = "NAME", default_value = "inputs")]
    inputs: String,
    /// The tensor of targets in the data
    #[arg(long, value_name = "NAME", default_value = "targets")]
    targets: String,
    /// Passes over the data
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: u64,
    /// Examples in a batch
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(i64).range(1..=1 << 30))]
    batch_size: i64,
    /// The learning rate
    #[arg(long, value_name = "RATE", default_value_t = 0.01, value_parser = positive)]
    lr: f64,
    /// How weights are changed
    #[arg(long, value_enum, default_value_t = Optimizer::Sgd)]
    optimizer: Optimizer,
    /// The momentum of sgd
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    momentum: f64,
    /// The weight decay [default: 0; of adamw 0.01]
    #[arg(long, value_name = "FACTOR", value_parser = positive)]
    weight_decay: Option<f64>,
    /// What is made small: cross-entropy of classes, mse of numbers, bce of yes and no
    #[arg(long, value_enum, default_value_t = Loss::CrossEntropy, hide_possible_values = true)]
    loss: Loss,
    /// Gives the order of examples and all else that is random; with --threads 1 the same weights each time
    /// [default: another each time]
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// The share of examples to measure on and not to train on: the same ones each time
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    hold_out: f64,
    /// Threads that compute [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1024))]
    threads: Option<i32>,
    /// What was done, for the commit [default: how many epochs]
    #[arg(short, long)]
    message: Option<String>,
    /// Write the trained weights to the model's file, and commit nothing
    #[arg(long)]
    no_commit: bool,
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
    let folder = Folder::find(Path::new("."), &arguments.model, &arguments.data)?;
    if !folder.working && !arguments.no_commit {
        return Err(Problem::file(
            &folder.root,
            "this is not in a working folder, so there is nothing to commit to",
        )
        .help("run this in a clone, or with --no-commit"));
    }
    if let Some(threads) = arguments.threads {
        tch::set_num_threads(threads);
    }
    let mut files = folder.open()?;
    let mut module = Module::load(&arguments.module)?;
    let own = module.fill(&mut files)?;
    if !own.is_empty() {
        arguments
            .output
            .say(&format!("As the module has them, for the model's file has not: {}", own.join(", ")));
    }
    let (inputs, targets) = (&arguments.inputs, &arguments.targets);
    let data = Data::load(&arguments.data, inputs, targets, module.kind()?, arguments.loss)?;
    let plan = plan(arguments);
    let stop = stop()?;
    let mut progress = Progress::default();
    let tell = |progress: &Progress| arguments.output.say(&line(progress, plan.epochs));
    let trained = train(&mut module, &data, &plan, &stop, &mut progress, tell);
    let done = trained.and_then(|()| finish(arguments, &folder, &module, &mut files, &plan, &progress));
    let done =
        done.map_err(
            |problem| {
                if progress.steps > 0 { kept(&folder, &module, &files, problem) } else { problem }
            },
        )?;
    arguments.output.result(&done.0, &done.1)
}

/// Writes the weights to the model's files and commits them; on an error, the files are as before.
fn finish(
    arguments: &Arguments,
    folder: &Folder,
    module: &Module,
    files: &mut [Weights],
    plan: &Plan,
    progress: &Progress,
) -> Result<(Value, String), Problem> {
    if module.same(files)? {
        return Err(Problem::new("training changed nothing: there is nothing to commit"));
    }
    let replaced = folder.replace(module, files)?;
    let mut told = json!({
        "epochs": progress.epochs, "steps": progress.steps, "examples": progress.examples, "seed": plan.seed,
        "loss": progress.loss, "held_out": progress.held, "tch": TCH, "libtorch": LIBTORCH,
    });
    let mut words = format!("Trained by tch {TCH}, libtorch {LIBTORCH}, seed {}", plan.seed);
    if arguments.no_commit {
        words.push_str("; nothing was committed");
    } else {
        let flair = Flair::new(&folder.root, arguments.repo.clone());
        let committing = commit(arguments, plan, progress);
        if arguments.output.json {
            told["committed"] = flair.ask(committing)?;
        } else {
            let quiet = arguments.output.quiet.then(|| "--quiet".into());
            flair.run(committing.into_iter().chain(quiet))?;
        }
    }
    replaced.accept()?;
    Ok((told, words))
}

/// The arguments of `flair commit`. Of the data they say how many there are, and how the model did on them.
fn commit(arguments: &Arguments, plan: &Plan, progress: &Progress) -> Vec<OsString> {
    let epochs = progress.epochs;
    let message = arguments.message.clone().unwrap_or_else(|| match epochs {
        1 => "1 epoch".to_owned(),
        _ => format!("{epochs} epochs"),
    });
    let mut words = vec!["commit".to_owned(), format!("--message={message}")];
    for (name, value) in [
        ("examples", progress.examples),
        ("steps", progress.steps),
        ("epochs", epochs),
        ("seed", u64::from(plan.seed)),
    ] {
        words.push(format!("--{name}={value}"));
    }
    let mut metric = |name: &str, value: Option<f64>, n: u64| {
        if let Some(value) = value {
            words.push(format!("--metric={name}={value}@{n}"));
        }
    };
    metric("train/loss", progress.loss, progress.examples);
    if let Some(held) = &progress.held {
        metric("val/loss", Some(held.loss), held.n);
        metric("val/accuracy", held.accuracy, held.n);
        metric("val/auc", held.auc, held.n);
    }
    words.into_iter().map(OsString::from).collect()
}

/// Keeps what was trained, and says where.
fn kept(folder: &Folder, module: &Module, files: &[Weights], problem: Problem) -> Problem {
    match folder.keep(module, files) {
        Ok(place) => problem.help(format!(
            "nothing was committed, and the model's file is as it was; the weights trained until here are kept in {}",
            place.display()
        )),
        Err(why) => problem.help(format!(
            "nothing was committed, and the model's file is as it was; the weights trained until here could not be kept: {why}"
        )),
    }
}

/// Set by Ctrl-C; a second one ends the program at once.
fn stop() -> Result<Arc<AtomicBool>, Problem> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| Problem::new(format!("signals can't be received: {error}")).exit(1))?;
    }
    debug_assert!(!stop.load(Ordering::Relaxed));
    Ok(stop)
}

fn plan(arguments: &Arguments) -> Plan {
    let usual = if arguments.optimizer == Optimizer::Adamw { 0.01 } else { 0.0 };
    Plan {
        epochs: arguments.epochs,
        batch: arguments.batch_size,
        optimizer: arguments.optimizer,
        rate: arguments.lr,
        momentum: arguments.momentum,
        decay: arguments.weight_decay.unwrap_or(usual),
        loss: arguments.loss,
        seed: arguments.seed.unwrap_or_else(random),
        hold_out: arguments.hold_out,
    }
}

/// A seed from what the standard library draws for its hash maps from the system's random source.
fn random() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(()) as u32
}

fn line(progress: &Progress, epochs: u64) -> String {
    let mut line = format!("epoch {}/{epochs}", progress.epochs);
    let mut figure = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            let _ = write!(line, "  {name} {value:.4}");
        }
    };
    figure("loss", progress.loss);
    if let Some(held) = &progress.held {
        figure("held out: loss", Some(held.loss));
        figure("accuracy", held.accuracy);
        figure("auc", held.auc);
    }
    line
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value: &f64| value.is_finite() && *value >= 0.0)
        .ok_or_else(|| "a number, 0 or more".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    positive(text)
        .ok()
        .filter(|value| *value < 1.0)
        .ok_or_else(|| "a number from 0 to less than 1".to_owned())
}
