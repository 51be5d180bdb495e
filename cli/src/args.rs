//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::command::{
    aggregate, audit, branch, bundle, checkout, clone, commit, completions, diff, du, evaluate, export,
    external, fetch, fsck, gc, id, import, init, join, list, log, man, member, merge, new, peers, policy,
    privacy, pull, push, reset, restore, revert, review, seed, show, simulate, status, ticket, unseed,
    verify,
};

/// Git for machine-learning models that people train together, without a server.
///
/// Each person trains on data that stays with them, pushes what training changed, and pulls what everybody's training
/// gave together. Commands work offline; `flair-node start` connects this machine with others.
#[derive(Parser)]
#[command(name = "flair", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "A first session:
  flair-node start                              # in a terminal of its own
  flair init model.safetensors --name digits -m \"before training\"
  flair ticket --role contributor --uses 3      # for three others
  flair clone flair…                            # on their machines
  flair commit -m \"2 epochs\" --examples 812 && flair push
  flair pull

Programs named flair-<word>, beside this one or on PATH, are commands too. `make trainer` builds
flair-train and flair-eval: training without Python, see `flair train --help`.

Exit codes: 0 done, 1 failed inside, 2 not usable, 3 not found, 4 not allowed, 5 not now, 6 needs a node
or peer, 7 disk full, 8 a check failed")]
pub(crate) struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Work as if started in this folder
    #[arg(short = 'C', global = true, value_name = "FOLDER")]
    pub(crate) directory: Option<PathBuf>,
    /// The repository, by id, start of an id, or name, when it is not that of the folder
    #[arg(long, global = true, value_name = "REPOSITORY")]
    pub(crate) repo: Option<String>,
    /// The folder with key, settings and store [default: ~/.flair]
    #[arg(long, global = true, value_name = "FOLDER", env = "FLAIR_HOME", hide_env_values = true)]
    pub(crate) home: Option<PathBuf>,
    /// Print JSON, problems too (on standard error)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print nothing but problems
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Also tell what the node does meanwhile
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    Import(import::Arguments),
    Init(init::Arguments),
    New(new::Arguments),
    Ticket(ticket::Arguments),
    Clone(clone::Arguments),
    Join(join::Arguments),
    Fetch(fetch::Arguments),
    Status(status::Arguments),
    Diff(diff::Arguments),
    Commit(commit::Arguments),
    Push(push::Arguments),
    Aggregate(aggregate::Arguments),
    Simulate(simulate::Arguments),
    Pull(pull::Arguments),
    Log(log::Arguments),
    Show(show::Arguments),
    Verify(verify::Arguments),
    Audit(audit::Arguments),
    Review(review::Arguments),
    Evaluate(evaluate::Arguments),
    Merge(merge::Arguments),
    Revert(revert::Arguments),
    Member(member::Arguments),
    Policy(policy::Arguments),
    Privacy(privacy::Arguments),
    Branch(branch::Arguments),
    Checkout(checkout::Arguments),
    Restore(restore::Arguments),
    Reset(reset::Arguments),
    List(list::Arguments),
    Seed(seed::Arguments),
    Unseed(unseed::Arguments),
    Id(id::Arguments),
    Peers(peers::Arguments),
    Export(export::Arguments),
    ExternalBase(external::Arguments),
    Bundle(bundle::Arguments),
    Du(du::Arguments),
    Gc(gc::Arguments),
    Fsck(fsck::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}
