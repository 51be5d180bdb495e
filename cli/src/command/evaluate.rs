//! `flair evaluate`

use flair_node::api::types::{
    Code, Done, EvaluateRequest, Evaluations, EvaluationsRequest, Measured, Problem, SealRequest, Sealed,
    ToEvaluate,
};
use flair_node::evaluate;
use serde::Serialize;

use crate::context::{Context, note};
use crate::measure::Measure;
use crate::render::{evaluation, short};

/// Measure a commit and its base on data that nobody else sees, and publish the figures
///
/// Which data, and how, is in .flair/config.toml of the working folder, which never leaves this machine:
///
///   [evaluate.holdout]
///   command = "python eval.py {model}"       # prints {"auc": 0.83, "n": 412}
///   data = "/data/holdout"                   # files or folders: hashed with a salt, never sent
///   better = { auc = "higher" }              # which metrics leave, and which way is better
///
/// The command runs as you, in the working folder, once on the commit's model and once on its base's (of an update what
/// it was trained from, of an aggregate its parent). {model} is the model's file, or its folder where it has several;
/// {folder} is always the folder. It prints JSON, as all it prints or on its last line: numbers by name, maps of numbers
/// as outer/inner, and `n` for the number of examples. `code` names the files that define the metrics, if the command
/// does not; `timeout` is in seconds, 3600 unless set.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
#[command(after_help = "Examples:
  flair evaluate 4f5a6b7c8d
  flair evaluate --pending            # all updates that wait, of others
  flair evaluate main --on holdout --dry-run")]
pub(crate) struct Arguments {
    /// A commit's id or its beginning, or a branch for its head
    #[arg(required_unless_present = "pending")]
    commit: Option<String>,
    /// All updates of others that wait on this branch and that you have not evaluated yet
    #[arg(long, conflicts_with = "commit")]
    pending: bool,
    /// The set of data, where .flair/config.toml has several
    #[arg(long, value_name = "NAME")]
    on: Option<String>,
    /// Measure, and publish nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// What was measured of one commit.
#[derive(Serialize)]
pub(crate) struct Evaluated {
    pub(crate) commit: String,
    pub(crate) by: String,
    pub(crate) base: Option<String>,
    pub(crate) set: String,
    pub(crate) n: u64,
    pub(crate) metrics: Vec<Measured>,
    pub(crate) data: String,
    pub(crate) code: Option<String>,
    pub(crate) published: bool,
    pub(crate) words: Vec<String>,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let mut measure = Measure::new(context, self.on.as_deref())?;
        let request =
            EvaluationsRequest { place: context.place(), commit: self.commit, set: measure.set.clone() };
        let asked: Evaluations = context.post("/v1/evaluations", &request).await?;
        if asked.commits.is_empty() {
            return context.print(&Vec::<Evaluated>::new(), |_| {
                format!("No update waits that you have not evaluated on {}", measure.set)
            });
        }
        let sealed = seal(context, &measure).await?;
        let mut done = Vec::new();
        for commit in asked.commits {
            match one(context, &mut measure, commit.clone(), sealed.clone(), self.dry_run).await {
                Ok(evaluated) => done.push(evaluated),
                // Of many, what is not here yet can wait.
                Err(problem) if self.pending && problem.code == Code::NotFound => {
                    note(&format!("{} was left out: {}", short(&commit.commit), problem.message));
                }
                Err(problem) => {
                    context.print(&done, |done| evaluation::evaluated(done))?;
                    return Err(problem);
                }
            }
        }
        context.print(&done, |done| evaluation::evaluated(done))
    }
}

/// Hashes of the data and the code.
async fn seal(context: &mut Context, measure: &Measure) -> Result<Sealed, Problem> {
    let request = SealRequest {
        place: context.place(),
        set: measure.set.clone(),
        data: measure.settings.data.all(&measure.root),
        code: measure.settings.code(&measure.root),
    };
    let sealed: Sealed = context.post("/v1/evaluate/seal", &request).await?;
    if sealed.code.is_none() {
        note(
            "No file defines the metrics: name it as `code` in .flair/config.toml, so that others see what was measured",
        );
    }
    Ok(sealed)
}

async fn one(
    context: &mut Context,
    measure: &mut Measure,
    commit: ToEvaluate,
    sealed: Sealed,
    dry_run: bool,
) -> Result<Evaluated, Problem> {
    let base = match &commit.base {
        Some(base) => Some(measure.commit(context, base).await?),
        None => None,
    };
    let model = measure.commit(context, &commit.commit).await?;
    let metrics = evaluate::compare(&measure.settings, &model, base.as_ref())?;
    let mut evaluated = Evaluated {
        commit: commit.commit,
        by: commit.by,
        base: commit.base,
        set: measure.set.clone(),
        n: model.n,
        metrics,
        data: sealed.data,
        code: sealed.code,
        published: false,
        words: vec!["Nothing was published.".to_owned()],
    };
    if !dry_run {
        let request = EvaluateRequest {
            place: context.place(),
            commit: evaluated.commit.clone(),
            set: evaluated.set.clone(),
            n: evaluated.n,
            metrics: evaluated.metrics.clone(),
            data: evaluated.data.clone(),
            code: evaluated.code.clone(),
        };
        let answer: Done = context.post("/v1/evaluate", &request).await?;
        (evaluated.published, evaluated.words) = (true, answer.words);
    }
    Ok(evaluated)
}
