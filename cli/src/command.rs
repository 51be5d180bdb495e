//! A module for each command: its arguments, its request, what it prints.

pub(crate) mod aggregate;
pub(crate) mod audit;
pub(crate) mod branch;
pub(crate) mod bundle;
pub(crate) mod checkout;
pub(crate) mod clone;
pub(crate) mod commit;
pub(crate) mod completions;
pub(crate) mod diff;
pub(crate) mod du;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod external;
pub(crate) mod fetch;
pub(crate) mod fsck;
pub(crate) mod gc;
pub(crate) mod id;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod list;
pub(crate) mod log;
pub(crate) mod man;
pub(crate) mod member;
pub(crate) mod merge;
pub(crate) mod new;
pub(crate) mod peers;
pub(crate) mod policy;
pub(crate) mod privacy;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod reset;
pub(crate) mod restore;
pub(crate) mod revert;
pub(crate) mod review;
pub(crate) mod seed;
pub(crate) mod show;
pub(crate) mod simulate;
pub(crate) mod status;
pub(crate) mod ticket;
pub(crate) mod unseed;
pub(crate) mod verify;

use flair_node::api::types::Problem;

use crate::args::{Arguments, Command};
use crate::context::Context;

/// Runs a command to its end.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Problem> {
    let mut context = Context::new(&arguments)?;
    let result = ask(arguments.command, &mut context).await;
    context.release().await;
    result
}

async fn ask(command: Command, context: &mut Context) -> Result<(), Problem> {
    match command {
        Command::Aggregate(arguments) => arguments.run(context).await,
        Command::Audit(arguments) => arguments.run(context).await,
        Command::Branch(arguments) => arguments.run(context).await,
        Command::Bundle(arguments) => arguments.run(context).await,
        Command::Checkout(arguments) => arguments.run(context).await,
        Command::Clone(arguments) => arguments.run(context).await,
        Command::Commit(arguments) => arguments.run(context).await,
        Command::Diff(arguments) => arguments.run(context).await,
        Command::Du(arguments) => arguments.run(context).await,
        Command::Evaluate(arguments) => arguments.run(context).await,
        Command::Export(arguments) => arguments.run(context).await,
        Command::ExternalBase(arguments) => arguments.run(context).await,
        Command::Fetch(arguments) => arguments.run(context).await,
        Command::Fsck(arguments) => arguments.run(context).await,
        Command::Gc(arguments) => arguments.run(context).await,
        Command::Id(arguments) => arguments.run(context).await,
        Command::Import(arguments) => arguments.run(context).await,
        Command::Init(arguments) => arguments.run(context).await,
        Command::Join(arguments) => arguments.run(context).await,
        Command::List(arguments) => arguments.run(context).await,
        Command::Log(arguments) => arguments.run(context).await,
        Command::Member(arguments) => arguments.run(context).await,
        Command::Merge(arguments) => arguments.run(context).await,
        Command::New(arguments) => arguments.run(context),
        Command::Peers(arguments) => arguments.run(context).await,
        Command::Policy(arguments) => arguments.run(context).await,
        Command::Privacy(arguments) => arguments.run(context).await,
        Command::Pull(arguments) => arguments.run(context).await,
        Command::Push(arguments) => arguments.run(context).await,
        Command::Reset(arguments) => arguments.run(context).await,
        Command::Restore(arguments) => arguments.run(context).await,
        Command::Revert(arguments) => arguments.run(context).await,
        Command::Review(arguments) => arguments.run(context).await,
        Command::Seed(arguments) => arguments.run(context).await,
        Command::Show(arguments) => arguments.run(context).await,
        Command::Simulate(arguments) => arguments.run(context).await,
        Command::Status(arguments) => arguments.run(context).await,
        Command::Ticket(arguments) => arguments.run(context).await,
        Command::Unseed(arguments) => arguments.run(context).await,
        Command::Verify(arguments) => arguments.run(context).await,
        Command::Completions(arguments) => arguments.run(),
        Command::Man(arguments) => arguments.run(context),
    }
}

/// What a person calls themselves.
#[derive(clap::Args)]
pub(crate) struct Person {
    /// What others will call this person [default: the user's name]
    #[arg(long, value_name = "NAME")]
    person: Option<String>,
}

impl Person {
    fn name(self) -> String {
        self.person.or_else(|| std::env::var("USER").ok()).filter(|name| !name.is_empty()).unwrap_or_default()
    }
}
