//! `flair commit`

use std::path::PathBuf;

use flair_node::api::types::{CommitRequest, Committed, MetricValue, Problem};

use crate::context::Context;
use crate::metric;
use crate::render::work;

/// Keep what training changed as a draft
///
/// Drafts stay on this machine and unsigned until `flair push`. What is stated here leaves the machine with the push.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair commit -m \"site B, 2 epochs\" --examples 812 --metric val/loss=0.41
  flair commit -m \"overnight\" --examples 9000 --steps 4000 --metrics-from metrics.json
  flair commit -m \"trained in bf16\" --cast")]
pub(crate) struct Arguments {
    /// What was done
    #[arg(short, long)]
    message: String,
    /// Examples trained on: the weight of the update
    #[arg(long, value_name = "N")]
    examples: Option<u64>,
    /// Optimiser steps
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Passes over the data
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Random seed of the training
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// A measurement, with @N if measured on N examples; can be given often
    #[arg(long, value_name = "SPLIT/NAME=VALUE", value_parser = metric::parse)]
    metric: Vec<MetricValue>,
    /// A JSON file with measurements: {"val/loss": 0.41}
    #[arg(long, value_name = "FILE")]
    metrics_from: Option<PathBuf>,
    /// Convert dtypes to those of the branch
    #[arg(long)]
    cast: bool,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let mut metrics = match self.metrics_from {
            Some(path) => metric::read(&context.absolute(&path))?,
            None => Vec::new(),
        };
        metrics.extend(self.metric);
        let request = CommitRequest {
            place: context.place(),
            message: self.message,
            examples: self.examples,
            steps: self.steps,
            epochs: self.epochs,
            seed: self.seed,
            metrics,
            cast: self.cast,
        };
        let answer: Committed = context.post("/v1/commit", &request).await?;
        context.print(&answer, work::committed)
    }
}
